"""Layers as shades: one line a layer, the same shades and the same bar in every figure that draws so."""

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from mastlens.plots.heat import CellGrid
from mastlens.plots.template import MUTED

# The yellow end of viridis cannot be seen on white, so layers use the rest of it.
_SHADES = sample_colorscale("Viridis", [i / 10 * 0.85 for i in range(11)])


def layer_shade(grid: CellGrid, layer: int) -> str:
    """Return the colour of a layer's line."""
    first = min(grid.layers)
    span = max(1, max(grid.layers) - first)
    return str(sample_colorscale(_SHADES, [(layer - first) / span])[0])


def layer_bar(grid: CellGrid) -> go.Scatter:
    """Return an invisible trace whose only purpose is the colour bar of the layers."""
    first, last = min(grid.layers), max(grid.layers)
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker={
            "color": [first],
            "cmin": first,
            "cmax": max(last, first + 1),
            "colorscale": _SHADES,
            "showscale": True,
            "colorbar": {
                "title": {"text": "layer<br> ", "font": {"size": 12, "color": MUTED}},
                "thickness": 10,
                "outlinewidth": 0,
                "x": 1.02,
                "tickformat": "d",
                "nticks": 9,
            },
        },
    )
