"""What paths between components carry, with their intervals, their null, and what another text would carry."""

import pandas as pd
import plotly.graph_objects as go

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.marks import interval_bars, told_symbols
from mastlens.plots.measures import label_of
from mastlens.plots.tables import distinct, need, numbers, rows_with, take, words
from mastlens.plots.template import COLOURWAY, MUTED
from mastlens.statistics import claim

_COLUMNS = ("split", "direction", "sender", "receiver", "effect", "effect_low", "effect_high", "effect_null")
_ROW = 22  # pixels of a path


@honest
def plot_paths(
    table: pd.DataFrame, direction: str = "restore", split: str | None = None, top: int = 20, *, subtitle: str = ""
) -> Figure:
    """Draw the paths whose exchange changes most, by size.

    Args:
        table: ``inside_path.parquet``.
        direction: ``restore`` (SFT's put into RLVR) or ``insert``.
        split: Which split; the first by default.
        top: Paths at most.
        subtitle: Model, revision, dtype, seed.

    Raises:
        MastlensError: If the table has no such direction or split, or lacks a column.
    """
    need(table, [*_COLUMNS, "effect_distinguishable", "resampled"], figure="plot_paths", writer="mastlens inside path")
    for name, value in (("direction", direction), ("split", split)):
        if value is not None and value not in distinct(table, name):
            raise unknown(name, value, distinct(table, name))
    extra = [one for one in ("effect_p",) if one in table]
    every = take(table, [*_COLUMNS, "effect_distinguishable", "resampled", *extra])
    chosen = rows_with(rows_with(every, "direction", direction), "split", split or distinct(table, "split")[0])
    order = chosen.assign(size=abs(numbers(chosen, "effect"))).sort_values("size", ascending=False, kind="stable")
    drawn = order.head(max(1, top)).drop(columns="size").reset_index(drop=True)
    names = [f"{plain(a)} → {plain(b)}" for a, b in zip(words(drawn, "sender"), words(drawn, "receiver"), strict=True)]
    x = numbers(drawn, "effect")
    symbols = told_symbols(drawn, "effect_distinguishable")
    fig = go.Figure()
    fig.add_trace(
        go.Scatter(
            x=x,
            y=names,
            mode="markers",
            name="exchanged",
            marker={"color": COLOURWAY[0], "size": 9, "symbol": symbols},
            error_x=interval_bars(drawn, "effect", thickness=1.2),
            hovertemplate="%{y}<br>%{x:.4g}<extra></extra>",
        )
    )
    for column, name, colour, symbol in (
        ("effect_null", "random changes", MUTED, "line-ns-open"),
        ("resampled", "another text", COLOURWAY[1], "x-thin-open"),
    ):
        fig.add_trace(
            go.Scatter(
                x=numbers(drawn, column),
                y=names,
                mode="markers",
                name=name,
                marker={"color": colour, "size": 8, "symbol": symbol, "line": {"width": 2}},
                hovertemplate=f"%{{y}}<br>{name} %{{x:.4g}}<extra></extra>",
            )
        )
    fig.update_yaxes(type="category", autorange="reversed")
    fig.update_xaxes(title_text=plain(label_of("effect")))
    return finish(
        fig,
        drawn,
        title=f"What paths carry: {claim(chosen, 'effect').sentence('path')}",
        subtitle=subtitle,
        note="Bars: 95 % intervals over problems. Another text: the sender's activation where the same model reads the "
        "next text. Open: not beyond random changes of RLVR's size (two-sided, p ≥ 0.001 for each).",
        plot_height=max(160, _ROW * len(drawn) + 60),
        legend_rows=1,
        left=min(260, 24 + 7 * max(map(len, names), default=0)),
        min_width=480,
    )
