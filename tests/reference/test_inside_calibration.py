"""What chance makes of a pair of models is not called beyond chance by the commands of ``inside``; plants are found.

The long table of ``benchmarks/calibration.py --family inside`` is in docs/results; here are a few of its lineages.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import mastlens
from benchmarks.calibration import main, read
from benchmarks.calibration_draws import Cell
from benchmarks.calibration_inside import FEW, LOOSE, STATES
from benchmarks.calibration_lineages import LAYERS, TAUGHT, draw_lineage
from mastlens.analysis.increments.nulls import sampled_null
from mastlens.analysis.inside.crosscoders import read_crosscoder
from mastlens.analysis.inside.nulls import (
    FIRST_ORDER,
    beside_first_order,
    beside_null,
    beside_nulls,
    beside_shuffled,
    beside_shuffled_cosine,
)


@pytest.mark.long  # its parts are held below
def test_the_short_calibration_of_inside(tmp_path):
    """Every command on a lineage in bfloat16 in which nothing is to be found; and the page of it."""
    main(["--out", str(tmp_path), "--family", "inside", "--short"])
    table = read(tmp_path)
    assert set(table["family"]) == {"inside"}
    verdicts = table[~table["column"].str.startswith(LOOSE)]
    rows = verdicts[~verdicts["column"].str.startswith("table/")]
    assert len(rows) >= 25 and rows["n"].sum() >= 150
    assert rows["hits"].sum() <= 1, rows[rows["hits"] > 0]
    assert {name.split("/")[0] for name in rows["column"]} > {"depart", "write", "patch", "path", "undo", "direct"}
    assert {"table/dictionary/change", "table/crosscoder/active"} < set(verdicts["column"])
    page = tmp_path / "page.md"
    main(["--out", str(tmp_path), "--page", str(page)])
    text = page.read_text()
    assert "# Calibration of inside" in text and "`table/crosscoder/active`" in text and "`undo/back`" in text


def test_what_is_taught_is_found(tmp_path):
    """RLVR is a step up the solutions' gradient, and the edit takes half of it back."""
    drawn = draw_lineage(Cell("bfloat16", "rows", TAUGHT, 4.0, "inside"), 0, STATES, tmp_path)
    told = {"splits": {"f": drawn.problems}, "limit": FEW}
    departure = mastlens.inside_depart(**drawn.pair, **told).table.set_index("site")
    assert departure.loc["logits", "kl_distinguishable"]
    undone = mastlens.inside_undo(**drawn.pair, **told, edited=tmp_path / "edited").table
    assert undone["back_distinguishable"].mean() > 0.8 and 0.3 < undone["back"].median() < 0.7
    assert undone["said_back_distinguishable"].any()


def test_an_exact_effect_counts_only_where_its_first_order_does():
    draws = [0.9, 1.0, 1.1, 1.05, 0.95, 1.02, 0.97, 1.01]
    far = beside_null("effect", 9.0, draws)
    assert far["effect_distinguishable"]
    inside, both = (beside_first_order("effect", 9.0, draws, own) for own in (1.0, 8.0))
    assert not inside["effect_distinguishable"] and inside["effect_judged_by"] == FIRST_ORDER
    assert inside["effect_p"] == beside_null("effect", 1.0, draws)["effect_p"]
    assert both["effect_distinguishable"]
    assert {name: inside[f"effect{name}"] for name in ("", "_null", "_z")} == {
        name: far[f"effect{name}"] for name in ("", "_null", "_z")
    }
    assert beside_first_order("effect", 1.0, draws, 9.0) == beside_null("effect", 1.0, draws)
    assert beside_first_order("effect", 9.0, [], 9.0)["effect_judged_by"] == ""


@pytest.mark.parametrize("draws", range(2, 21))
def test_draws_that_are_all_one_leave_no_freedom(draws):
    """Before: rounding of their mean left a spread of 1e-17, of which every other value was far out."""
    for count in range(1, 60):
        row = beside_null("top_differs", (count + 1) / 151, [count / 151] * draws)
        assert row["top_differs_p"] == 1 and not row["top_differs_distinguishable"]
        row = beside_shuffled("auc", 0.9, [count / 151] * draws)
        assert row["auc_p"] == 1 and not row["auc_distinguishable"]


def test_cosines_of_directions_from_random_labels():
    """Before: of states that lie along few axes, as a network's do, 2 to 3 % of cosines had p < 0.001."""
    generator, texts, width, told = np.random.default_rng(0), 28, 32, np.zeros(2)
    for _ in range(400):
        before = generator.normal(size=(texts, width)) * np.arange(1, width + 1.0) ** -2.0
        after = before + 0.05 * (before @ generator.normal(size=(width, width)) / width**0.5)
        after += 0.01 * generator.normal(size=(texts, width))
        signs = np.array([generator.permutation(texts) < texts // 2 for _ in range(21)]) * 2.0 - 1
        one, other = signs @ before, signs @ after
        value, *draws = ((one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))).tolist()
        for which, beside in enumerate((beside_shuffled, beside_shuffled_cosine)):
            told[which] += beside("cosine", value, draws)["cosine_distinguishable"]
    assert told[0] >= 5 and told[1] <= 3, told  # of 400 at 0.1 %


def test_fishers_z_says_what_it_is_given():
    draws = [0.5, 0.6, 0.55, 0.52]
    row, plain = (
        beside_shuffled_cosine("cosine", 0.9, draws),
        beside_shuffled("z", float(np.arctanh(0.9)), np.arctanh(draws).tolist()),
    )
    assert row["cosine"] == 0.9 and row["cosine_null"] == pytest.approx(np.tanh(np.arctanh(draws).mean()))
    assert [row[f"cosine_{end}"] for end in ("z", "p")] == [plain[f"z_{end}"] for end in ("z", "p")]
    same = beside_shuffled_cosine("cosine", 1.0, [1.0, 1.0000000000000002, 1.0])
    assert same["cosine_p"] == 1 and same["cosine_null"] == pytest.approx(1)
    assert np.isnan(beside_shuffled_cosine("cosine", float("nan"), draws)["cosine_p"])
    assert np.isnan(beside_shuffled_cosine("cosine", 0.5, [0.5, float("nan")])["cosine_null"])


def test_a_step_is_in_the_spread_of_what_counts():
    draws = np.array([[1.0, 3.0, 2.0], [1.0 + 1e-6, 3.0, 2.5], [1.0 - 1e-6, 3.0, 1.5], [1.0, 3.0, 2.0]])
    values, step = np.array([1.5, 4.0, 2.2]), np.array([0.5, 0.5, 0.5])
    mean, z, p = beside_nulls(values, draws, step)
    assert beside_nulls(values, draws)[2][0] < 1e-9 < 0.1 < p[0]
    assert p[1] == 1 and np.isnan(z[1])  # what no draw changes has no spread, step or not
    sd = np.sqrt(draws[:, 2].var(ddof=1) + 0.25 / 12)
    np.testing.assert_allclose(z[2], (2.2 - 2.0) / sd)
    law = sampled_null(draws[:, 0].tolist(), step=0.5)
    np.testing.assert_allclose(p[0], law.p_value(1.5), rtol=1e-9)
    none = beside_nulls(values, draws, 0.0)
    np.testing.assert_array_equal(none[2], beside_nulls(values, draws)[2])
    np.testing.assert_array_equal(mean, none[0])


def test_rounding_behind_an_exchange_is_no_effect(tmp_path):
    """Before: of 16-bit models and small increments a quarter of exact effects had p < 0.05, and some p < 0.001."""
    drawn = draw_lineage(Cell("bfloat16", "rows", "heavy", 1.3, "inside"), 0, STATES, tmp_path)
    table = mastlens.inside_patch(**drawn.pair, splits={"f": drawn.problems}, limit=FEW).table
    assert (table["effect_p"] >= table["first_order_p"] - 1e-12).all()
    decided = table["effect_judged_by"] == FIRST_ORDER
    assert decided.any() and not decided.all()
    assert not table["effect_distinguishable"].any() and not table["first_order_distinguishable"].any()


def test_one_token_more_at_which_a_feature_is_on_is_no_finding(tmp_path):
    """Before: in 7 of 29 lineages without a finding, some features of a crosscoder were called RLVR's."""
    drawn = draw_lineage(Cell("float32", "rows", "gaussian", 1.3, "inside"), 0, STATES, tmp_path)
    crosscoder = tmp_path / "crosscoder"
    least = read_crosscoder(crosscoder).least
    torch.testing.assert_close(least, torch.ones_like(least))  # its threshold; decoders are of length 1 and 0
    assert not replace(read_crosscoder(crosscoder), threshold=None).least.any()
    told = mastlens.inside_crosscoder(
        **drawn.pair, splits={"f": drawn.problems}, limit=FEW, crosscoder=crosscoder, layer=LAYERS - 1
    ).table
    free = told[told["active_z"].notna()]
    spread = (free["active"] - free["active_null"]).abs() / free["active_z"].abs()
    one_token = 1 / free["tokens"]
    assert len(free) > 50 and (spread >= 0.999 * one_token / 12**0.5).all()
    near = (free["active"] - free["active_null"]).abs() < one_token
    assert near.any() and (free.loc[near, "active_p"] > 0.05).all()
    assert not told["active_distinguishable"].any()
