"""The layer x projection heat map that several figures share: layer 0 at the top, columns q, k, v, o."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.errors import MastlensError, NotTogether
from mastlens.plots.frame import plain
from mastlens.plots.tables import distinct, need_unique, records, words
from mastlens.plots.template import DIVERGING, INK, SEQUENTIAL

PROJECTIONS = ("q", "k", "v", "o")
KEYS = ("layer", "projection", "name")
"""What says which tensor a row is about."""

_ANNOTATED_CELLS = 160
_NAMED_CELLS = 2000  # of more than so many the pointer shows the place without the tensor's name: pages stay small
_RING = {"symbol": "circle", "size": 8, "color": "#FFFFFF", "line": {"width": 1.5, "color": INK}}
_HATCH = {
    "mode": "lines",
    "line": {"width": 0},
    "fill": "toself",
    "fillpattern": {"shape": "/", "size": 9, "solidity": 0.12, "fgcolor": "#767676", "bgcolor": "rgba(0,0,0,0)"},
    "hoverinfo": "skip",
}
BELOW_FLOOR = "below the precision floor: nothing can be told"
"""What hatching means."""
BAR_SPACE = 122
"""Pixels below a map for its axis and its colour bar."""


@dataclass(frozen=True)
class CellGrid:
    """The rows and columns of a map, shared by panels that are compared.

    Attributes:
        layers: Layer numbers from top to bottom.
        projections: Projections from left to right.
    """

    layers: tuple[int, ...]
    projections: tuple[str, ...]

    @classmethod
    def of(cls, table: pd.DataFrame) -> "CellGrid":
        """Return the grid that holds every row of the table."""
        found = distinct(table, "projection")
        ordered = [p for p in PROJECTIONS if p in found] + [p for p in found if p not in PROJECTIONS]
        return cls(tuple(sorted({int(layer) for layer in table["layer"].tolist()})), tuple(ordered))

    @property
    def height(self) -> int:
        """Pixels for the map: rows get lower as there are more of them."""
        each = 32 if len(self.layers) <= 12 else 22 if len(self.layers) <= 40 else 13
        return max(220, each * len(self.layers))

    @property
    def annotated(self) -> bool:
        """Whether the cells are few enough to write their value into."""
        return len(self.layers) * len(self.projections) <= _ANNOTATED_CELLS

    def positions(self, table: pd.DataFrame) -> list[tuple[int, int]]:
        """Return the (row, column) of every row of the table."""
        row = {layer: i for i, layer in enumerate(self.layers)}
        column = {projection: j for j, projection in enumerate(self.projections)}
        pairs = zip(table["layer"].tolist(), words(table, "projection"), strict=True)
        return [(row[int(layer)], column[projection]) for layer, projection in pairs]

    def array(self, table: pd.DataFrame, values: Iterable[object], dtype: type) -> np.ndarray:
        """Return the values laid out on the grid; cells without a row are NaN, None or empty."""
        blank = {float: np.nan, str: ""}.get(dtype)
        cells = np.full((len(self.layers), len(self.projections)), blank, dtype=float if dtype is float else object)
        for (i, j), value in zip(self.positions(table), values, strict=True):
            cells[i, j] = value
        return cells


def once_per_cell(table: pd.DataFrame, figure: str) -> None:
    """Refuse a table in which two rows fall into the same cell."""
    try:
        need_unique(table, ["layer", "projection"], figure=figure)
    except MastlensError as error:
        raise NotTogether(
            f"{error} Keep one of them first, for instance table[table['increment'] == 'rlvr']."
        ) from None


def log_range(values: np.ndarray) -> bool:
    """Return whether positive values span so much that only a logarithmic scale shows them."""
    positive = values[np.isfinite(values) & (values > 0)]
    return bool(positive.size and positive.max() > 20 * positive.min())


def color_scale(values: np.ndarray, *, signed: bool, least: float = 0.0) -> dict[str, Any]:
    """Return a colour axis for these values; several panels given together share its range.

    Args:
        values: What the colours show.
        signed: Whether zero is the middle.
        least: Where a scale around zero ends at the least: values that are all near zero keep its middle's colour.
    """
    finite = values[np.isfinite(values)]
    if signed:
        end = max(least, float(np.abs(finite).max())) if finite.size else least
        end = end or 1.0
        return {"colorscale": DIVERGING, "cmin": -end, "cmax": end, "cmid": 0}
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low = 0.0 if 0 <= low < 0.5 * high else low  # a scale that starts at zero shows ratios
    return {"colorscale": SEQUENTIAL, "cmin": low, "cmax": high if high > low else low + (abs(low) or 1.0)}


def hover_text(table: pd.DataFrame, lines: dict[str, str]) -> list[str]:
    """Return one hover text a row: the tensor's name, its place, then the given columns.

    Args:
        table: The rows.
        lines: Label and column format, e.g. ``{"norm": "{delta_norm:.4g}"}``; missing values are left out.
    """
    texts = []
    for row in records(table):
        text = f"<b>{plain(row['name'])}</b><br>layer {row['layer']}, projection {plain(row['projection'])}"
        for label, pattern in lines.items():
            used = [part.split(":")[0].split("}")[0] for part in pattern.split("{")[1:]]
            if all(column in row and not pd.isna(row[column]) for column in used):
                text += f"<br>{label}: {pattern.format(**row)}"
        texts.append(text)
    return texts


def add_map(
    fig: go.Figure,
    table: pd.DataFrame,
    values: Iterable[float],
    *,
    grid: CellGrid,
    hover: list[str],
    coloraxis: str,
    texts: Sequence[str] | None = None,
    ringed: Iterable[bool] | np.ndarray | None = None,
    row: int = 1,
    col: int = 1,
    layer_title: bool = True,
) -> None:
    """Add one heat map to a panel.

    Args:
        fig: A figure made with ``make_subplots``.
        table: One row per cell.
        values: What the colour shows, one a row of the table.
        grid: Rows and columns of the map.
        hover: Hover text, one a row.
        coloraxis: The colour axis to use, e.g. ``"coloraxis2"``.
        texts: What is written into the cells, one a row, when the cells are few.
        ringed: Which cells get the ring that says that chance could have made them, one a row: behind the
            written value, else in the middle of the cell. `add_ring_key` explains it.
        row: Row of the panel.
        col: Column of the panel.
        layer_title: Whether the vertical axis is labelled.
    """
    rings = [bool(ring) for ring in ringed] if ringed is not None else [False] * len(table)
    if len(table) > _NAMED_CELLS:
        hover = [text.partition("<br>")[2] or text for text in hover]
    written = {}
    if texts is not None and grid.annotated:
        texts = [f"{text} ○" if ring else text for text, ring in zip(texts, rings, strict=True)]
        written = {"text": grid.array(table, list(texts), str), "texttemplate": "%{text}"}
    fig.add_trace(
        go.Heatmap(
            z=grid.array(table, list(values), float),
            customdata=grid.array(table, hover, str),
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
            coloraxis=coloraxis,
            xgap=1,
            ygap=1,
            showlegend=False,
            **written,
        ),
        row=row,
        col=col,
    )
    if not written and any(rings):
        places = [place for place, ring in zip(grid.positions(table), rings, strict=True) if ring]
        middle = go.Scatter(
            x=[j for _, j in places],
            y=[i for i, _ in places],
            mode="markers",
            marker=_RING,
            showlegend=False,
            hoverinfo="skip",
        )
        fig.add_trace(middle, row=row, col=col)
    set_axes(fig, grid, row=row, col=col, layer_title=layer_title)


def set_axes(fig: go.Figure, grid: CellGrid, *, row: int, col: int, layer_title: bool = True) -> None:
    """Label the axes of one panel by layer and projection, layer 0 at the top."""
    many = len(grid.layers)
    step = next((step for step in (1, 2, 4, 5, 10) if many <= 16 * step), 20)
    rows = [i for i, layer in enumerate(grid.layers) if many <= 16 or layer % step == 0]
    across = len(grid.projections)
    every = next((step for step in (1, 4, 8, 16, 32) if across <= 16 * step), 64)
    plain_axis = {"showgrid": False, "zeroline": False, "showline": False}
    fig.update_yaxes(
        range=[many - 0.5, -0.5],
        tickvals=rows,
        ticktext=[str(grid.layers[i]) for i in rows],
        title_text="layer" if layer_title else None,
        **plain_axis,
        row=row,
        col=col,
    )
    fig.update_xaxes(
        range=[-0.5, len(grid.projections) - 0.5],
        tickvals=list(range(0, across, every)),
        ticktext=[plain(projection) for projection in grid.projections[::every]],
        title_text="projection",
        **plain_axis,
        row=row,
        col=col,
    )


def add_ring_key(fig: go.Figure, label: str) -> None:
    """Say in the legend what the ring means; also when no cell has one, so that its absence says something."""
    fig.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=_RING, name=label), row=1, col=1)


def add_hatch(
    fig: go.Figure,
    grid: CellGrid,
    table: pd.DataFrame,
    hatched: Iterable[bool] | np.ndarray,
    *,
    row: int = 1,
    col: int = 1,
) -> None:
    """Hatch the cells of which nothing can be told, because they lie below the precision floor.

    Args:
        fig: The figure, its map drawn.
        grid: The map's grid.
        table: One row per cell.
        hatched: Which, one a row of the table.
        row: Row of the panel.
        col: Column of the panel.
    """
    x: list[float | None] = []
    y: list[float | None] = []
    for (i, j), hatch in zip(grid.positions(table), hatched, strict=True):
        if hatch:
            x += [j - 0.5, j + 0.5, j + 0.5, j - 0.5, j - 0.5, None]
            y += [i - 0.5, i - 0.5, i + 0.5, i + 0.5, i - 0.5, None]
    fig.add_trace(go.Scatter(x=x or [None], y=y or [None], **_HATCH, showlegend=False), row=row, col=col)


def add_hatch_key(fig: go.Figure, label: str = BELOW_FLOOR) -> None:
    """Say in the legend what hatching means."""
    fig.add_trace(go.Scatter(x=[None], y=[None], name=label, **_HATCH), row=1, col=1)


def doubling_ticks(end: float) -> dict[str, Any]:
    """Return the ticks of a colour bar over doublings, at most five and written as ratios: the bar is short.

    Args:
        end: Where the bar ends, in doublings either way.
    """
    step = next((size for size in (0.5, 1.0, 2.0) if end < 2.5 * size), 4.0)
    ticks = [k * step for k in range(-4, 5) if abs(k * step) <= end]
    return {"tickvals": ticks, "ticktext": [f"{2.0**t:.2g}×" for t in ticks]}


def ratios(doublings: np.ndarray) -> list[str]:
    """Return doublings as ratios for cells: ``2.83×``; nothing for NaN."""
    return ["" if np.isnan(value) else f"{2**value:.2f}×" if np.isfinite(value) else "0×" for value in doublings]


def color_bar(
    fig: go.Figure,
    coloraxis: str,
    *,
    grid: CellGrid,
    title: str,
    row: int = 1,
    col: int = 1,
    to_col: int | None = None,
    height: int | None = None,
) -> None:
    """Put the bar of a colour axis under the panel it belongs to, or under several that share it.

    Args:
        fig: The figure, its panels in place.
        coloraxis: The colour axis.
        grid: The map's grid.
        title: What the colours show, with unit.
        row: Row of the panels.
        col: Column of the first panel.
        to_col: Column of the last panel; by default the first.
        height: Pixels of the whole drawing area; by default that of one map.
    """
    left: Any = fig.get_subplot(row, col)
    right: Any = fig.get_subplot(row, to_col or col)
    first, last, base = left.xaxis.domain, right.xaxis.domain, left.yaxis.domain[0]
    fig.update_layout(
        {
            coloraxis: {
                "colorbar": {
                    "orientation": "h",
                    "thickness": 10,
                    "len": last[1] - first[0],
                    "x": (first[0] + last[1]) / 2,
                    "xanchor": "center",
                    "xpad": 0,
                    "y": base - 58 / (height or grid.height),
                    "yanchor": "top",
                    "ypad": 0,
                    "title": {"text": title, "side": "top", "font": {"size": 12}},
                    "tickfont": {"size": 11},
                    "tickangle": 0,
                }
            }
        }
    )
