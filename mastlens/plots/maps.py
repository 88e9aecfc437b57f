"""Maps over layers and projections: any column of a table, a panel an increment, beside its null."""

from typing import Any

import numpy as np
import pandas as pd
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain, short
from mastlens.plots.heat import (
    BAR_SPACE,
    KEYS,
    CellGrid,
    add_hatch,
    add_hatch_key,
    add_map,
    add_ring_key,
    color_bar,
    color_scale,
    hover_text,
    once_per_cell,
)
from mastlens.plots.honest import honest
from mastlens.plots.measures import INCREMENTS, increments_of, label_of, null_of
from mastlens.plots.tables import flags, need, numbers, records, rows_with, take, words
from mastlens.statistics import BELOW, beyond_chance, claim, verdict_columns


@honest
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
    across: str = "projection",
    note: str = "",
    writer: str = "mastlens geometry, mastlens couple or mastlens rank",
) -> Figure:
    """Draw one column of a table as a map over layers and projections, one panel an increment, equal colours.

    Args:
        table: One row per tensor, and increment where there are several, with ``layer``, ``projection``, ``name``
            and the value.
        value: The column to draw.
        null: What chance would give. By default the table's own ``X_null`` and ``X_distinguishable``, where it has
            them. One column: cells within ``null_tolerance`` of it, relative to it, are marked. Two columns: cells
            between them (low and high) are marked.
        null_tolerance: Relative distance to a single null below which a cell counts as chance.
        signed: Whether the colours are centred at zero; by default when there are negative values.
        label: What the value is called on the colour bar, with its unit; by default its entry in the column list.
        title: The point in plain words; by default the largest value and how many cells are chance.
        subtitle: Model, revision, dtype, seed.
        across: What the columns are, where they are no projections.
        note: How to read the marks; by default which null they are of.
        writer: What writes such a table, for the error message.
    """
    own_null, told = null_of(value, map(str, table.columns)) if null is None else (None, None)
    nulls = [null] if isinstance(null, str) else list(null or ())
    extra = [*nulls, *(column for column in (own_null, told) if column is not None)]
    extra += [c for c in verdict_columns(value, table.columns) if told is not None and c not in extra]
    need(table, [*KEYS, value, *extra], figure="plot_score_map", writer=writer)
    several = "increment" in table.columns
    drawn = take(table, [*(["increment"] if several else []), *KEYS, value, *extra])
    increments = increments_of(words(drawn, "increment")) if several else [""]
    values = numbers(drawn, value)
    signed = bool((values < 0).any()) if signed is None else signed
    label = label or label_of(value)
    lines = {plain(label): f"{{{value}:.5g}}"}
    lines |= _mark(drawn, value, nulls, own_null, told, null_tolerance)
    marked = "within_null" in drawn.columns
    below = (drawn["note"] == BELOW).to_numpy() if "note" in drawn else np.zeros(len(drawn), dtype=bool)
    if below.any():
        drawn["below_floor"] = below
        if marked:
            drawn["within_null"] &= ~below

    grid = CellGrid.of(drawn)
    names = [f"{INCREMENTS.get(name, plain(name))} increment" for name in increments] if len(increments) > 1 else None
    fig = make_subplots(1, len(increments), subplot_titles=names, horizontal_spacing=0.08)
    for col, increment in enumerate(increments, start=1):
        part = rows_with(drawn, "increment", increment) if several else drawn
        once_per_cell(part, "plot_score_map")
        add_map(
            fig,
            part,
            numbers(part, value),
            grid=grid,
            hover=hover_text(part, lines),
            coloraxis="coloraxis",
            texts=[short(number) for number in numbers(part, value)],
            ringed=flags(part, "within_null") if marked else None,
            col=col,
            layer_title=col == 1,
        )
        fig.update_xaxes(title_text=across, row=1, col=col)
        if below.any():
            add_hatch(fig, grid, part, flags(part, "below_floor"), col=col)
    fig.update_layout(coloraxis=color_scale(values, signed=signed))
    color_bar(fig, "coloraxis", grid=grid, title=plain(label), to_col=len(increments))
    if marked:
        add_ring_key(fig, "cannot be told from its null")
    if below.any():
        add_hatch_key(fig)
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, value, label, marked, told is not None),
        subtitle=subtitle,
        note=note or _note(nulls, told, null_tolerance),
        plot_height=grid.height,
        legend_rows=int(marked or bool(below.any())),
        panel_titles=names is not None,
        bottom=BAR_SPACE,
        min_width=360 if len(increments) == 1 else 620,
    )


def _mark(
    drawn: pd.DataFrame, value: str, nulls: list[str], own: str | None, told: str | None, tolerance: float
) -> dict[str, str]:
    """Add ``within_null`` where a null is known, and return the lines that tell it to the pointer."""
    values = numbers(drawn, value)
    if len(nulls) == 1:
        expected = numbers(drawn, nulls[0])
        drawn["within_null"] = np.abs(values - expected) <= tolerance * np.abs(expected)
        return {"by chance": f"{{{nulls[0]}:.5g}}"}
    if nulls:
        low, high = (numbers(drawn, column) for column in nulls)
        drawn["within_null"] = (low <= values) & (values <= high)
        return {"by chance": f"{{{nulls[0]}:.5g}} to {{{nulls[1]}:.5g}}"}
    if told is not None:
        drawn["within_null"] = ~beyond_chance(drawn, value) & np.isfinite(values)
    return {"by chance": f"{{{own}:.5g}}"} if own is not None else {}


def _note(nulls: list[str], told: str | None, tolerance: float) -> str:
    if len(nulls) == 1:
        return f"○: within {tolerance:.0%} of what chance gives."
    if nulls:
        return "○: within the band that chance gives."
    if told is None:
        return ""
    if told.endswith("_above_chance"):
        return "○: not beyond what random directions of that many entries give, at 5 % over the table."
    return "○: a random increment of that shape gives such a value (two-sided, p ≥ 0.001 for each cell)."


def _title(drawn: pd.DataFrame, value: str, label: str, marked: bool, judged: bool) -> str:
    title = label.split(" (")[0]
    title = title[:1].upper() + title[1:]
    inside = flags(drawn, "within_null") if marked else np.zeros(len(drawn), dtype=bool)
    below = flags(drawn, "below_floor") if "below_floor" in drawn else np.zeros(len(drawn), dtype=bool)
    found = claim(drawn, value) if judged else None
    if found is not None:
        title += f": {found.sentence('cell')}"
    named = np.where(
        (inside & judged) | below, np.nan, numbers(drawn, value)
    )  # only what is beyond chance, where that is judged
    if (found is None or found.holds) and np.isfinite(named).any():
        top: dict[str, Any] = records(drawn)[int(np.nanargmax(np.abs(named)))]
        title += f"{':' if found is None else ','} largest in layer {top['layer']}, {top['projection']} "
        title += f"({short(float(top[value]))}"
        several = "increment" in top and len(set(words(drawn, "increment"))) > 1
        title += f", {INCREMENTS.get(top['increment'], top['increment'])})" if several else ")"
    if marked and found is None:
        title += f"; {int(inside.sum())} of {count(len(drawn), 'cell')} cannot be told from chance"
    return title
