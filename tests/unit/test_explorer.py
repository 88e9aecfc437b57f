"""The explorer without a browser: scores, sources, figures, fallback, and the widget's callbacks."""

import html

import numpy as np
import pandas as pd
import pytest

import mastlens
from mastlens.errors import MastlensError
from mastlens.explorer import explore, projection_figures
from mastlens.explorer.figures import HEADINGS, figures_and_gaps, score_map
from mastlens.explorer.grid import grid_of
from mastlens.explorer.scores import SCORES, available_scores, score_range, score_table
from mastlens.explorer.sources import find_sources
from mastlens.plots.tables import figure_table

NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A folder with every table that can be explored."""
    out = tmp_path_factory.mktemp("explored") / "run"
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "out": out, "progress": False}
    mastlens.geometry(base=tiny.base, rank=4, full=True, spectra=True, heads=True, workers=1, **pair)
    mastlens.couple(forget=tiny.forget, retain=tiny.retain, **pair)
    mastlens.rank(out, top=3)
    mastlens.causal_map(forget=tiny.forget, retain=tiny.retain, limit=4, **pair)
    return out


@pytest.fixture(scope="module")
def explorer(run, tiny):
    files = {"forget": tiny.forget, "retain": tiny.retain}
    return explore(run, base=tiny.base, sft=tiny.sft, rlvr=tiny.rlvr, limit=3, **files)


def test_every_score_is_the_column_it_says(explorer):
    tables = explorer.study.tables
    assert set(explorer.scores) == {score.key for score in SCORES}
    assert explorer.scores[:2] == ["lift", "forget_effect"]
    for score in SCORES:
        found = score_table(tables, score)
        assert len(found) == 8
        rows = tables[score.table]
        for column, value in score.rows:
            rows = rows[rows[column] == value]
        expected = rows[score.column]
        if score.doublings:
            expected = np.log2((1 - expected) / (1 - rows[score.chance]))
        np.testing.assert_allclose(found["value"] * score.unit, expected, rtol=1e-12)
    effects = score_table(tables, SCORES[1])
    assert ((effects["low"] > 0) | (effects["high"] < 0)).tolist() == effects["beyond_chance"].tolist()
    assert score_table(tables, explorer.study.scores["score"])["beyond_chance"].isna().all()


def test_scores_follow_the_tables_that_are_there():
    rows = {"layer": [0, 0], "projection": ["q", "k"], "name": ["a", "b"]}
    coupling = pd.DataFrame({**rows, "forget_cosine": [0.5, -0.1], "cosine_null": 0.02, "forget_above_chance": [1, 0]})
    found = available_scores({"coupling": coupling})
    assert list(found) == ["forget_cosine"]
    table = score_table({"coupling": coupling}, found["forget_cosine"])
    assert table["value"].tolist() == [0.5, -0.1]
    assert table["beyond_chance"].tolist() == [True, False]


def planted(width, inside):
    """Return a geometry table whose last cell has so many times the energy of chance inside."""
    rows = []
    for layer in range(2):
        for projection in "qkvo":
            null = 1 - 16**2 / width**2
            rows.append(
                {
                    "increment": "rlvr",
                    "layer": layer,
                    "projection": projection,
                    "name": f"{layer}.{projection}",
                    "rows": width,
                    "cols": width,
                    "delta_norm": 1.0,
                    "delta_rms": 1.0 / width,
                    "relative_norm": 0.1,
                    "precision_floor": 0.01,
                    "off_principal": null,
                    "off_principal_null": null,
                    "off_principal_p": 0.5,
                    "off_principal_distinguishable": False,
                    "note": "",
                }
            )
    table = pd.DataFrame(rows)
    table.loc[7, "off_principal"] = 1 - inside * (1 - null)
    table.loc[7, ["off_principal_p", "off_principal_distinguishable"]] = [1e-9, True]
    table.loc[0, "note"], table.loc[0, "off_principal"] = "below the precision floor", 0.5
    table.loc[0, "delta_norm"] = 0.005
    return table


@pytest.mark.parametrize("width", [32, 1536])
def test_the_first_map_shows_at_any_width_what_is_there_and_claims_nothing_below_the_floor(tmp_path, width):
    planted(width, 4.0).to_parquet(tmp_path / "geometry.parquet")
    study = explore(tmp_path).study
    figure = score_map(study)
    assert next(iter(study.scores)) == "lift"
    cells = {(c["row"], c["column"]): c for c in grid_of(figure, "lift")["cells"]}
    middle, orange = "rgb(247, 247, 245)", "rgb(151, 65, 10)"
    assert [cells[1, 3]["colour"], cells[1, 0]["colour"]] == [orange, middle]  # four times is the scale's end
    assert [cells[1, 3]["text"], cells[1, 0]["text"]] == ["4.00×", "1.00× ○"]
    assert (cells[0, 0]["hatched"], cells[0, 0]["colour"]) == (True, middle)  # far from chance, and tells nothing
    assert "○" not in cells[0, 0]["text"]
    assert not any(cell["hatched"] for place, cell in cells.items() if place != (0, 0))
    assert "1 of 7 projections is beyond chance" in figure.layout.meta["title"]
    assert "largest in layer 1, o" in figure.layout.meta["title"]
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "cannot be told from chance",
        "below the precision floor: nothing can be told",
    ]
    norms = score_map(study, "delta_norm")
    assert [trace.name for trace in norms.data if trace.showlegend] == [
        "below the precision floor: nothing can be told"
    ]
    assert "chance" not in norms.layout.meta["title"]
    grid = grid_of(norms, "norm")
    assert [cell["hatched"] for cell in grid["cells"]] == [True] + [False] * 7
    assert not any("chance" in key for key in grid["keys"])


def test_maps_that_are_compared_have_one_range_of_colours():
    rlvr = planted(64, 4.0).assign(off_principal_z=1.0)
    both = pd.concat([rlvr, rlvr.assign(increment="sft", off_principal=rlvr["off_principal_null"])])
    tables = {"geometry": both}
    scores = available_scores(tables)
    ranges = [score_range(tables, scores, scores[key]) for key in ("lift", "lift_sft")]
    np.testing.assert_array_equal(*ranges)
    assert (len(ranges[0]), np.nanmax(ranges[0])) == (14, pytest.approx(2.0))  # without what lies below the floor


def test_a_map_frames_the_chosen_projection_and_keeps_its_table(explorer):
    first, second = score_map(explorer.study, chosen=NAME), score_map(explorer.study, "delta_norm")
    assert [type(trace) for trace in first.data] == [type(trace) for trace in second.data]  # one can replace the other
    assert (list(first.data[2].x), list(first.data[2].y)) == ([0], [0])
    assert not len(second.data[2].x)
    geometry = explorer.study.tables["geometry"]
    rlvr = geometry[geometry["increment"] == "rlvr"]
    assert figure_table(second)["value"].tolist() == pytest.approx(rlvr["delta_norm"].tolist())
    with pytest.raises(MastlensError, match="'delta_norm'"):
        explorer.map("delta_nrom")


def test_one_projection_gives_every_figure_with_its_numbers(explorer):
    figures = explorer.figures("0.q")
    assert list(figures) == list(HEADINGS)
    for key, figure in figures.items():
        assert len(figure_table(figure)), key
        assert figure.layout.meta["title"], key
    spectra = explorer.study.tables["spectra"]
    drawn = figure_table(figures["spectrum"]).query("increment == 'rlvr'")
    own = spectra[(spectra["name"] == NAME) & (spectra["increment"] == "rlvr")]["singular_value"]
    np.testing.assert_allclose(drawn["singular_value"], own)
    # Chance has the same norm, and no direction as large as a low-rank increment's first.
    assert np.linalg.norm(drawn["chance"]) == pytest.approx(np.linalg.norm(own))
    back = explorer.study.bench.put_back(NAME).table.set_index("side").loc["forget"]
    causal = explorer.study.tables["causal_map"].query(f"name == '{NAME}' and direction == 'restore' and head == -1")
    assert back["before"] != back["after"]
    assert np.sign(back["effect"]) == np.sign(causal["forget_effect"].iloc[0])
    assert explorer.study.bench.measured == [NAME]


def test_numbers_say_where_a_projection_stands(explorer):
    found = explorer.table("1.o").set_index("score")
    geometry = explorer.study.tables["geometry"]
    norms = geometry[geometry["increment"] == "rlvr"].set_index("name")["delta_norm"]
    own = norms["model.layers.1.self_attn.o_proj.weight"]
    row = found.loc["delta_norm"]
    assert row["value"] == own
    assert row["place"] == 1 + (norms > own).sum()
    assert row["relative"] == own / norms.max()
    assert found["relative"].abs().max() <= 1
    with pytest.raises(MastlensError, match=r"no projection '9\.q'"):
        explorer.table("9.q")


def test_what_is_missing_is_said_and_the_rest_is_drawn(run, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "geometry.parquet").write_bytes((run / "geometry.parquet").read_bytes())
    study = explore(alone).study
    figures, gaps = figures_and_gaps(study, "0.q")
    assert list(figures) == ["standing"]
    assert set(gaps) == set(HEADINGS) - {"standing"}
    assert "sft=PATH" in gaps["put_back"]
    assert "mastlens couple" in gaps["coupling"]
    assert set(projection_figures(alone, NAME)) == {"standing"}
    with pytest.raises(MastlensError, match="holds none of geometry"):
        explore(tmp_path)
    with pytest.raises(MastlensError, match="There is no folder"):
        explore(tmp_path / "nowhere")
    with pytest.raises(MastlensError, match="limit of 0"):
        explore(alone, limit=0)


def test_shipped_checkpoints_and_problems_are_found_by_their_hashes(tmp_path):
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.organisms import lineage_folder
    from mastlens.runs.files import sha256_file

    file = lineage_folder("qwen2") / "forget-train.jsonl"
    lineage = {role: Checkpoint(f"organism:qwen2/{role}").fingerprint for role in ("sft", "rlvr")}
    nothing = {"checkpoints": {}, "problems": {}, "edit": None}
    record = {"stages": {"couple": {"lineage": lineage, "inputs": {"forget": sha256_file(file)}}}}
    found = find_sources(tmp_path, record, **nothing)
    assert {role: checkpoint.spec for role, checkpoint in found.checkpoints.items()} == {
        "sft": "organism:qwen2/sft",
        "rlvr": "organism:qwen2/rlvr",
    }
    assert dict(found.problems)["forget"] == file
    other = {"stages": {"couple": {"lineage": {"rlvr": "0" * 64}, "inputs": {"forget": "0" * 64}}}}
    unknown = find_sources(tmp_path, other, **nothing)
    assert not unknown.checkpoints
    assert "forget" not in unknown.problems
    with pytest.raises(MastlensError, match="no problem file"):
        find_sources(tmp_path, other, checkpoints={}, problems={"forget": "nowhere.jsonl"}, edit=None)


def test_a_study_tells_where_its_checkpoints_are(tiny, tmp_path):
    settings = {"lineage": {"rlvr": str(tiny.rlvr), "sft": str(tiny.sft), "base": str(tmp_path / "gone")}}
    settings["train"] = {"forget": str(tiny.forget)}
    record = {"stages": {"study": {"settings": settings}}}
    found = find_sources(tmp_path, record, checkpoints={}, problems={}, edit=None)
    assert found.checkpoints == {"rlvr": str(tiny.rlvr), "sft": str(tiny.sft)}
    assert found.problems == {"forget": tiny.forget}


def test_without_a_front_end_the_map_and_one_line_are_shown(explorer, monkeypatch):
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.plotly.v1+json"}
    assert "explorer.figures(NAME)" in bundle["text/plain"]
    assert bundle["application/vnd.plotly.v1+json"]["data"][0]["type"] == "heatmap"
    assert "<table>" in bundle["text/html"]
    assert "8 projections" in repr(explorer)
    monkeypatch.setattr("mastlens.explorer.explorer.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MastlensError, match=r"mastlens\[notebooks\]"):
        explorer.widget()


def test_saved_as_a_page_with_its_files(explorer, tmp_path):
    page = explorer.save(tmp_path / "out", ["0.q"], images=())
    text = page.read_text(encoding="utf-8")
    assert NAME in text
    assert "put back to SFT" in text
    assert {"map.html", "0-q-spectrum.csv", "0-q-attention.json"} <= {file.name for file in page.parent.iterdir()}
    assert "1-q-spectrum.csv" not in {file.name for file in page.parent.iterdir()}


def test_two_runs_are_set_beside_each_other_and_their_difference_claims_nothing(tmp_path):
    second = planted(64, 8.0)
    second.loc[5, "off_principal"] = 1 - 3 * (1 - second.loc[5, "off_principal_null"])
    second.loc[5, ["off_principal_p", "off_principal_distinguishable"]] = [1e-9, True]
    for name, table in {
        "one": planted(64, 4.0),
        "two": second,
        "else": second.assign(name=second["name"] + "x"),
    }.items():
        (tmp_path / name).mkdir()
        table.to_parquet(tmp_path / name / "geometry.parquet")
    explorer = explore(tmp_path / "one")
    pair = explorer.compare(tmp_path / "two")
    expected = np.zeros(8)
    expected[[5, 7]] = np.log2(3), 1  # eight times chance for four times is one doubling
    assert pair.of("lift")["difference"].to_numpy() == pytest.approx(expected)
    assert (pair.of("delta_norm")["difference"] == 0).all()
    told = "beyond chance of 7 projections 1 in both runs, 0 in one alone, 1 in two alone; the difference itself is not"
    assert told in pair.verdict("lift") and told in repr(pair)
    one, two, difference = pair.maps("lift")
    assert one.layout.coloraxis.cmax == two.layout.coloraxis.cmax == pytest.approx(3)
    assert difference.layout.meta["title"] == pair.verdict("lift")
    cells = {(c["row"], c["column"]): c for c in grid_of(difference, "lift")["cells"]}
    assert [cells[1, 1]["text"], cells[1, 3]["text"], cells[1, 0]["text"]] == ["3.00×", "2.00×", "1.00× ○"]
    assert cells[0, 0]["hatched"]  # below the floor in either run
    page = pair.save(tmp_path / "both.html").read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1 and "Projections of one and two" in page
    assert (explorer.compare(explorer).of()["difference"] == 0).all()
    with pytest.raises(MastlensError, match="ends in"):
        pair.save(tmp_path / "folder")
    with pytest.raises(MastlensError, match="score in both runs"):
        pair.map("no such score")
    with pytest.raises(MastlensError, match="share no projection"):
        explorer.compare(tmp_path / "else")


@pytest.fixture
def panel(explorer):
    pytest.importorskip("ipywidgets")
    pytest.importorskip("anywidget")
    from mastlens.explorer.widget import _Panel

    return _Panel(explorer.study, None)


def click(panel, row, column):
    """Do what the browser does when a cell is clicked."""
    panel.map.chosen = next(c["name"] for c in panel.map.shown["cells"] if (c["row"], c["column"]) == (row, column))
    panel.map.presses += 1


def test_a_click_and_the_list_open_the_same(panel):
    assert "Click a cell" in panel.status.value
    click(panel, 1, 3)
    name = "model.layers.1.self_attn.o_proj.weight"
    assert panel.name.value == name
    assert "layer 1, o is open" in panel.status.value
    assert name in panel.numbers.value
    drawn = panel.boxes["spectrum"].out.outputs[0]["data"]
    assert "application/vnd.plotly.v1+json" in drawn
    assert "half of the energy" in html.unescape(panel.boxes["spectrum"].text.value)
    assert "acts after all attention patterns" in panel.boxes["attention"].text.value
    panel.name.value = NAME
    assert "layer 0, q is open" in panel.status.value
    assert panel.boxes["attention"].out.outputs
    assert panel.map.chosen == NAME
    assert len(panel.problem.options) == 4  # the mean and three problems
    panel.problem.value = 1
    assert "one problem" in panel.boxes["attention"].note.value


def test_another_score_redraws_the_map_in_place(panel, explorer):
    before = panel.map.shown
    panel.score.value = "delta_norm"
    after = panel.map.shown
    assert after != before
    assert "|Δ|" in panel.caption.value
    geometry = explorer.study.tables["geometry"]
    norms = geometry[geometry["increment"] == "rlvr"].set_index("name")["delta_norm"]
    by_name = {cell["name"]: cell for cell in after["cells"]}
    assert set(by_name) == set(norms.index)
    assert float(by_name[NAME]["text"].removesuffix(" ○")) == pytest.approx(norms[NAME], rel=5e-3)
    # The colours range over both increments, so that their maps can be compared.
    assert float(after["ticks"][2]) == pytest.approx(geometry["delta_norm"].max(), rel=5e-3)
    panel.score.value = "delta_norm_sft"
    other = {cell["name"]: cell for cell in panel.map.shown["cells"]}
    assert panel.map.shown["ticks"] == after["ticks"]
    top = geometry.loc[geometry["delta_norm"].idxmax()]
    largest = (by_name if top["increment"] == "rlvr" else other)[top["name"]]
    assert (largest["colour"], largest["ink"]) == (after["colours"][-1], "#FFFFFF")
    assert before["ticks"][1] == "1×"  # the middle of the bar is as chance
    panel.score.value = "forget_effect"
    ticks = panel.map.shown["ticks"]
    assert (ticks[0], ticks[1]) == ("−" + ticks[2], "0")  # effects are signed
    click(panel, 0, 1)
    assert panel.name.value == "model.layers.0.self_attn.k_proj.weight"


def test_what_goes_wrong_in_a_callback_is_shown(panel, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("a <b>defect</b>")

    monkeypatch.setattr("mastlens.explorer.widget.each_section", fail)
    click(panel, 0, 0)
    assert 'role="alert"' in panel.status.value
    assert "ZeroDivisionError" in panel.status.value
    assert "&lt;b&gt;defect" in panel.status.value
    assert "<b>defect" not in panel.status.value
    monkeypatch.undo()
    click(panel, 0, 0)
    assert "is open" in panel.status.value
