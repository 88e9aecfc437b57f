"""How the loss gradients lie to the increment, by tensor and by head, with the cosine that chance would give."""

from typing import Any

import numpy as np
import pandas as pd
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish
from mastlens.plots.heads import head_maps
from mastlens.plots.heat import (
    BAR_SPACE,
    KEYS,
    CellGrid,
    add_map,
    add_ring_key,
    color_bar,
    color_scale,
    hover_text,
    once_per_cell,
)
from mastlens.plots.honest import honest
from mastlens.plots.measures import null_of
from mastlens.plots.nulls import cosine_bound
from mastlens.plots.tables import flags, need, numbers, take
from mastlens.plots.template import DIVERGING
from mastlens.statistics import claim

_COSINES = {
    "forget_cosine": "forget gradient with the increment",
    "retain_cosine": "retain gradient with the increment",
    "forget_retain_cosine": "forget with retain gradient",
}
_RING = (
    "○: |cosine| is one that {level:.0%} of random directions stay below, all cells together, or that gradient and "
    "increment give by having few directions, or large entries in the same places."
)
_PANELS = {
    "forget_cosine": "forget with increment",
    "retain_cosine": "retain with increment",
    "forget_retain_cosine": "forget with retain",
}


@honest
def plot_coupling(
    coupling: pd.DataFrame,
    *,
    geometry: pd.DataFrame | None = None,
    level: float = 0.95,
    title: str | None = None,
    subtitle: str = "",
) -> Figure:
    """Draw how the loss gradients lie to the increment: signed cosines, one panel each, equal ranges.

    Where one panel's values are much larger than another's, colours grow with the square root of the
    cosine, the same in all panels, so that the small ones can still be told apart.

    Args:
        coupling: ``coupling.parquet``; ``retain_cosine`` and ``forget_retain_cosine`` are drawn when there.
        geometry: ``geometry.parquet`` of the same lineage. The chance level of a cosine depends on the size
            of the tensor; it is drawn when ``rows`` and ``cols`` are in either table.
        level: Share of random directions below the chance level, for all tensors of a panel together.
        title: The point in plain words; by default the sign and size of the forget coupling.
        subtitle: Model, revision, dtype, seed.
    """
    figure = "plot_coupling"
    need(coupling, [*KEYS, "forget_cosine"], figure=figure, writer="mastlens couple")
    once_per_cell(coupling, figure)
    shown = [column for column in _COSINES if column in coupling.columns]
    sized = {"rows", "cols"} <= set(coupling.columns)
    judged = [told for told in (null_of(column, map(str, coupling.columns))[1] for column in shown) if told]
    drawn = take(coupling, [*KEYS, *shown, *judged, *(["rows", "cols"] if sized else [])])
    if not sized and geometry is not None:
        need(geometry, ["name", "rows", "cols"], figure=figure, writer="mastlens geometry")
        sizes = take(geometry, ["name", "rows", "cols"]).drop_duplicates(subset=["name"])
        drawn = drawn.merge(sizes, on="name", how="left", validate="many_to_one")
        sized = True
    if sized:
        numel = numbers(drawn, "rows") * numbers(drawn, "cols")
        drawn["chance_level"] = cosine_bound(numel, level=level, comparisons=len(drawn))

    grid = CellGrid.of(drawn)
    fig = make_subplots(1, len(shown), subplot_titles=[_PANELS[c] for c in shown], horizontal_spacing=0.07)
    axis, rooted = _shared_scale([numbers(drawn, column) for column in shown])
    fig.update_layout(coloraxis=axis)
    lines = {_COSINES[column]: f"{{{column}:+.5f}}" for column in shown}
    if sized:
        lines["by chance below"] = "±{chance_level:.5f}"
    hover = hover_text(drawn, lines)
    for col, column in enumerate(shown, start=1):
        values = numbers(drawn, column)
        add_map(
            fig,
            drawn,
            values,
            grid=grid,
            hover=hover,
            coloraxis="coloraxis",
            texts=[_written(value) for value in values],
            ringed=_by_chance(drawn, column) if sized else None,
            col=col,
            layer_title=col == 1,
        )
    if sized:
        add_ring_key(fig, "cannot be told from chance")
    color_bar(fig, "coloraxis", grid=grid, title="cosine (no unit, −1 to 1)", to_col=len(shown))
    note = "Negative (blue): a further step along the increment would lower that loss. "
    if sized:
        note += _RING.format(level=level)
    else:
        note += "No chance level is drawn: the table lacks rows and cols; hand in geometry as well."
    if rooted:
        note += " Colours grow with the square root of the cosine."
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, sized),
        subtitle=subtitle,
        note=note,
        plot_height=grid.height,
        legend_rows=int(sized),
        panel_titles=True,
        bottom=BAR_SPACE,
        min_width=(360, 520, 760)[len(shown) - 1],
    )


@honest
def plot_coupling_heads(
    heads: pd.DataFrame, *, side: str = "forget", level: float = 0.95, title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw one side's signed cosine head by head: one map a projection, layers down, heads across.

    Args:
        heads: ``coupling_heads.parquet``.
        side: ``forget`` or ``retain``.
        level: Share of random directions below the chance level, for all heads of the figure together.
        title: The point in plain words; by default in how many heads the loss falls along the increment.
        subtitle: Model, revision, dtype, seed.
    """
    figure, column = "plot_coupling_heads", f"{side}_cosine"
    need(heads, [*KEYS, "head", "rows", "cols", column], figure=figure, writer="mastlens couple")
    told = null_of(column, map(str, heads.columns))[1]
    drawn = take(heads, [*KEYS, "head", "rows", "cols", column, *([told] if told else [])])
    numel = numbers(drawn, "rows") * numbers(drawn, "cols")
    drawn["chance_level"] = cosine_bound(numel, level=level, comparisons=len(drawn))
    drawn["within_null"] = _by_chance(drawn, column)
    drawn[f"{side}_above_chance"] = ~flags(drawn, "within_null")
    return head_maps(
        drawn,
        column,
        lines={f"{side} with increment": f"{{{column}:+.5f}}", "by chance below": "±{chance_level:.5f}"},
        label="cosine (no unit, −1 to 1)",
        signed=True,
        figure=figure,
        title=title or f"Cosine of {side} gradient and RLVR increment: {_falling(drawn, side, 'head')}",
        subtitle=subtitle,
        note="One cell a head (of k and v, a key-value group): its rows of q, k and v, its columns of o. Negative "
        "(blue): a further step along the increment there would lower that loss. " + _RING.format(level=level),
        ring="cannot be told from chance",
    )


def _by_chance(drawn: pd.DataFrame, column: str) -> np.ndarray:
    """Return which cosines chance explains: by their size, or by the table, which has judged by more than that."""
    values = numbers(drawn, column)
    within = np.abs(values) <= numbers(drawn, "chance_level")
    told = null_of(column, map(str, drawn.columns))[1]
    return within if told is None else (within | ~flags(drawn, told)) & np.isfinite(values)


def _written(value: float) -> str:
    """Return a cosine for a cell, without the leading zero: three panels stand side by side."""
    return "" if np.isnan(value) else f"{value:+.3f}".replace("0.", ".", 1).replace("-", "−")


def _shared_scale(panels: list[np.ndarray]) -> tuple[dict[str, Any], bool]:
    """Return one colour axis for all panels, and whether its colours grow with the square root."""
    axis = color_scale(np.concatenate(panels), signed=True)
    ends = [np.nanmax(np.abs(panel), initial=0.0) for panel in panels]
    if min(ends) * 3 > max(ends):
        return axis, False
    # Moving the stops, not the values: the map still holds the cosines themselves.
    steps = np.linspace(-1, 1, 33)
    stops = 0.5 + 0.5 * np.sign(steps) * steps**2
    colours = _interpolated(0.5 + 0.5 * steps)
    end = axis["cmax"]
    ticks = [sign * end * part for sign in (-1, 1) for part in (1, 0.5, 0.25)]
    return {
        **axis,
        "colorscale": [[float(stop), colour] for stop, colour in zip(stops, colours, strict=True)],
        "colorbar": {"tickvals": [*ticks, 0], "ticktext": [f"{t:+.2g}".replace("-", "−") for t in ticks] + ["0"]},
    }, True


def _interpolated(places: np.ndarray) -> list[str]:
    from plotly.colors import sample_colorscale

    return [str(colour) for colour in sample_colorscale(DIVERGING, places.tolist())]


def _title(drawn: pd.DataFrame, sized: bool) -> str:
    cosine = numbers(drawn, "forget_cosine")
    if not np.isfinite(cosine).any():
        return "No forget cosine is known for any projection"
    title = "Cosine of forget gradient and RLVR increment: "
    if not sized:
        largest = np.nanmax(np.abs(cosine), initial=0.0)
        return f"{title}at most {largest:.3f} in size over {count(len(drawn), 'projection')}; chance is not known"
    chance = _by_chance(drawn, "forget_cosine")
    told = drawn.assign(forget_above_chance=~chance)
    size = np.nanmax(np.abs(cosine[~chance]), initial=0.0)  # of what chance could have made no headline tells the size
    largest = f"; at most {size:.3f} in size" if size > 0 else ""
    return f"{title}{_falling(told, 'forget', 'projection')}{largest}"


def _falling(drawn: pd.DataFrame, side: str, noun: str) -> str:
    """Return in how many places a step along the increment changes the loss by more than chance, and which way."""
    found = claim(drawn, f"{side}_cosine")
    ways = [f"{way} in {n}" for n, way in ((found.below, "falls"), (found.above, "rises")) if n]
    return found.sentence(noun) + (f": along the increment the loss {' and '.join(ways)}" if ways else "")
