"""The committed figures hold what the code gives now, and the command draws them again."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mastlens
from mastlens import plots
from mastlens.cli import main
from mastlens.errors import MastlensError
from mastlens.paper import CAPTIONS, SUBTITLE, captions, make_paper_figures
from mastlens.paper.catalogue import FIGURES
from mastlens.paper.drawing import R2MU
from mastlens.paper.sources import PaperSources, ranked
from mastlens.statistics import mcnemar_exact
from mastlens.studies.tables import contrast_draws, summarise_study

COMMITTED = Path(__file__).parents[2] / "figures"
NAMES = [entry.name for entry in FIGURES if entry.name != "r2mu" or (COMMITTED / R2MU).is_file()]
pytestmark = pytest.mark.skipif(not (COMMITTED / CAPTIONS).is_file(), reason="an installation without the figures")


def committed(name):
    return pd.read_csv(COMMITTED / f"{name}.csv")


def same(drawn, kept, keys):
    """Hold two tables against each other, to what float32 arithmetic on another machine may change."""
    left, right = (table.sort_values(keys, ignore_index=True) for table in (drawn, kept))
    empty = [name for name in right if right[name].isna().all() and pd.api.types.is_string_dtype(left[name])]
    right = right.astype(dict.fromkeys(empty, object)).fillna(dict.fromkeys(empty, ""))  # a text of no letters
    # A figure that is drawn today may carry more columns than the one that was kept.
    pd.testing.assert_frame_equal(left[right.columns], right, check_dtype=False, rtol=1e-5, atol=1e-9)


@pytest.fixture(scope="module")
def geometry():
    stages = {stage: f"organism:qwen2/{stage}" for stage in ("base", "sft", "rlvr")}
    return mastlens.geometry(**stages, full=True, progress=False).table


@pytest.fixture(scope="module")
def study():
    return committed("study-study")


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("off-principal", plots.plot_off_principal),
        ("magnitude", plots.plot_increment_magnitude),
        ("principal-angles", plots.plot_principal_angles),
    ],
)
def test_geometry_of_the_organism_is_what_the_figures_show(name, draw, geometry):
    keys = ["layer", "projection", *(["increment"] if name != "off-principal" else [])]
    same(draw(geometry).table, committed(name), keys)


def test_ranking_and_selection_follow_from_geometry_and_coupling(geometry):
    cosines = committed("coupling")
    ranking = ranked(geometry, cosines, "mast", 12)
    same(plots.plot_selection(ranking).table, committed("selection"), ["rank"])
    same(plots.plot_score_decomposition(ranking).table, committed("score-decomposition"), ["rank"])


def test_items_and_outcome_are_of_the_same_answers():
    items, outcome = committed("items"), committed("outcome").set_index("arm")
    change = items["after"].astype(float) - items["before"].astype(float)
    forget = items["split"] == "forget"
    selected = next(arm for arm in outcome.index if arm.startswith("MAST"))
    assert change[forget].mean() == pytest.approx(outcome.loc[selected, "forget_difference"])
    assert change[~forget].mean() == pytest.approx(outcome.loc[selected, "retain_difference"])
    lost, gained = int((change[forget] < 0).sum()), int((change[forget] > 0).sum())
    p = mcnemar_exact(lost, gained)
    assert f"{lost} lost, {gained} gained of {forget.sum()} (exact McNemar p = {p:.2g})" in plots.plot_items(
        items
    ).to_json().replace("\\u003cb\\u003e", "").replace("\\u003c\\u002fb\\u003e", "")


def test_views_count_answers_as_the_outcome_does():
    views, outcome = committed("views"), committed("outcome").set_index("arm")
    accuracy = views[views["measure"].str.startswith("accuracy")].set_index("arm")["value"]
    assert len(accuracy) == len(outcome)
    for arm, value in accuracy.items():
        assert value == pytest.approx(100 * outcome.loc[arm, "forget_difference"])


def test_the_studys_tables_follow_from_its_arms(study):
    keys = ["objective", "selection", "measure"]
    same(summarise_study(study), committed("study-summary"), keys)
    same(contrast_draws(study), committed("study-contrasts"), [*keys, "control"])


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("study-")])
def test_study_figures_are_drawn_from_the_committed_tables(name):
    entry = next(entry for entry in FIGURES if entry.name == name)
    drawn = entry.draw(PaperSources(Path("nowhere"), COMMITTED), SUBTITLE).table
    kept = committed(name)
    assert list(drawn.columns) == list(kept.columns)
    for column in drawn:
        if pd.api.types.is_float_dtype(drawn[column]):
            np.testing.assert_allclose(drawn[column], kept[column], rtol=1e-9, atol=1e-12)


def test_every_figure_is_committed_with_data_image_and_caption():
    text = (COMMITTED / CAPTIONS).read_text(encoding="utf-8")
    for name in NAMES:
        assert f"## {name}\n" in text
        assert (COMMITTED / f"{name}.svg").is_file()
        assert f"({name}.csv)" in text
        assert f"Rows of data: {len(committed(name))} " in text
    assert text.count("\n## ") == len(NAMES)
    kept = [path for path in COMMITTED.iterdir() if path.suffix in (".csv", ".svg", ".md")]
    assert sum(path.stat().st_size for path in kept) < 3e6


def test_only_some_figures_and_no_study(tmp_path):
    demo = tmp_path / "demo"
    demo.mkdir()
    with pytest.raises(MastlensError, match=r"no figure 'outcom'.*outcome"):
        make_paper_figures(tmp_path / "out", demo=demo, only=["outcom"])
    with pytest.raises(MastlensError, match="Run the demo first"):
        make_paper_figures(tmp_path / "out", demo=demo, only=["outcome"])
    with pytest.raises(MastlensError, match="could be drawn"):
        make_paper_figures(tmp_path / "out", demo=demo, only=["study-ga"], images=())
    assert not (tmp_path / "out").exists()
    made = make_paper_figures(tmp_path / "out", demo=demo, study=COMMITTED, only=["study-ga", "r2mu"], images=())
    assert list(made.figures) == ["study-ga"] or (COMMITTED / R2MU).is_file()
    assert (tmp_path / "out" / "study-ga.csv").read_bytes() == (COMMITTED / "study-ga.csv").read_bytes()
    assert not (tmp_path / "out" / CAPTIONS).exists()


def test_r2mu_has_its_place(tmp_path):
    rows = [("R2MU", "forgotten (points)", 1.0, 0.5, 1.5), ("RMU", "forgotten (points)", 2.0, 1.0, 3.0)]
    table = pd.DataFrame(rows, columns=["arm", "measure", "value", "ci_low", "ci_high"])
    table.to_csv(tmp_path / R2MU, index=False)
    entry = next(entry for entry in FIGURES if entry.name == "r2mu")
    figure = entry.draw(PaperSources(tmp_path, tmp_path), SUBTITLE)
    pd.testing.assert_frame_equal(figure.table, table)
    assert "## r2mu" in captions({entry: figure})


def test_the_command_draws_and_says_what_is_left_out(tmp_path, capsys):
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "arms.parquet").touch()  # a finished demo has it; the figures asked for read nothing else of it
    given = ["figures", "--demo", str(demo), "--study", str(COMMITTED), "--only", "study-controls", "--images"]
    assert main([*given, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"].keys() == {"study-controls"}
    assert told["note"] == ""
    assert all(Path(file).is_file() for file in told["files"])
    assert not any(file.endswith(("svg", "pdf")) for file in told["files"])  # --images alone: none
    assert main([*given, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("study-controls: Under ")
