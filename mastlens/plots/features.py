"""Features of a dictionary that changed most between two models, with their intervals and what chance gives."""

import pandas as pd
import plotly.graph_objects as go

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.marks import interval_bars, told_symbols
from mastlens.plots.tables import distinct, flags, need, numbers, rows_with, take
from mastlens.plots.template import COLOURWAY, MUTED

_COLUMNS = ("split", "feature", "change", "change_low", "change_high", "change_null", "change_distinguishable")
_ROW = 22  # pixels of a feature


@honest
def plot_features(table: pd.DataFrame, split: str | None = None, top: int = 20, *, subtitle: str = "") -> Figure:
    """Draw the features whose mean activation changed most: those beyond chance first, by size.

    Args:
        table: ``inside_dictionary.parquet``.
        split: Which split; the first by default.
        top: Features at most.
        subtitle: Model, revision, dtype, seed.

    Raises:
        MastlensError: If the table has no such split, or lacks a column.
    """
    need(table, list(_COLUMNS), figure="plot_features", writer="mastlens inside dictionary")
    splits = distinct(table, "split")
    if split is not None and split not in splits:
        raise unknown("split", split, splits)
    chosen = rows_with(take(table, list(_COLUMNS)), "split", splits[0] if split is None else split)
    known = flags(chosen, "change_distinguishable")
    count = int(sum(known))
    order = chosen.assign(known=known, size=abs(numbers(chosen, "change")))
    order = order.sort_values(["known", "size"], ascending=False, kind="stable").head(max(1, top))
    drawn = order.drop(columns=["known", "size"]).reset_index(drop=True)
    x, null = numbers(drawn, "change"), numbers(drawn, "change_null")
    names = [f"{feature:.0f}" for feature in numbers(drawn, "feature")]
    symbols = told_symbols(drawn, "change_distinguishable")
    fig = go.Figure()
    fig.add_trace(
        go.Scatter(
            x=x,
            y=names,
            mode="markers",
            name="RLVR minus SFT",
            marker={"color": COLOURWAY[0], "size": 9, "symbol": symbols},
            error_x=interval_bars(drawn, "change", thickness=1.2),
            hovertemplate="feature %{y}<br>%{x:.4g}<extra></extra>",
        )
    )
    fig.add_trace(
        go.Scatter(
            x=null,
            y=names,
            mode="markers",
            name="random changes",
            marker={"color": MUTED, "size": 8, "symbol": "line-ns-open", "line": {"width": 2}},
            hovertemplate="feature %{y}<br>random changes %{x:.4g}<extra></extra>",
        )
    )
    fig.update_yaxes(type="category", autorange="reversed", title_text="feature")
    fig.update_xaxes(title_text="change of the mean activation (units of the dictionary)")
    said = f"{plain(splits[0] if split is None else split)}: {count or 'none'} of {len(chosen):,} features"
    return finish(
        fig,
        drawn,
        title=f"{said} {'is' if count <= 1 else 'are'} beyond chance",
        subtitle=subtitle,
        note="Bars: 95 % intervals over texts. Open: not beyond both random changes of RLVR's size and texts exchanged "
        "(at most 5 % of those beyond are so by chance, Benjamini-Hochberg).",
        plot_height=max(160, _ROW * len(drawn) + 60),
        legend_rows=1,
        min_width=480,
    )
