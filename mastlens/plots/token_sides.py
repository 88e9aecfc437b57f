"""One prompt's responses before and after an edit, or a typed text, token by token: as coloured text and as bars."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.cells import escaped
from mastlens.plots.figure import Figure, TextFigure
from mastlens.plots.frame import count, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, flags, need, numbers, ordered, records, rows_with, words
from mastlens.plots.template import DIVERGING, INK, MUTED, PAPER, RULE
from mastlens.plots.tokens import legend_of, scale_end, signed_nats, token_span

_COLUMNS = ("side", "position", "token", "logprob_before", "logprob_after", "difference", "shared")
_CALLED = {"source": "the source's response", "edited": "the edited model's response", "text": "the text"}
_MARKS = {"source": "text-decoration:line-through", "edited": "text-decoration:underline;font-weight:700"}
_WRITER = "mastlens.view_tokens"
_MOST = 5000  # tokens of a text
_NAMED_TOKENS = 60  # tokens of which every one is written on the axis


@honest
def token_sides_html(tokens: pd.DataFrame, *, said: str = "") -> TextFigure:
    """Return the texts side by side, every token coloured by its difference; below each other where there is no room.

    Blue is less likely under the edited model, orange more, in one range for both sides. What only the source wrote is
    struck through, what only the edited model wrote underlined. All text is escaped; no script is needed.

    Args:
        tokens: The table of a ``TokenView``.
        said: The prompt, shown above.
    """
    need(tokens, _COLUMNS, figure="token_sides_html", writer=_WRITER)
    sides = distinct(tokens, "side")
    end = scale_end(numbers(tokens, "difference"))
    panes = "".join(_pane(ordered(rows_with(tokens, "side", side), "position"), side, end) for side in sides)
    prompt = (
        f'<p style="margin:0 0 8px;white-space:pre-wrap;overflow-wrap:anywhere">{escaped(said)}</p>\n' if said else ""
    )
    key = "struck through: only the source wrote it; underlined: only the edited model" if len(sides) > 1 else ""
    html = (
        f'<figure class="tokens" style="margin:0;color:{INK};background:{PAPER}">\n'
        f"<figcaption>{escaped(_title(tokens, sides))}</figcaption>\n{prompt}"
        f"{legend_of(DIVERGING, f'−{end:.2g}', f'+{end:.2g} nats, edited − source')}"
        f'<p style="margin:0 0 8px;color:{MUTED}">{key}</p>\n'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px 16px">{panes}</div>\n</figure>\n'
    )
    return TextFigure(html, tokens)


def _pane(part: pd.DataFrame, side: str, end: float) -> str:
    spans = []
    for row in records(part.head(_MOST)):
        mark = "" if row["shared"] else _MARKS.get(side, "")
        spans.append(token_span(row, end, mark))
    rest = f" ... {len(part) - _MOST:,} more tokens" * (len(part) > _MOST)
    heading = (
        f"{_CALLED.get(side, side)}: {signed_nats(numbers(part, 'difference').sum())} nats in all, "
        f"{count(len(part), 'token')}"
    )
    return (
        f'<div style="flex:1 1 18rem;min-width:0;padding:8px 10px;border-left:3px solid {RULE}">'
        f'<p style="margin:0 0 4px;color:{MUTED}">{escaped(heading)}</p>\n'
        f'<p style="margin:0;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7">{"".join(spans)}{rest}</p>'
        "</div>\n"
    )


@honest
def plot_token_sides(tokens: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw every token's difference of log-probability, a panel a side, in one range.

    Args:
        tokens: The table of a ``TokenView``.
        title: The point in plain words; by default what each text became as a whole.
        subtitle: Model, edit.
    """
    need(tokens, _COLUMNS, figure="plot_token_sides", writer=_WRITER)
    sides = distinct(tokens, "side")
    called = [_CALLED.get(side, plain(side)) for side in sides]
    ranges: Any = "all"  # one for both sides; plotly's type knows nothing of it
    fig = make_subplots(len(sides), 1, subplot_titles=called, shared_yaxes=ranges, vertical_spacing=0.3)
    for row, side in enumerate(sides, start=1):
        part = ordered(rows_with(tokens, "side", side), "position").head(_MOST)
        differences = numbers(part, "difference")
        colours = np.where(differences < 0, DIVERGING[0][1], DIVERGING[-1][1])
        marked: dict[str, Any] = {"shape": ["" if shared else "/" for shared in flags(part, "shared")], "solidity": 0.4}
        levels = zip(numbers(part, "logprob_before"), numbers(part, "logprob_after"), strict=True)
        said = [f"{signed_nats(float(before))} to {signed_nats(float(after))} nats" for before, after in levels]
        tokens_said = zip(words(part, "token"), said, strict=True)
        fig.add_trace(
            go.Bar(
                x=list(range(len(part))),
                y=differences,
                marker={"color": colours.tolist(), "pattern": marked},
                customdata=[f"{plain(token)}<br>{levels}" for token, levels in tokens_said],
                hovertemplate="%{customdata}<br>difference %{y:+.4g}<extra></extra>",
                showlegend=False,
            ),
            row=row,
            col=1,
        )
        fig.update_yaxes(title_text="difference (nats)", row=row, col=1)
        axis: dict[str, Any] = {"title_text": "token"}
        if len(part) <= _NAMED_TOKENS:
            shown = [plain(token.replace("\n", "↵").strip() or "·") for token in words(part, "token")]
            axis |= {"tickvals": list(range(len(part))), "ticktext": shown, "tickangle": -60}
        fig.update_xaxes(**axis, row=row, col=1)
    note = "Orange: likelier under the edited model; blue: less likely."
    note += " Hatched: only this side wrote the token." if len(sides) > 1 else ""
    note += f" Of each text the first {_MOST:,} tokens are drawn." * (len(tokens) > _MOST * len(sides))
    return finish(
        fig,
        tokens,
        title=title or _title(tokens, sides),
        subtitle=subtitle,
        note=f"{note} One text: no interval, no null.",
        plot_height=280 * len(sides),
        panel_titles=True,
        bottom=96,
        min_width=560,
    )


def _title(tokens: pd.DataFrame, sides: list[str]) -> str:
    parts = [
        f"{_CALLED.get(side, side)} {signed_nats(numbers(rows_with(tokens, 'side', side), 'difference').sum())} nats"
        for side in sides
    ]
    return f"What the edit does to one text: {', '.join(parts)}"
