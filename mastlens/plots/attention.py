"""Attention patterns before and after a change: small multiples by head, and the difference."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.frame import count, finish, plain, short
from mastlens.plots.honest import honest
from mastlens.plots.tables import need, need_unique, numbers, records, where
from mastlens.plots.template import DIVERGING, SEQUENTIAL

_ROWS = ("before", "after", "difference")
_SIDE = 150  # pixels of a panel's side
_WORDS = 40  # tokens that still fit on an axis


@honest
def plot_attention(
    patterns: pd.DataFrame,
    *,
    change: str = "the edit",
    problems: int = 1,
    heads: int | None = None,
    title: str | None = None,
    subtitle: str = "",
) -> go.Figure:
    """Draw what each head attends to before and after a change, and the difference around 0.

    Before and after have one range of colours in all heads; so have the differences.

    Args:
        patterns: One row a head, query and key: ``layer``, ``head``, ``query``, ``key``, ``before``, ``after``; with
            ``query_token`` and ``key_token`` for one problem, tokens stand on the axes.
        change: What was changed.
        problems: How many problems the patterns are the mean of.
        heads: How many heads the layer has, where the table holds only those that changed most.
        title: The point in plain words; by default the head from which most attention moved.
        subtitle: Model, revision, dtype, seed.
    """
    need(patterns, ["layer", "head", "query", "key", "before", "after"], figure="plot_attention", writer="the explorer")
    need_unique(patterns, ["layer", "head", "query", "key"], figure="plot_attention")
    drawn = patterns.assign(difference=numbers(patterns, "after") - numbers(patterns, "before"))
    shown = sorted({int(head) for head in drawn["head"]})
    stacks = {head: _stack(where(drawn, numbers(drawn, "head") == head)) for head in shown}
    size = next(iter(stacks.values()))["before"].shape[0]
    moved = {head: float(np.nansum(np.abs(s["difference"])) / size / 2) for head, s in stacks.items()}
    fig = make_subplots(
        len(_ROWS),
        len(shown),
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.12 / max(len(shown), 2),
        vertical_spacing=0.05,
        column_titles=[f"head {head}<br>{_percent(moved[head])} moved" for head in shown],
    )
    most = max(float(np.nanmax([np.nanmax(s["before"]), np.nanmax(s["after"])])) for s in stacks.values())
    end = max(float(np.nanmax(np.abs(s["difference"]))) for s in stacks.values()) or 1e-6
    named = {"query_token", "key_token"} <= set(drawn.columns)
    words = _words(drawn, size) if named else None
    for col, head in enumerate(shown, start=1):
        for row, part in enumerate(_ROWS, start=1):
            sign = "+" if part == "difference" else ""
            fig.add_trace(
                go.Heatmap(
                    z=stacks[head][part],
                    coloraxis="coloraxis2" if part == "difference" else "coloraxis",
                    hoverongaps=False,
                    text=_pairs(words) if words else None,
                    hovertemplate=f"head {head}, {part}<br>"
                    + ("%{text}" if words else "query %{y}, key %{x}")
                    + f"<br>%{{z:{sign}.4f}}<extra></extra>",
                ),
                row=row,
                col=col,
            )
    ticks = {}
    if words and size <= _WORDS:
        ticks = {"tickvals": list(range(size)), "ticktext": [plain(word) for word in words], "tickfont": {"size": 8}}
    fig.update_xaxes(showgrid=False, zeroline=False, constrain="domain", **ticks)
    fig.update_yaxes(range=[size - 0.5, -0.5], showgrid=False, zeroline=False, **ticks)
    if ticks:
        fig.update_xaxes(tickangle=90)
    for row, part in enumerate(_ROWS, start=1):
        fig.update_yaxes(title_text=f"{part}<br>query", row=row, col=1)
    fig.update_xaxes(title_text="key", row=len(_ROWS))
    side = 3 * _SIDE
    fig.update_layout(
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": most, "colorbar": _bar("attention", 0.675, 0.62)},
        coloraxis2={
            "colorscale": DIVERGING,
            "cmin": -end,
            "cmax": end,
            "cmid": 0,
            "colorbar": _bar("difference", 0.145, 0.29),
        },
    )
    layer = records(drawn)[0]["layer"]
    top = max(shown, key=lambda head: moved[head])
    what = f"the mean of {count(problems, 'problem')}" if problems > 1 else "one problem"
    left_out = f" Of {heads} heads the {len(shown)} whose pattern changed most." if heads and heads > len(shown) else ""
    return finish(
        fig,
        drawn,
        title=title or f"Layer {layer}: by {plain(change)}, head {top} moves {_percent(moved[top])} of its attention",
        subtitle=subtitle,
        note=f"Rows: who looks (query); columns: at what (key); positions from 0, {what}. Moved: half the summed "
        f"absolute difference, mean over queries.{left_out}",
        plot_height=side,
        panel_titles=True,
        left=100 if ticks else 74,
        right=92,
        bottom=96 if ticks else 60,
        min_width=max(420, 104 * (len(shown) + 1)),
    )


def _percent(share: float) -> str:
    return f"{short(100 * share)} %" if share else "0 %"


def _bar(title: str, y: float, length: float) -> dict:
    return {
        "title": {"text": title, "side": "top", "font": {"size": 12}},
        "thickness": 10,
        "outlinewidth": 0,
        "x": 1.01,
        "xanchor": "left",
        "y": y,
        "len": length,
        "tickfont": {"size": 11},
    }


def _stack(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return before, after and difference of one head as (query, key); what it cannot see is NaN."""
    query, key = (numbers(rows, column).astype(int) for column in ("query", "key"))
    size = int(query.max()) + 1
    found = {}
    for part in _ROWS:
        found[part] = np.full((size, size), np.nan)
        found[part][query, key] = numbers(rows, part)
    return found


def _words(drawn: pd.DataFrame, size: int) -> list[str]:
    """Return the token at each position, blanks made visible."""
    rows = records(drawn.drop_duplicates("query"))
    tokens = {int(row["query"]): str(row["query_token"]) for row in rows}
    return [tokens.get(i, "").replace("\n", "⏎").replace(" ", "·") or "∅" for i in range(size)]


def _pairs(words: list[str]) -> list[list[str]]:
    return [[f"{i} {plain(query)} → {j} {plain(key)}" for j, key in enumerate(words)] for i, query in enumerate(words)]
