"""The look of every figure: one registered plotly template, its colours and its scales.

The colourway is Okabe and Ito's, which readers with any common form of colour blindness can tell apart.
Magnitudes use a perceptually uniform light-to-dark scale, signed values a diverging one whose middle is
always put at zero by the figure that uses it.
"""

import plotly.graph_objects as go
import plotly.io as pio
from plotly.colors import cmocean

NAME = "mastlens"

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, GREY, YELLOW = "#E69F00", "#56B4E9", "#7A7A7A", "#C9B400"
INK, MUTED, RULE, PAPER = "#1F2328", "#59636E", "#DFE3E8", "#FFFFFF"

COLOURWAY = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY, YELLOW)
"""Okabe and Ito's colours; their yellow is darkened, because on white the original cannot be seen."""

PROJECTION_COLOURS = {"q": BLUE, "k": ORANGE, "v": GREEN, "o": PURPLE}
"""One colour a projection, the same in every figure."""

SEQUENTIAL = list(cmocean.dense)
"""For magnitudes: light is little, dark is much."""

DIVERGING = [
    [0.0, "#0B4F7D"],
    [0.25, "#5FA2CE"],
    [0.5, "#F7F7F5"],
    [0.75, "#E8915A"],
    [1.0, "#97410A"],
]
"""For signed values: blue is negative or below, orange is positive or above, the middle is zero."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
"""Fonts that are on the reader's machine: a figure never fetches one."""

_AXIS = {
    "showline": True,
    "linecolor": "#AEB6BF",
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#AEB6BF",
    "gridcolor": RULE,
    "gridwidth": 1,
    "zerolinecolor": "#AEB6BF",
    "zerolinewidth": 1,
    "automargin": False,  # margins are set by `frame.finish`, the same for every figure
    "title": {"font": {"size": 13}, "standoff": 8},
    "tickfont": {"size": 12},
}


def _template() -> go.layout.Template:
    return go.layout.Template(
        layout={
            "colorway": list(COLOURWAY),
            "colorscale": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "xaxis": _AXIS,
            "yaxis": _AXIS,
            "hoverlabel": {
                "bgcolor": PAPER,
                "bordercolor": "#AEB6BF",
                "align": "left",
                "font": {"family": FONT, "size": 13, "color": INK},
            },
            "legend": {"font": {"size": 13}, "itemsizing": "constant", "bgcolor": "rgba(255,255,255,0)"},
            "modebar": {"bgcolor": "rgba(255,255,255,0)", "color": "#AEB6BF"},
            "coloraxis": {"colorbar": {"outlinewidth": 0, "ticks": "outside", "ticklen": 3}},
        }
    )


pio.templates[NAME] = _template()
