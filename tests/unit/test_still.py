"""Stills: figures as drawings without script, at the places where plotly draws them."""

import re

import numpy as np
import plotly.graph_objects as go

from mastlens.plots.still import WIDE, still
from tests.stills import SVG, read


def alone(trace, **layout):
    """Return the tree of one trace on an area of 800 x 400 pixels, from (60, 20) on."""
    margin = {"l": 60, "r": WIDE - 860, "t": 20, "b": 80}
    return read(still(go.Figure(trace, {"height": 500, "margin": margin, **layout}), "f", "Label"))


def paths(tree, **look):
    return [p.get("d") for p in tree.iter(f"{SVG}path") if all(p.get(key) == value for key, value in look.items())]


def test_cells_stand_where_they_belong_in_the_colour_of_their_value():
    scale = [[0, "#000000"], [0.5, "#ffffff"], [1, "#ff0000"]]
    tree = alone(
        go.Heatmap(z=[[-1, 0], [1, None]], coloraxis="coloraxis"),
        coloraxis={"colorscale": scale, "cmin": -1, "cmax": 1},
    )
    # Two rows of 200 and two columns of 400 pixels; the first row is the lower one.
    assert paths(tree, fill="#000000") == ["M60 220h400v200h-400z"]
    assert paths(tree, fill="#ffffff") == ["M460 220h400v200h-400z"]
    assert paths(tree, fill="#ff0000") == ["M60 20h400v200h-400z"]


def test_points_lines_bars_and_intervals_stand_where_their_axes_say():
    axes = {"xaxis": {"range": [0, 4]}, "yaxis": {"range": [0, 2], "type": "log"}}
    points = go.Scatter(
        x=[1, 2, None, 3], y=[1, 10, 10, 100], mode="lines+markers", marker={"color": "#123456", "size": 7}
    )
    tree = alone(points, **axes)
    assert paths(tree, **{"stroke-linecap": "round"}) == ["M260 420h0M460 220h0M660 20h0"]
    assert "M260 420L460 220M660 20" in paths(tree)
    bars = go.Bar(x=["a", "b"], y=[1, -1], error_y={"array": [1, 0.5]}, marker={"color": "#123456"})
    tree = alone(bars, xaxis={"range": [-0.5, 1.5]}, yaxis={"range": [-2, 2]})
    assert paths(tree, fill="#123456") == ["M100 120h320v100h-320z", "M500 220h320v100h-320z"]
    assert "M260 120L260 20M660 320L660 270M260 120L260 220M660 320L660 370" in paths(tree)


def test_bars_that_are_stacked_begin_where_the_one_before_ends():
    bars = [
        go.Bar(x=[share], y=["m"], orientation="h", marker={"color": c})
        for share, c in ((1, "#000001"), (3, "#000002"))
    ]
    tree = alone(bars, barmode="stack", xaxis={"range": [0, 4]}, yaxis={"range": [-0.5, 0.5]})
    assert paths(tree, fill="#000001") == ["M60 60h200v320h-200z"]
    assert paths(tree, fill="#000002") == ["M260 60h600v320h-600z"]


def test_what_is_no_small_drawing_has_no_still():
    many = np.arange(6000.0)
    assert still(go.Figure(go.Scatter(x=many, y=many % 7)), "f", "Label") == ""
    assert still(go.Figure(go.Pie(values=[1, 2])), "f", "Label") == ""


def test_names_that_are_markup_are_text():
    evil = "</text><script>alert(1)</script>"
    figure = go.Figure(
        go.Bar(x=[evil, "b"], y=[1, 2], name=evil), {"showlegend": True, "xaxis": {"title": {"text": evil}}}
    )
    svg = still(figure, "f", evil)
    assert read(svg).get("aria-label") == evil
    assert not re.search(r"<script|<img", svg)
