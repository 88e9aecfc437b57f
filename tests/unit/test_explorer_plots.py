"""Figures of attention and of one projection: what is drawn is what the table says, centred and in equal ranges."""

import numpy as np
import pandas as pd
import pytest

from mastlens.errors import MastlensError
from mastlens.plots.attention import plot_attention
from mastlens.plots.projection import plot_projection_spectrum
from mastlens.plots.projection_effect import plot_projection_effect, plot_projection_map, plot_put_back
from mastlens.plots.projection_heads import plot_projection_coupling, plot_projection_heads
from mastlens.plots.tables import figure_table


def patterns(heads=2, size=4):
    rows = []
    for head in range(heads):
        for query in range(size):
            for key in range(query + 1):
                before = 1 / (query + 1)
                after = before if head == 0 else float(key == 0)
                rows.append({"layer": 3, "head": head, "query": query, "key": key, "before": before, "after": after})
    return pd.DataFrame(rows)


def test_attention_has_one_range_and_differences_around_zero():
    figure = plot_attention(patterns(), problems=5)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 6
    assert figure.layout.coloraxis2.cmin == -figure.layout.coloraxis2.cmax
    assert figure.layout.coloraxis.cmin == 0
    assert [trace.coloraxis for trace in maps] == ["coloraxis", "coloraxis", "coloraxis2"] * 2
    moved = np.array(maps[5].z, dtype=float)
    assert moved[3, 0] == pytest.approx(0.75)
    assert np.isnan(moved[0, 1])  # nobody looks ahead
    assert np.nansum(np.abs(np.array(maps[2].z, dtype=float))) == 0
    # Head 1 moved (0 + 1/2 + 2/3 + 3/4) / 4 of its attention to the first position.
    assert "head 1 moves 47.9 %" in figure.layout.meta["title"]
    assert "mean of 5 problems" in figure.layout.meta["note"]
    assert len(figure_table(figure)) == 20


def test_attention_of_one_problem_has_its_tokens_on_the_axes():
    words = ["What", " is", "\n", "<b>"]
    table = patterns()
    table["query_token"] = [words[i] for i in table["query"]]
    table["key_token"] = [words[i] for i in table["key"]]
    figure = plot_attention(table)
    assert list(figure.layout.xaxis.ticktext) == ["What", "·is", "⏎", "&lt;b&gt;"]
    with pytest.raises(MastlensError, match="'after'"):
        plot_attention(table.drop(columns="after"))
    with pytest.raises(MastlensError, match="several"):
        plot_attention(pd.concat([table, table]))


def test_heads_that_chance_explains_are_open():
    heads = pd.DataFrame(
        {
            "increment": "rlvr",
            "head": [0, 1],
            "energy_share": [0.9, 0.1],
            "energy_share_null": 0.5,
            "energy_share_distinguishable": [True, False],
            "off_principal": [0.8, 0.7],
            "off_principal_null": 0.9,
            "off_principal_distinguishable": [False, True],
        }
    )
    figure = plot_projection_heads(heads, place="layer 0, q")
    share, off = (next(t for t in figure.data if t.mode == "markers" and t.xaxis == axis) for axis in ("x", "x2"))
    assert [colour == "#FFFFFF" for colour in share.marker.color] == [False, True]
    assert [colour == "#FFFFFF" for colour in off.marker.color] == [True, False]
    assert "head 0 holds 90%" in figure.layout.meta["title"]
    chance = plot_projection_heads(heads.assign(energy_share_distinguishable=False), place="layer 0, q")
    assert chance.layout.meta["title"] == "layer 0, q: no head's share of the RLVR increment's energy is beyond chance"


def test_a_floor_that_reaches_the_spectrum_is_drawn():
    table = pd.DataFrame({"increment": "rlvr", "index": [1, 2, 3], "singular_value": [1.0, 0.1, 0.01], "chance": 0.5})
    high = plot_projection_spectrum(table.assign(precision_floor=0.05), place="layer 0, q")
    low = plot_projection_spectrum(table.assign(precision_floor=1e-9), place="layer 0, q")
    assert any(trace.name == "floor of the precision" and list(trace.y) == [0.05, 0.05] for trace in high.data)
    assert not any(trace.name == "floor of the precision" for trace in low.data)
    assert "1.00e−09, lies far below" in low.layout.meta["note"]
    assert "1 direction in RLVR" in high.layout.meta["title"]


def test_coupling_says_whether_chance_explains_it():
    row = {"rows": [64], "cols": [64], "forget_cosine": [-0.3]}
    far = plot_projection_coupling(pd.DataFrame(row), place="layer 0, q")
    near = plot_projection_coupling(pd.DataFrame({**row, "forget_cosine": [0.001]}), place="layer 0, q")
    assert "falls along the increment, more than by chance" in far.layout.meta["title"]
    assert "rises along the increment, no more than by chance" in near.layout.meta["title"]


def test_put_back_and_effect_draw_intervals_predictions_and_chance():
    effects = pd.DataFrame(
        {
            "side": ["forget", "retain"],
            "problems": 2,
            "before": -1.0,
            "after": -1.002,
            "effect": [-0.002, 0.001],
            "effect_low": [-0.003, -0.001],
            "effect_high": [-0.001, 0.002],
            "first_order": [-0.0015, 0.0005],
            "null_sd": 0.0001,
        }
    )
    items = pd.DataFrame({"side": ["forget", "forget", "retain", "retain"], "item": [0, 1, 0, 1], "change": 0.001})
    figure = plot_put_back(items, effects, place="layer 0, q")
    marks = [trace for trace in figure.data if trace.error_y.array is not None]
    assert [float(mark.y[0]) for mark in marks] == pytest.approx([-2.0, 1.0])
    assert [float(mark.error_y.array[0]) for mark in marks] == pytest.approx([1.0, 1.0])
    bands = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert [band.y1 for band in bands] == pytest.approx([0.2, 0.2])
    assert "put back to SFT: forget changes by −2" in figure.layout.meta["title"]

    causal = pd.DataFrame({"direction": ["insert", "restore"]})
    for side, value in (("forget", 0.004), ("retain", 0.001)):
        parts = {"effect": value, "effect_low": 0.0, "effect_high": 0.01, "first_order": value, "null_sd": 0.001}
        causal = causal.assign(**{f"{side}_{part}": number for part, number in parts.items()})
    drawn = figure_table(plot_projection_effect(causal, place="layer 0, q"))
    assert drawn["direction"].tolist() == ["restore", "restore", "insert", "insert"]
    assert drawn["effect"].tolist() == [0.004, 0.001] * 2


def test_a_map_marks_chance_and_the_chosen_cell():
    table = pd.DataFrame({"layer": [0, 0, 1], "projection": ["q", "k", "q"], "name": ["a", "b", "c"]})
    table = table.assign(value=[-2.0, 1.0, 0.5], chance=np.nan)
    table["beyond_chance"] = pd.array([True, False, pd.NA], dtype="boolean")
    figure = plot_projection_map(table, label="effect", signed=True, chosen="c")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2.0, 2.0)
    assert figure.data[0].text.tolist() == [["−2.00", "1.00 ○"], ["0.500", ""]]
    assert (list(figure.data[2].x), list(figure.data[2].y)) == ([0], [1])
    assert "2 of 3 projections are beyond chance, largest in layer 0, q" in figure.layout.meta["title"]
    alone = plot_projection_map(table.assign(beyond_chance=[False] * 3), label="effect", signed=True)
    assert (
        alone.layout.meta["title"] == "Effect: none of 3 projections is beyond chance"
    )  # of what is chance none is named
