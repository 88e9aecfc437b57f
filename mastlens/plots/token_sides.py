"""One prompt's responses before and after an edit, or a typed text, token by token: as coloured text and as bars."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.errors import unknown
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


@dataclass(frozen=True)
class _Look:
    """What colours and bars are of.

    Attributes:
        by: The column.
        scale: What its values are multiplied by.
        axis: What a bar is, with its unit.
        legend: What the ends of the colours are, behind the number.
        note: How to read colours.
        writer: Which call makes the column.
        title: What both texts say at first glance.
        heading: What one text is as a whole.
    """

    by: str
    scale: float
    axis: str
    legend: str
    note: str
    writer: str
    title: Callable[[pd.DataFrame, list[str]], str]
    heading: Callable[[pd.DataFrame], str]


@honest
def token_sides_html(tokens: pd.DataFrame, *, said: str = "", by: str = "difference") -> TextFigure:
    """Return the texts side by side, every token coloured by its difference; below each other where there is no room.

    Blue is less likely under the edited model, orange more, in one range for both sides. What only the source wrote is
    struck through, what only the edited model wrote underlined. All text is escaped; no script is needed.

    Args:
        tokens: The table of a ``TokenView``.
        said: The prompt, shown above.
        by: ``difference``, or ``gradient_share``: orange is what makes the gradient, blue what pulls the other way.
    """
    look = _look(by)
    need(tokens, [*_COLUMNS, by], figure="token_sides_html", writer=look.writer)
    sides = distinct(tokens, "side")
    end = scale_end(numbers(tokens, by))
    panes = "".join(_pane(ordered(rows_with(tokens, "side", side), "position"), side, end, look) for side in sides)
    prompt = (
        f'<p style="margin:0 0 8px;white-space:pre-wrap;overflow-wrap:anywhere">{escaped(said)}</p>\n' if said else ""
    )
    key = "struck through: only the source wrote it; underlined: only the edited model" if len(sides) > 1 else ""
    html = (
        f'<figure class="tokens" style="margin:0;color:{INK};background:{PAPER}">\n'
        f"<figcaption>{escaped(look.title(tokens, sides))}</figcaption>\n{prompt}"
        f"{legend_of(DIVERGING, f'−{look.scale * end:.2g}', f'+{look.scale * end:.2g} {look.legend}')}"
        f'<p style="margin:0 0 8px;color:{MUTED}">{key}</p>\n'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px 16px">{panes}</div>\n</figure>\n'
    )
    return TextFigure(html, tokens)


def _pane(part: pd.DataFrame, side: str, end: float, look: "_Look") -> str:
    spans = []
    for row in records(part.head(_MOST)):
        mark = "" if row["shared"] else _MARKS.get(side, "")
        spans.append(token_span(row, end, mark, by=look.by))
    rest = f" ... {len(part) - _MOST:,} more tokens" * (len(part) > _MOST)
    heading = f"{_CALLED.get(side, side)}: {look.heading(part)}, {count(len(part), 'token')}"
    return (
        f'<div style="flex:1 1 18rem;min-width:0;padding:8px 10px;border-left:3px solid {RULE}">'
        f'<p style="margin:0 0 4px;color:{MUTED}">{escaped(heading)}</p>\n'
        f'<p style="margin:0;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7">{"".join(spans)}{rest}</p>'
        "</div>\n"
    )


@honest
def plot_token_sides(
    tokens: pd.DataFrame, *, by: str = "difference", title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw every token's difference of log-probability, a panel a side, in one range.

    Args:
        tokens: The table of a ``TokenView``.
        by: ``difference``, or ``gradient_share``.
        title: The point in plain words; by default what each text became as a whole.
        subtitle: Model, edit.
    """
    look = _look(by)
    need(tokens, [*_COLUMNS, by], figure="plot_token_sides", writer=look.writer)
    sides = distinct(tokens, "side")
    called = [_CALLED.get(side, plain(side)) for side in sides]
    ranges: Any = "all"  # one for both sides; plotly's type knows nothing of it
    fig = make_subplots(len(sides), 1, subplot_titles=called, shared_yaxes=ranges, vertical_spacing=0.3)
    for row, side in enumerate(sides, start=1):
        part = ordered(rows_with(tokens, "side", side), "position").head(_MOST)
        differences = look.scale * numbers(part, by)
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
                hovertemplate="%{customdata}<br>" + look.axis + " %{y:+.4g}<extra></extra>",
                showlegend=False,
            ),
            row=row,
            col=1,
        )
        fig.update_yaxes(title_text=look.axis, row=row, col=1)
        axis: dict[str, Any] = {"title_text": "token"}
        if len(part) <= _NAMED_TOKENS:
            shown = [plain(token.replace("\n", "↵").strip() or "·") for token in words(part, "token")]
            axis |= {"tickvals": list(range(len(part))), "ticktext": shown, "tickangle": -60}
        fig.update_xaxes(**axis, row=row, col=1)
    note = look.note
    note += " Hatched: only this side wrote the token." if len(sides) > 1 else ""
    note += f" Of each text the first {_MOST:,} tokens are drawn." * (len(tokens) > _MOST * len(sides))
    return finish(
        fig,
        tokens,
        title=title or look.title(tokens, sides),
        subtitle=subtitle,
        note=f"{note} One text: no interval, no null.",
        plot_height=280 * len(sides),
        panel_titles=True,
        bottom=96,
        min_width=560,
    )


def _nats(part: pd.DataFrame) -> str:
    return f"{signed_nats(numbers(part, 'difference').sum())} nats in all"


def _half(part: pd.DataFrame) -> str:
    """Return how few tokens make half of a text's gradient."""
    shares = np.sort(numbers(part, "gradient_share"))[::-1]
    if not np.isfinite(shares).all():
        return "no gradient"
    few = int(np.searchsorted(np.cumsum(shares), 0.5 - 1e-9)) + 1
    return f"half of its gradient from {few} of {count(len(part), 'token')}"


def _gradient_title(tokens: pd.DataFrame, sides: list[str]) -> str:
    parts = [f"{_CALLED.get(side, side)} has {_half(rows_with(tokens, 'side', side))}" for side in sides]
    return f"Where the gradient of one text comes from: {', '.join(parts)}"


def _title(tokens: pd.DataFrame, sides: list[str]) -> str:
    parts = [
        f"{_CALLED.get(side, side)} {signed_nats(numbers(rows_with(tokens, 'side', side), 'difference').sum())} nats"
        for side in sides
    ]
    return f"What the edit does to one text: {', '.join(parts)}"


def _look(by: str) -> _Look:
    if by not in _LOOKS:
        raise unknown("column to colour tokens by", by, _LOOKS)
    return _LOOKS[by]


_LOOKS = {
    look.by: look
    for look in (
        _Look(
            by="difference",
            scale=1.0,
            axis="difference (nats)",
            legend="nats, edited − source",
            note="Orange: likelier under the edited model; blue: less likely.",
            writer=_WRITER,
            title=_title,
            heading=_nats,
        ),
        _Look(
            by="gradient_share",
            scale=100.0,
            axis="share of the gradient (%)",
            legend="% of the gradient of its text",
            note="Share of the source's loss gradient in the edited tensors; those of a text add up to 100 %. "
            "Blue: pulls the other way.",
            writer=f"{_WRITER}(..., gradient=True)",
            title=_gradient_title,
            heading=_half,
        ),
    )
}
