"""Off-principal energy with its null: does an increment avoid the directions that carry the base weight?"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import colour_with, finish, plain
from mastlens.plots.heat import (
    BAR_SPACE,
    KEYS,
    CellGrid,
    add_hatch,
    add_hatch_key,
    add_map,
    add_ring_key,
    color_bar,
    doubling_ticks,
    hover_text,
    once_per_cell,
    ratios,
)
from mastlens.plots.honest import honest
from mastlens.plots.nulls import principal_energy_band
from mastlens.plots.tables import distinct, flags, need, numbers, ordered, rows_with, take, where, words
from mastlens.plots.template import DIVERGING, INK, MUTED, PROJECTION_COLOURS
from mastlens.statistics import BELOW, beyond_chance, claim, mcnemar_exact, verdict_columns

_COLUMNS = (
    "increment",
    *KEYS,
    "rows",
    "cols",
    "delta_norm",
    "rank",
    "off_principal",
    "off_principal_null",
)
_LABELS = {"sft": "SFT", "rlvr": "RLVR"}
_INSIDE = "inside the null band: cannot be told from a random increment"


def _with_null(part: pd.DataFrame, level: float) -> pd.DataFrame:
    """Add the lift p / null and the band of the null to the rows of one increment."""
    drawn = part.copy()
    moved = numbers(drawn, "delta_norm") > 0
    # The contract gives a zero increment off_principal 0; it has no direction, so nothing is drawn for it.
    energy = np.where(moved, 1 - numbers(drawn, "off_principal"), np.nan)
    null = 1 - numbers(drawn, "off_principal_null")
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn["lift"] = energy / null
        drawn["log2_lift"] = np.log2(energy / null)
    if not {"off_principal_null_low", "off_principal_null_high"} <= set(drawn.columns):
        stable = numbers(drawn, "stable_rank") if "stable_rank" in drawn.columns else None
        low, high = principal_energy_band(
            drawn["rank"],
            drawn["rows"],
            drawn["cols"],
            level=level,
            comparisons=len(drawn),
            stable_rank=stable,
        )
        drawn["off_principal_null_low"], drawn["off_principal_null_high"] = 1 - high, 1 - low
    low, high = (numbers(drawn, f"off_principal_null_{end}") for end in ("low", "high"))
    share = numbers(drawn, "off_principal")
    within = (low <= share) & (share <= high)
    if "off_principal_distinguishable" in drawn.columns:  # the table has judged by more than a band can show
        within |= ~beyond_chance(drawn, "off_principal")
    else:
        drawn["off_principal_distinguishable"] = moved & ~within
    drawn["within_null"] = moved & within
    return drawn


@honest
def plot_off_principal(
    geometry: pd.DataFrame,
    *,
    increment: str = "rlvr",
    level: float = 0.95,
    title: str | None = None,
    subtitle: str = "",
) -> Figure:
    """Draw how much of an increment lies outside the base weight's principal subspaces, beside its null.

    Left, a map of the lift: the energy inside the principal subspaces over what a random increment of that
    shape has there, in doublings, centred at "as chance". Right, ``off_principal`` of every tensor over its
    null and the null's band.

    Args:
        geometry: ``geometry.parquet``. With ``stable_rank`` the band allows for an increment of low rank;
            columns ``off_principal_null_low`` and ``off_principal_null_high`` take its place.
        increment: Which increment to draw, ``"rlvr"`` or ``"sft"``.
        level: Share of random increments inside the band, for all tensors together.
        title: The point in plain words; by default how many projections differ from chance, and which way.
        subtitle: Model, revision, dtype, seed.
    """
    figure = "plot_off_principal"
    need(geometry, _COLUMNS, figure=figure, writer="mastlens geometry")
    part = rows_with(geometry, "increment", increment)
    if part.empty:
        raise unknown("increment", increment, distinct(geometry, "increment"))
    once_per_cell(part, figure)
    extra = [
        column
        for column in (
            "stable_rank",
            "off_principal_null_low",
            "off_principal_null_high",
            *verdict_columns("off_principal", part.columns),
        )
        if column in part.columns and column not in _COLUMNS
    ]
    drawn = _with_null(take(part, [*_COLUMNS, *extra]), level)

    grid = CellGrid.of(drawn)
    fig = make_subplots(
        1,
        2,
        column_widths=[0.46, 0.54],
        horizontal_spacing=0.13,
        subplot_titles=["energy inside, against chance", "share of energy outside, and its null"],
    )
    hover = hover_text(
        drawn,
        {
            "off-principal energy": "{off_principal:.5f}",
            "null": "{off_principal_null:.5f}",
            "null band": "{off_principal_null_low:.5f} to {off_principal_null_high:.5f}",
            "energy inside / null": "{lift:.3f}",
            "|Δ|": "{delta_norm:.4g}",
            "rank k": "{rank}",
        },
    )
    _add_lift_map(fig, drawn, grid, hover)
    _add_dots(fig, drawn, grid, hover)
    k = ", ".join(distinct(drawn, "rank"))
    shape = "of that shape and stable rank" if "stable_rank" in extra else "of that shape and of full rank"
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, increment),
        subtitle=subtitle,
        note=f"Principal subspaces: top k = {k} left and right singular directions of the base weight. "
        f"Line and band: mean and {level:.0%} range of a random increment {shape}, all tensors together.",
        plot_height=max(grid.height, 300),
        legend_rows=1,
        panel_titles=True,
        bottom=BAR_SPACE,
        min_width=680,
    )


def _add_lift_map(fig: go.Figure, drawn: pd.DataFrame, grid: CellGrid, hover: list[str]) -> None:
    values = numbers(drawn, "log2_lift")
    finite = np.abs(values[np.isfinite(values)])
    end = max(0.5, float(finite.max())) if finite.size else 1.0
    # No energy inside at all is minus infinity: it is drawn at the end of the scale.
    # Below the floor nothing can be told, so that no colour claims anything there.
    below = (drawn["note"] == BELOW).to_numpy() if "note" in drawn else np.zeros(len(drawn), dtype=bool)
    clipped = np.where(below, 0.0, np.where(np.isneginf(values), -end, values))
    add_map(
        fig,
        drawn,
        clipped,
        grid=grid,
        hover=hover,
        coloraxis="coloraxis",
        texts=ratios(values),
        ringed=flags(drawn, "within_null") & ~below,
    )
    add_ring_key(fig, _INSIDE)
    if below.any():
        add_hatch(fig, grid, drawn, below)
        add_hatch_key(fig)
    fig.update_layout(coloraxis={"colorscale": DIVERGING, "cmin": -end, "cmax": end, "cmid": 0})
    color_bar(
        fig,
        "coloraxis",
        grid=grid,
        title="energy inside the principal subspaces / null",
        height=max(grid.height, 300),
    )
    fig.update_layout(coloraxis_colorbar=doubling_ticks(end))


def _add_dots(fig: go.Figure, drawn: pd.DataFrame, grid: CellGrid, hover: list[str]) -> None:
    """Draw every tensor over its null: within a projection's column, layers run from left to right."""
    drawn = drawn.assign(hover=hover)
    span = max(1, len(grid.layers) - 1)
    for j, projection in enumerate(grid.projections):
        part = ordered(rows_with(drawn, "projection", projection), "layer")
        place = [j + (grid.layers.index(int(layer)) / span - 0.5) * 0.7 for layer in part["layer"].tolist()]
        colour = PROJECTION_COLOURS.get(projection, INK)
        ends = [place[0] - 0.06, *place, place[-1] + 0.06]

        def out(column: str, part: pd.DataFrame = part) -> list[float]:
            values = numbers(part, column).tolist()
            return [values[0], *values, values[-1]]

        shared = {"hoverinfo": "skip", "showlegend": False, "mode": "lines"}
        band = [*out("off_principal_null_high"), *reversed(out("off_principal_null_low"))]
        fill = {"fill": "toself", "fillcolor": colour_with("#7A7A7A", 0.22), "line": {"width": 0}}
        fig.add_trace(go.Scatter(x=[*ends, *reversed(ends)], y=band, **fill, **shared), row=1, col=2)
        line = {"color": MUTED, "width": 1.5}
        fig.add_trace(go.Scatter(x=ends, y=out("off_principal_null"), line=line, **shared), row=1, col=2)
        fig.add_trace(
            go.Scatter(
                x=place,
                y=np.where(np.isnan(numbers(part, "lift")), np.nan, numbers(part, "off_principal")),
                mode="markers",
                name=plain(projection),
                showlegend=False,
                marker={
                    "size": 9,
                    "color": ["#FFFFFF" if inside else colour for inside in flags(part, "within_null")],
                    "line": {"width": 1.8, "color": colour},
                },
                customdata=words(part, "hover"),
                hovertemplate="%{customdata}<extra></extra>",
            ),
            row=1,
            col=2,
        )
    fig.update_xaxes(
        range=[-0.5, len(grid.projections) - 0.5],
        tickvals=list(range(len(grid.projections))),
        ticktext=[plain(projection) for projection in grid.projections],
        title_text="projection (within each: layer, first to last)",
        showgrid=False,
        zeroline=False,
        row=1,
        col=2,
    )
    fig.update_yaxes(title_text="off-principal energy (fraction of |Δ|²)", zeroline=False, row=1, col=2)


def _title(drawn: pd.DataFrame, increment: str) -> str:
    name = _LABELS.get(increment, increment)
    moved = where(drawn, np.isfinite(numbers(drawn, "lift")))
    if not len(moved):
        return f"There is no {name} increment: no attention projection changed"
    found = claim(moved, "off_principal")
    if not found.holds:
        title = f"Off-principal energy, {name} increment: {found.sentence('projection')}"
        # Each alone may look like chance while all of them lean to one side; below the floor, rounding leans too.
        inward = int((numbers(moved, "lift") > 1).sum())
        if not found.floor and mcnemar_exact(inward, len(moved) - inward) < 0.01:
            more, side = max((inward, "inside"), (len(moved) - inward, "outside"))
            title += f" alone, yet {more} of {len(moved)} have more energy {side} than its mean"
        return title
    ways = [f"{way} more in {n}" for n, way in ((found.above, "avoided"), (found.below, "used")) if n]
    return f"{name} increment, {found.sentence('projection')}: principal directions {' and '.join(ways)}"
