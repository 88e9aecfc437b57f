"""Principal angles: how far an increment turned the top singular subspaces, beside what a random one would do."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.heat import KEYS, CellGrid, hover_text, once_per_cell
from mastlens.plots.honest import honest
from mastlens.plots.measures import INCREMENTS, increments_of
from mastlens.plots.tables import need, numbers, ordered, rows_with, take, words
from mastlens.plots.template import INK, MUTED, PROJECTION_COLOURS
from mastlens.statistics import beyond_chance, claim, verdict_columns

_SIDES = {"left": "output side", "right": "input side"}
_WHICH = {"max": "largest", "mean": "mean"}
_PANEL, _GAP = 250, 66  # pixels of a panel, and between two rows


@honest
def plot_principal_angles(
    geometry: pd.DataFrame, *, which: str = "max", title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw the principal angles between a tensor's top-k singular subspaces before and after each increment.

    A column a side, a row an increment, all with one range; within a projection, layers run from left to right. The
    short line under or above a point is what an isotropic increment of the same norm gives.

    Args:
        geometry: ``geometry.parquet`` of ``--full``.
        which: ``max``, the largest of the k angles, or ``mean``.
        title: The point in plain words; by default how many subspaces turned further than by chance, and how many less.
        subtitle: Model, revision, dtype, seed.
    """
    figure = "plot_principal_angles"
    if which not in _WHICH:
        raise unknown("principal angle", which, _WHICH)
    angles = {side: f"angle_{side}_{which}_deg" for side in _SIDES}
    parts = [f"{column}{end}" for column in angles.values() for end in ("", "_null", "_distinguishable")]
    need(geometry, ["increment", *KEYS, "rank", *parts], figure=figure, writer="mastlens geometry --full")
    read = [c for column in angles.values() for c in verdict_columns(column, geometry.columns) if c not in parts]
    drawn = ordered(take(geometry, ["increment", *KEYS, "rank", *parts, *dict.fromkeys(read)]), "layer")
    increments = increments_of(words(drawn, "increment"))
    grid = CellGrid.of(drawn)
    height = _PANEL * len(increments) + _GAP * (len(increments) - 1)
    fig = make_subplots(
        len(increments),
        2,
        shared_yaxes="all",  # pyright: ignore[reportArgumentType] - typed as bool, documented to take this
        horizontal_spacing=0.03,
        vertical_spacing=_GAP / height if len(increments) > 1 else 0,
        subplot_titles=[
            f"{INCREMENTS.get(name, plain(name))}, {side}" for name in increments for side in _SIDES.values()
        ],
    )
    for row, increment in enumerate(increments, start=1):
        part = rows_with(drawn, "increment", increment)
        once_per_cell(part, figure)
        for col, column in enumerate(angles.values(), start=1):
            _add_side(fig, part, column, grid, row, col)
        fig.update_yaxes(title_text=f"{_WHICH[which]} angle (degrees)", row=row, col=1)
    span = np.concatenate([numbers(drawn, f"{column}{end}") for column in angles.values() for end in ("", "_null")])
    top = float(np.nanmax(span)) if np.isfinite(span).any() else 90.0
    fig.update_yaxes(range=[0, min(92.0, 1.08 * top) or 1.0], zeroline=False)
    fig.update_xaxes(
        range=[-0.5, len(grid.projections) - 0.5],
        tickvals=list(range(len(grid.projections))),
        ticktext=[plain(projection) for projection in grid.projections],
        showgrid=False,
        zeroline=False,
    )
    fig.update_xaxes(title_text="projection (within each: layer, first to last)", row=len(increments))
    for name, marker in (
        ("beyond chance", {"symbol": "circle", "color": INK, "size": 9}),
        ("within chance", {"symbol": "circle-open", "color": INK, "size": 9}),
        (
            "a random increment of that norm, mean",
            {"symbol": "line-ew", "color": MUTED, "size": 12, "line": {"width": 2, "color": MUTED}},
        ),
    ):
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker), row=1, col=1)
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, increments[-1], angles),
        subtitle=subtitle,
        note=f"Angles between the top {', '.join(dict.fromkeys(words(drawn, 'rank')))} singular subspaces before and "
        "after the increment, left singular vectors on the output side, right ones on the input side; 0 is no turn, 90 "
        "is one direction given up altogether. Beyond chance: two-sided, p < 0.001 for each tensor. All panels have "
        "one range.",
        plot_height=height,
        legend_rows=1,
        panel_titles=True,
        left=76,
        min_width=660,
    )


def _add_side(fig: go.Figure, part: pd.DataFrame, column: str, grid: CellGrid, row: int, col: int) -> None:
    span = max(1, len(grid.layers) - 1)
    lines = {"angle": f"{{{column}:.3g}}°", "by chance": f"{{{column}_null:.3g}}°", "rank k": "{rank}"}
    for j, projection in enumerate(grid.projections):
        rows = rows_with(part, "projection", projection)
        place = [j + (grid.layers.index(int(layer)) / span - 0.5) * 0.7 for layer in rows["layer"].tolist()]
        colour = PROJECTION_COLOURS.get(projection, INK)
        told = beyond_chance(rows, column)
        fig.add_trace(
            go.Scatter(
                x=place,
                y=numbers(rows, f"{column}_null"),
                mode="markers",
                marker={"symbol": "line-ew", "size": 11, "line": {"width": 2, "color": MUTED}},
                hoverinfo="skip",
                showlegend=False,
            ),
            row=row,
            col=col,
        )
        fig.add_trace(
            go.Scatter(
                x=place,
                y=numbers(rows, column),
                mode="markers",
                marker={
                    "size": 8,
                    "color": [colour if beyond else "#FFFFFF" for beyond in told],
                    "line": {"width": 1.8, "color": colour},
                },
                name=plain(projection),
                showlegend=False,
                customdata=hover_text(rows, lines),
                hovertemplate="%{customdata}<extra></extra>",
            ),
            row=row,
            col=col,
        )


def _title(drawn: pd.DataFrame, increment: str, angles: dict[str, str]) -> str:
    part = rows_with(drawn, "increment", increment)
    # One table of both sides' angles: what is said counts over all that were looked at.
    sides = [
        part.rename(columns={name: str(name).replace(column, "angle") for name in part}) for column in angles.values()
    ]
    kept = ["angle", *verdict_columns("angle", sides[0].columns)]
    found = claim(pd.concat([side[kept] for side in sides], ignore_index=True), "angle")
    title = f"{INCREMENTS.get(increment, increment)} increment, angles of subspaces: {found.sentence('subspace')}"
    if not found.holds:
        return title
    ways = [f"{n} turned {way}" for n, way in ((found.above, "further"), (found.below, "less")) if n]
    return f"{title}; {' and '.join(ways)} than a random increment of its norm would"
