"""How active each feature of a crosscoder is, by the share that RLVR has in it."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, flags, need, numbers, rows_with, take
from mastlens.plots.template import COLOURWAY, MUTED

_COLUMNS = ("split", "feature", "share", "active", "active_null", "active_distinguishable")


@honest
def plot_crosscoder(table: pd.DataFrame, split: str | None = None, *, subtitle: str = "") -> Figure:
    """Draw the features of a crosscoder: left SFT's, right RLVR's, in the middle those that both have.

    Args:
        table: ``inside_crosscoder.parquet``.
        split: Which split; the first by default.
        subtitle: Model, revision, dtype, seed.

    Raises:
        MastlensError: If the table has no such split, or lacks a column.
    """
    need(table, list(_COLUMNS), figure="plot_crosscoder", writer="mastlens inside crosscoder")
    splits = distinct(table, "split")
    if split is not None and split not in splits:
        raise unknown("split", split, splits)
    chosen = splits[0] if split is None else split
    drawn = rows_with(take(table, list(_COLUMNS)), "split", chosen).reset_index(drop=True)
    known = flags(drawn, "active_distinguishable")
    fig = go.Figure()
    for told, name, colour in ((False, "as random changes do", MUTED), (True, "beyond random changes", COLOURWAY[0])):
        part = known == told
        if not part.any():
            continue
        fig.add_trace(
            go.Scatter(
                x=numbers(drawn, "share")[part],
                y=numbers(drawn, "active")[part],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 8, "symbol": "circle" if told else "circle-open"},
                customdata=np.stack([numbers(drawn, "feature"), numbers(drawn, "active_null")], axis=1)[part],
                hovertemplate="feature %{customdata[0]:.0f}<br>RLVR's share %{x:.3f}<br>%{y:.4g}; random changes "
                "%{customdata[1]:.4g}<extra></extra>",
            )
        )
    fig.update_xaxes(title_text="RLVR's share of the decoder (0: SFT alone, 1: RLVR alone)", range=[-0.03, 1.03])
    fig.update_yaxes(title_text="mean activation (units of the states)")
    count = int(known.sum())
    said = f"{plain(chosen)}: {count or 'none'} of {len(drawn):,} features"
    return finish(
        fig,
        drawn,
        title=f"{said} {'is' if count <= 1 else 'are'} active in another measure than by random changes",
        subtitle=subtitle,
        note="Filled: more or less active than where RLVR is a random change of its size (at most 5 % of them by "
        "chance, Benjamini-Hochberg).",
        legend_rows=1,
        min_width=480,
    )
