"""Maps head by head: any column of a table that has a row a head, one panel a projection, beside its null."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from plotly.subplots import make_subplots

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain, short
from mastlens.plots.heat import BAR_SPACE, KEYS, CellGrid, add_map, add_ring_key, color_bar, color_scale, hover_text
from mastlens.plots.honest import honest
from mastlens.plots.measures import INCREMENTS, label_of, null_of
from mastlens.plots.tables import distinct, flags, need, need_unique, numbers, records, rows_with, take
from mastlens.statistics import beyond_chance, claim, verdict_columns

_WIDEST = 1500  # pixels that the heads of all panels share, as long as each has three
_NAMES = {"k": "k groups", "v": "v groups"}


@honest
def plot_head_map(
    heads: pd.DataFrame,
    value: str,
    *,
    increment: str = "rlvr",
    signed: bool | None = None,
    label: str | None = None,
    title: str | None = None,
    subtitle: str = "",
) -> Figure:
    """Draw one column head by head: one map a projection, layers down, heads across, equal colours.

    Args:
        heads: ``geometry_heads.parquet`` or ``coupling_heads.parquet``: one row a head, and increment.
        value: The column to draw. Its ``X_null`` and ``X_distinguishable`` are used where the table has them.
        increment: Which increment to draw, where there are several.
        signed: Whether the colours are centred at zero; by default when there are negative values.
        label: What the value is called on the colour bar, with its unit; by default its entry in the column list.
        title: The point in plain words; by default the largest head and how many cannot be told from chance.
        subtitle: Model, revision, dtype, seed.
    """
    figure = "plot_head_map"
    need(heads, [*KEYS, "head", value], figure=figure, writer="mastlens geometry --heads or mastlens couple")
    null, told = null_of(value, map(str, heads.columns))
    part = heads
    if "increment" in heads.columns:
        if increment not in (found := distinct(heads, "increment")):
            raise unknown("increment", increment, found)
        part = rows_with(heads, "increment", increment)
    read = [column for column in (null, told) if column is not None]
    read += [c for c in verdict_columns(value, part.columns) if told is not None and c not in read]
    drawn = take(part, [*KEYS, "head", value, *read])
    values = numbers(drawn, value)
    if told is not None:
        drawn["within_null"] = ~beyond_chance(drawn, value) & np.isfinite(values)
    label = label or label_of(value)
    lines = {plain(label): f"{{{value}:.5g}}"} | ({"by chance": f"{{{null}:.5g}}"} if null is not None else {})
    if title is None:
        title = _title(drawn, value, label, told is not None)
        if "increment" in heads.columns:
            title = f"{INCREMENTS.get(increment, increment)} increment, {title}"
    return head_maps(
        drawn,
        value,
        lines=lines,
        label=label,
        signed=bool((values < 0).any()) if signed is None else signed,
        figure=figure,
        title=title,
        subtitle=subtitle,
        note="One cell a head (of k and v, a key-value group): its rows of q, k and v, its columns of o."
        + (" ○: a random increment gives such a value (two-sided, p ≥ 0.001 for each)." if told is not None else ""),
        ring="cannot be told from its null" if told is not None else "",
    )


def head_maps(
    drawn: pd.DataFrame,
    value: str,
    *,
    lines: dict[str, str],
    label: str,
    signed: bool,
    figure: str,
    title: str,
    subtitle: str,
    note: str,
    ring: str,
) -> Figure:
    """Return the maps of one column, head by head.

    Args:
        drawn: One row a head; with ``within_null`` where ``ring`` says what that means.
        value: The column.
        lines: What the pointer shows, as ``hover_text`` takes it.
        label: What the value is called, with its unit.
        signed: Whether the colours are centred at zero.
        figure: The figure function's name, for messages.
        title: The point in plain words.
        subtitle: Model, revision, dtype, seed.
        note: How to read it.
        ring: What a ring means; empty where there is none.
    """
    need_unique(drawn, ["name", "head"], figure=figure)
    grid = CellGrid.of(drawn)
    parts = {projection: rows_with(drawn, "projection", projection) for projection in grid.projections}
    wide = [max(int(numbers(part, "head").max()) + 1, 2) for part in parts.values()]
    titles = [_NAMES.get(p, f"{plain(p)} heads") for p in parts]
    fig = make_subplots(1, len(parts), column_widths=wide, subplot_titles=titles, horizontal_spacing=0.05)
    fig.update_layout(coloraxis=color_scale(numbers(drawn, value), signed=signed))
    few = sum(wide) <= 14 and grid.annotated
    for col, part in enumerate(parts.values(), start=1):
        # The map's columns are heads here; its own machinery lays them out.
        cells = part.assign(projection=[str(int(head)) for head in part["head"]])
        layout = CellGrid(grid.layers, tuple(str(head) for head in range(int(numbers(part, "head").max()) + 1)))
        add_map(
            fig,
            cells,
            numbers(part, value),
            grid=layout,
            hover=hover_text(part, {"head": "{head}", **lines}),
            coloraxis="coloraxis",
            texts=_texts(numbers(part, value), signed) if few else None,
            ringed=flags(part, "within_null") if ring else None,
            col=col,
            layer_title=col == 1,
        )
        fig.update_xaxes(title_text="head", row=1, col=col)
    color_bar(fig, "coloraxis", grid=grid, title=plain(label), to_col=len(parts))
    if ring:
        add_ring_key(fig, ring)
    return finish(
        fig,
        drawn,
        title=title,
        subtitle=subtitle,
        note=note,
        plot_height=grid.height,
        legend_rows=int(bool(ring)),
        panel_titles=True,
        bottom=BAR_SPACE,
        min_width=max(620, 150 + (56 if few else max(3, min(14, _WIDEST // sum(wide)))) * sum(wide)),
    )


def _texts(values: np.ndarray, signed: bool) -> Sequence[str]:
    if signed and np.nanmax(np.abs(values), initial=0.0) < 1:
        return ["" if np.isnan(v) else f"{v:+.2f}".replace("0.", ".", 1).replace("-", "−") for v in values]
    return [short(value, 2) for value in values]


def _title(drawn: pd.DataFrame, value: str, label: str, judged: bool) -> str:
    values, title, found = numbers(drawn, value), label.split(" (")[0], claim(drawn, value) if judged else None
    if found is not None:
        title += f": {found.sentence('head')}"
        values = np.where(flags(drawn, "within_null"), np.nan, values)  # named is only what is beyond chance
    if (found is None or found.holds) and np.isfinite(values).any():
        top = records(drawn)[int(np.nanargmax(np.abs(values)))]
        title += f"{':' if found is None else ','} largest in layer {top['layer']}, {top['projection']}, "
        title += f"head {top['head']} ({short(top[value])})"
    return title
