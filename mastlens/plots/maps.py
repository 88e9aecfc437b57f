"""Maps over layers and projections: any column of a table."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.frame import count, finish, plain, short
from mastlens.plots.heat import (
    BAR_SPACE,
    KEYS,
    Grid,
    add_map,
    add_ring_key,
    color_bar,
    color_scale,
    hover_text,
    once_per_cell,
)
from mastlens.plots.tables import flags, need, numbers, records, take


def plot_score_map(
    table: pd.DataFrame,
    value: str,
    *,
    null: str | tuple[str, str] | None = None,
    null_tolerance: float = 0.05,
    signed: bool | None = None,
    label: str | None = None,
    title: str | None = None,
    subtitle: str = "",
    writer: str = "mastlens geometry, mastlens couple or mastlens rank",
) -> go.Figure:
    """Draw one column of a table as a map over layers and projections.

    Args:
        table: One row per tensor, with ``layer``, ``projection``, ``name`` and the value.
        value: The column to draw.
        null: What chance would give. One column: cells within ``null_tolerance`` of it, relative to it, are
            marked. Two columns: cells between them (low and high) are marked.
        null_tolerance: Relative distance to a single null below which a cell counts as chance.
        signed: Whether the colours are centred at zero; by default when there are negative values.
        label: What the value is called on the colour bar, with its unit; by default the column's name.
        title: The point in plain words; by default the largest value and how many cells are chance.
        subtitle: Model, revision, dtype, seed.
        writer: What writes such a table, for the error message.
    """
    nulls = [null] if isinstance(null, str) else list(null or ())
    need(table, [*KEYS, value, *nulls], figure="plot_score_map", writer=writer)
    once_per_cell(table, "plot_score_map")
    drawn = take(table, [*KEYS, value, *nulls])
    values = numbers(drawn, value)
    signed = bool((values < 0).any()) if signed is None else signed
    label = label or value
    lines = {plain(label): f"{{{value}:.5g}}"}
    if len(nulls) == 1:
        expected = numbers(drawn, nulls[0])
        drawn["within_null"] = np.abs(values - expected) <= null_tolerance * np.abs(expected)
        lines["by chance"] = f"{{{nulls[0]}:.5g}}"
    elif nulls:
        low, high = (numbers(drawn, column) for column in nulls)
        drawn["within_null"] = (low <= values) & (values <= high)
        lines["by chance"] = f"{{{nulls[0]}:.5g}} to {{{nulls[1]}:.5g}}"

    grid = Grid.of(drawn)
    fig = make_subplots()
    add_map(
        fig,
        drawn,
        values,
        grid=grid,
        hover=hover_text(drawn, lines),
        coloraxis="coloraxis",
        texts=[short(number) for number in values],
        ringed=flags(drawn, "within_null") if nulls else None,
    )
    fig.update_layout(coloraxis=color_scale(values, signed=signed))
    color_bar(fig, "coloraxis", grid=grid, title=plain(label))
    if nulls:
        add_ring_key(fig, "cannot be told from its null")
    if title is None:
        title = label
        if np.isfinite(values).any():
            top = records(drawn)[int(np.nanargmax(np.abs(values)))]
            title += f" is largest in layer {top['layer']}, {top['projection']}"
        if nulls:
            chance = int(flags(drawn, "within_null").sum())
            title += f"; {chance} of {count(len(drawn), 'projection')} cannot be told from chance"
    return finish(
        fig,
        drawn,
        title=title,
        subtitle=subtitle,
        plot_height=grid.height,
        legend_rows=1 if nulls else 0,
        bottom=BAR_SPACE,
    )
