"""Figures carry their table and save themselves; maps mark their nulls; fronts, angles, heads, responses and errors."""

import copy
import itertools
import pickle
import re
import shutil
import stat

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastlens import plots
from mastlens.errors import MastlensError
from mastlens.plots.figure import Figure, TextFigure
from mastlens.plots.frame import finish, readable_width, without_captions
from mastlens.plots.images import draw_images, find_browser
from mastlens.plots.measures import label_of, null_of
from mastlens.plots.pareto import front_line, pareto_front
from mastlens.plots.printed import STYLES, _laid_out, _letters


def grid(increments=("sft", "rlvr"), layers=3, heads=None):
    keys = itertools.product(increments, range(layers), "qkvo", range(heads) if heads else [None])
    rows = [
        {"increment": i, "layer": layer, "projection": p, "name": f"layers.{layer}.{p}"}
        | ({"head": h} if heads else {})
        for i, layer, p, h in keys
    ]
    return pd.DataFrame(rows)


def angles():
    table = grid().assign(rank=4)
    for number, (side, which) in enumerate(itertools.product(("left", "right"), ("max", "mean"))):
        column = f"angle_{side}_{which}_deg"
        table[column] = 10.0 + number + np.arange(len(table)) % 5
        table[f"{column}_null"] = 11.0
        table[f"{column}_distinguishable"] = np.arange(len(table)) % 3 == 0
    return table


def trajectory():
    table = grid(("rlvr",)).drop(columns="increment").assign(steps=8, fitted=5)
    outside = pd.DataFrame([{"layer": -1, "projection": "", "name": "embed", "steps": 8, "fitted": 5}])
    table = pd.concat([table, outside], ignore_index=True)
    return table.assign(last_error=0.2, last_error_stay=0.5, last_error_walk=0.6)


def measures():
    rows = [(arm, m, 1.0 + i, 0.5 + i, 1.5 + i) for i, (arm, m) in enumerate(itertools.product("ab", ("x (u)", "y")))]
    return pd.DataFrame(rows, columns=["arm", "measure", "value", "ci_low", "ci_high"])


def search():
    rows = [(arm, lr, step, 24 - step, 24) for arm in "ab" for lr in (1e-3, 3e-4) for step in (8, 16)]
    return pd.DataFrame(rows, columns=["arm", "lr", "step", "correct", "items"])


def some_figure():
    return finish(go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name="a")), pd.DataFrame({"x": [1, 2]}), title="T")


NEW = {
    "angles": (plots.plot_principal_angles, angles),
    "head_map": (lambda t: plots.plot_head_map(t.assign(value=1.0), "value"), lambda: grid(heads=2)),
    "extrapolation": (plots.plot_extrapolation, trajectory),
    "measures": (plots.plot_measures, measures),
    "search": (plots.plot_search, search),
}


@pytest.mark.parametrize("name", NEW)
def test_new_figures_carry_their_rows_and_say_where_there_is_nothing(name):
    draw, make = NEW[name]
    table = make()
    before = table.copy(deep=True)
    fig = draw(table)
    pd.testing.assert_frame_equal(table, before)
    assert isinstance(fig, Figure)
    assert 0 < len(fig.table) <= len(table)
    assert fig.layout.title.text
    assert fig.to_json() == draw(make()).to_json()
    assert "the table has no rows" in draw(table.head(0)).layout.meta["title"]


def test_a_figure_is_a_plotly_figure_with_its_table():
    fig = some_figure()
    for other in (fig, copy.deepcopy(fig), pickle.loads(pickle.dumps(fig))):
        assert isinstance(other, go.Figure)
        assert other.table["x"].tolist() == [1, 2]
    fig.add_scatter(y=[5])
    assert len(fig.data) == 2
    assert "Plotly.newPlot" in fig._repr_html_()
    own = fig.table
    own["x"] = 0
    assert fig.table["x"].tolist() == [1, 2]  # a new table each time


def test_every_figure_function_promises_a_figure():
    import typing

    functions = {name: getattr(plots, name) for name in plots.__all__ if name.startswith("plot_")}
    assert len(functions) > 25
    for name, function in functions.items():
        assert issubclass(typing.get_type_hints(function)["return"], go.Figure), name


def test_saving_by_path_writes_the_same_as_save_figure(tmp_path):
    fig = some_figure()
    saved = fig.save(tmp_path / "one" / "f", images=())
    again = plots.save_figure(fig, tmp_path / "two", "f", images=())
    assert [p.name for p in saved.paths] == ["f.html", "f.json", "f.csv"]
    assert not saved.note
    assert [p.read_bytes() for p in saved.paths] == [p.read_bytes() for p in again.paths]
    assert f"min-width:{readable_width(fig)}px" in saved.paths[0].read_text(encoding="utf-8")


def test_a_browser_that_fails_costs_the_images_alone(tmp_path, monkeypatch):
    broken = tmp_path / "browser"
    broken.write_text("#!/bin/sh\necho nothing\n")
    broken.chmod(broken.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("BROWSER_PATH", str(broken))
    assert find_browser() == str(broken)
    saved = plots.save_figures({"a": some_figure(), "b": some_figure()}, tmp_path / "out")
    assert set(saved) == {"a", "b"}
    assert {one.note for one in saved.values()} == {
        f"No SVG, PNG, PDF: {broken} failed (it drew 0 of 4 images). The other files are complete."
    }
    assert all(len(one.paths) == 3 for one in saved.values())


def test_images_come_back_as_the_browser_gives_them(tmp_path, monkeypatch):
    # A stand-in that answers as a browser does: one data URL for each image asked for, and a PDF where it prints.
    fake = tmp_path / "browser"
    script = tmp_path / "fake.py"
    script.write_text(
        "import sys, pathlib\n"
        "out = [a.split('=', 1)[1] for a in sys.argv if a.startswith('--print-to-pdf=')]\n"
        "if out:\n    pathlib.Path(out[0]).write_bytes(b'%PDF-x')\nelse:\n"
        '    print(\'<body><script type="text/plain" id="image-svg-0">data:image/svg+xml,'
        "%3Csvg id=%22clipa1b2c3%22 b=%22%23clipa1b2c3%22/%3E</script>'\n"
        '          \'<script type="text/plain" id="image-png-0">data:image/png;base64,iVBORw==</script>\')\n'
    )
    fake.write_text(f'#!/bin/sh\nexec {shutil.which("python3")} {script} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(fake))
    images, note = draw_images({"f": some_figure()})
    assert note == ""
    assert images["f"]["svg"] == b'<svg id="clip000000" b="#clip000000"/>'  # random names are numbered
    assert images["f"]["png"] == b"\x89PNG"[:4]
    assert images["f"]["pdf"] == b"%PDF-x"


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="no browser on this machine")
def test_a_real_browser_draws_every_kind_of_image():
    images, note = draw_images({"a": some_figure()})
    assert note == ""
    assert images["a"]["svg"].startswith(b"<svg")
    assert b">T<" in images["a"]["svg"]
    assert images["a"]["png"][:8] == b"\x89PNG\r\n\x1a\n"
    assert images["a"]["pdf"][:5] == b"%PDF-"


@pytest.mark.parametrize("style", STYLES)
def test_letters_have_the_size_of_the_style_or_the_figure_is_refused(style):
    """What is laid out at L pixels and printed on so many inches has letters of smallest * 72 inches / L points."""
    fig = without_captions(some_figure())
    for width in ("column", "text"):
        inches = getattr(STYLES[style], width)
        laid = _laid_out(fig, inches, STYLES[style], style, width)
        points = min(_letters(fig), default=12) * 72 * inches / laid
        assert points >= 6 - 1e-2
        assert laid >= fig.layout.meta["min_width"]
    fig.layout.meta = {**fig.layout.meta, "min_width": 2000}
    with pytest.raises(MastlensError, match="inches for letters of 6 points"):
        _laid_out(fig, 3.25, STYLES["icml"], "icml", "column")


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="no browser on this machine")
def test_a_figure_is_printed_at_its_size(tmp_path):
    fig = some_figure()
    saved = fig.save(tmp_path / "x.svg", style="icml", width="text", title=False)
    assert [path.name for path in saved.paths] == ["x.svg", "x.txt", "x.csv"]
    svg = (tmp_path / "x.svg").read_text(encoding="utf-8")
    found = re.search(r'width="([\d.]+)in" height="([\d.]+)in"[^>]*viewBox="0 0 (\d+) (\d+)"', svg)
    wide, tall, laid_out, height = map(float, found.groups())
    assert wide == 6.75
    assert tall / wide == pytest.approx(height / laid_out, rel=1e-3)
    letters = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
    assert min(letters) * 72 * wide / laid_out >= 6  # points on paper
    assert ">T<" not in svg and "T" in (tmp_path / "x.txt").read_text()
    assert fig.table.equals(pd.read_csv(tmp_path / "x.csv"))
    (pdf,) = fig.save(tmp_path / "y.pdf").paths  # without a style nothing beside it
    content = fig.save(tmp_path / "z.pdf", style="acl", width="text").paths[0].read_bytes()
    box = re.findall(rb"/MediaBox ?\[([^\]]*)\]", content)
    assert len(box) == 1  # one page
    assert float(box[0].split()[2]) == pytest.approx(72 * 6.30, abs=1)
    assert b"FontFile" in content  # fonts are in the file
    assert pdf.read_bytes()[:5] == b"%PDF-"
    png = fig.save(tmp_path / "p.png", style="nature", title=False).paths[0].read_bytes()
    assert int.from_bytes(png[16:20], "big") == pytest.approx(300 * 3.5, abs=1)


def test_what_cannot_be_printed_is_refused(tmp_path, monkeypatch):
    fig = some_figure()
    (page,) = fig.save(tmp_path / "x.html").paths
    assert "Plotly.newPlot" in page.read_text(encoding="utf-8") and "<script src" not in page.read_text(
        encoding="utf-8"
    )
    with pytest.raises(MastlensError, match="Did you mean 'neurips'"):
        fig.save(tmp_path / "x.pdf", style="neurip")
    with pytest.raises(MastlensError, match="'column'"):
        fig.save(tmp_path / "x.pdf", style="icml", width="colum")
    with pytest.raises(MastlensError, match="give it an ending"):
        fig.save(tmp_path / "x", style="icml")
    with pytest.raises(MastlensError, match="or title=False, which leaves"):
        fig.save(tmp_path / "x.pdf", style="icml")
    with pytest.raises(MastlensError, match="no width of its own"):
        fig.save(tmp_path / "x.html", style="icml")
    monkeypatch.setenv("BROWSER_PATH", "no-such-browser")
    with pytest.raises(MastlensError, match="Install one of them"):
        fig.save(tmp_path / "x.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.html"]


def test_score_map_draws_increments_side_by_side_and_marks_its_own_null():
    table = grid().assign(stable_rank=lambda t: np.arange(len(t)) + 1.0, stable_rank_null=3.0)
    table["stable_rank_distinguishable"] = np.arange(len(table)) % 4 != 0
    fig = plots.plot_score_map(table, "stable_rank")
    maps = [trace for trace in fig.data if trace.type == "heatmap"]
    assert len(maps) == 2
    assert {trace.coloraxis for trace in maps} == {"coloraxis"}
    assert fig.table["within_null"].tolist() == (~table["stable_rank_distinguishable"]).tolist()
    assert sum("○" in text for trace in maps for text in trace.text.ravel()) == 6
    assert "18 of 24 cells are beyond chance (chance alone gives about 0.02)" in fig.layout.meta["title"]
    bare = plots.plot_score_map(table.drop(columns=["stable_rank_null", "stable_rank_distinguishable"]), "stable_rank")
    assert "within_null" not in bare.table


def test_labels_have_units_and_nulls_are_found():
    assert label_of("angle_left_max_deg").endswith("(degrees)")
    assert label_of("something_new") == "something new"
    assert null_of("a", ["a", "a_null", "a_distinguishable"]) == ("a_null", "a_distinguishable")
    assert null_of("forget_cosine", ["forget_above_chance"]) == (None, "forget_above_chance")
    assert null_of("a", ["a"]) == (None, None)


def test_angles_are_drawn_with_their_null_on_one_range():
    fig = plots.plot_principal_angles(angles())
    assert len({tuple(axis.range) for axis in fig.select_yaxes()}) == 1
    nulls = [trace for trace in fig.data if trace.marker.symbol == "line-ew" and trace.x[0] is not None]
    assert len(nulls) == 2 * 2 * 4
    assert {y for trace in nulls for y in trace.y} == {11.0}
    points = [trace for trace in fig.data if trace.name == "q"]
    hollow = [colour == "#FFFFFF" for trace in points for colour in trace.marker.color]
    assert sum(hollow) == 2 * int((~angles().query("projection == 'q'")["angle_left_max_deg_distinguishable"]).sum())
    with pytest.raises(MastlensError, match="no principal angle 'least'"):
        plots.plot_principal_angles(angles(), which="least")


def test_heads_are_laid_out_one_map_a_projection():
    table = grid(heads=3).assign(off_principal=lambda t: t["head"] / 10 + t["layer"])
    fig = plots.plot_head_map(table, "off_principal", increment="sft")
    maps = [trace for trace in fig.data if trace.type == "heatmap"]
    assert len(maps) == 4
    assert np.asarray(maps[2].z, dtype=float)[1] == pytest.approx([1.0, 1.1, 1.2])
    assert len(fig.table) == 36
    with pytest.raises(MastlensError, match=r"no increment 'base'.*sft, rlvr"):
        plots.plot_head_map(table, "off_principal", increment="base")


def test_extrapolation_leaves_out_what_is_no_projection():
    fig = plots.plot_extrapolation(trajectory())
    assert set(fig.table["projection"]) == set("qkvo")
    assert fig.layout.meta["title"].startswith("Extrapolation beats staying in 12 of 12 projections")
    reached = plots.plot_extrapolation(trajectory().assign(last_error=np.nan)).layout.meta["title"]
    assert "nothing that it predicts" in reached


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_front_is_what_no_other_edit_beats(points):
    forgotten, cost = np.array(points, dtype=float).T
    front = pareto_front(forgotten, cost)
    for i, (f, c) in enumerate(points):
        beaten = any(g >= f and d <= c and (g, d) != (f, c) for g, d in points)
        assert front[i] == (not beaten)
    line = front_line(forgotten, cost)
    assert list(line.x) == sorted(line.x)
    assert list(line.y) == sorted(line.y)  # on a front, who forgets more costs more


def test_front_ignores_what_is_missing():
    assert pareto_front(np.array([1.0, np.nan, 2.0]), np.array([1.0, 0.0, np.nan])).tolist() == [True, False, False]


def test_tradeoff_says_who_is_on_the_front():
    columns = ["arm", "forget_difference", "forget_low", "forget_high"]
    columns += ["retain_difference", "retain_low", "retain_high"]
    rows = [("a", -0.3, -0.4, -0.2, -0.1, -0.2, 0.0), ("b", -0.6, -0.7, -0.5, -0.3, -0.4, -0.2)]
    rows += [("c", -0.2, -0.3, -0.1, -0.2, -0.3, -0.1)]
    fig = plots.plot_tradeoff(pd.DataFrame(rows, columns=columns))
    assert fig.table.set_index("arm")["on_front"].to_dict() == {"a": True, "b": True, "c": False}
    line = next(trace for trace in fig.data if trace.name == "Pareto front")
    assert list(zip(line.x, line.y, strict=True)) == [pytest.approx((30, 10)), pytest.approx((60, 30))]
    alone = plots.plot_tradeoff(pd.DataFrame(rows[:1], columns=columns))
    assert not [trace for trace in alone.data if trace.name == "Pareto front"]


def test_responses_stand_side_by_side_and_are_escaped():
    items = pd.DataFrame(
        {
            "split": "forget",
            "item": range(4),
            "before": [True, True, False, True],
            "after": [False, True, True, False],
            "prompt": "<b>what</b>",
            "gold": "7",
            "response_before": ["<script>alert(1)</script>", "b", "c", "d"],
            "response_after": ["x", "y", "z", "w"],
        }
    )
    text = plots.item_responses_html(items, limit=1)
    assert isinstance(text, TextFigure)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "forget: 2 items lost, the first 1 of them" in text
    assert text.table["change"].tolist() == ["lost", "gained"]
    assert text._repr_html_() == str(text)
    assert pickle.loads(pickle.dumps(text)).table.equals(text.table)


def test_coloured_text_keeps_its_table_and_saves(tmp_path):
    tokens = pd.DataFrame(
        {
            "increment": "rlvr",
            "split": "forget",
            "item": 0,
            "position": [0, 1],
            "token": ["a", "<b>"],
            "difference": 0.5,
        }
    )
    text = plots.token_text_html(tokens)
    assert text.table["token"].tolist() == ["a", "<b>"]
    saved = text.save(tmp_path / "text")
    assert [path.name for path in saved.paths] == ["text.html", "text.json", "text.csv"]
    assert "&lt;b&gt;" in saved.paths[0].read_text(encoding="utf-8")
    assert pd.read_csv(saved.paths[2])["token"].tolist() == ["a", "<b>"]


def test_legend_lines_follow_from_its_entries():
    few = finish(go.Figure([go.Scatter(y=[1], name="a")]), pd.DataFrame({"x": [1]}), title="T", legend_rows=1)
    many = go.Figure([go.Scatter(y=[1], name=f"a rather long name, longer than most {i}") for i in range(8)])
    more = finish(many, pd.DataFrame({"x": [1]}), title="T", legend_rows=1)
    assert few.layout.meta["legend_height"] < 30
    assert more.layout.meta["legend_height"] > 80
    taller = more.layout.meta["legend_height"] - few.layout.meta["legend_height"]
    assert more.layout.height - few.layout.height == taller
    key = go.Scatter(x=[None], y=[None], name="what a mark means")
    most = go.Figure([*(go.Scatter(y=[1, 2, None], name=f"line {i}") for i in range(12)), key])
    named = finish(most, pd.DataFrame({"x": [1]}), title="T", legend_rows=1)
    assert [trace.name for trace in named.data if trace.showlegend is not False] == ["what a mark means"]
    assert [list(trace.text) for trace in named.data[:12]] == [["", f"line {i}", ""] for i in range(12)]
