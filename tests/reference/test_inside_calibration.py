"""What chance makes of a pair of models is not called beyond chance by the commands of ``inside``; plants are found.

The long table of ``benchmarks/calibration.py --family inside`` is in docs/results; here are two of its lineages.
"""

import numpy as np
import pytest

import mastlens
from benchmarks.calibration import main, read
from benchmarks.calibration_draws import PLANTED, Cell
from benchmarks.calibration_inside import FEW, LOOSE, STATES
from benchmarks.calibration_lineages import draw_lineage
from benchmarks.calibration_page_inside import SOUGHT
from mastlens.analysis.increments.nulls import sampled_null
from mastlens.analysis.inside.nulls import (
    FIRST_ORDER,
    beside_first_order,
    beside_null,
    beside_nulls,
    beside_shuffled,
)


def test_the_short_calibration_of_inside(tmp_path):
    """One lineage in bfloat16 in which nothing is to be found, and one in which everything is."""
    main(["--out", str(tmp_path), "--family", "inside", "--short"])
    table = read(tmp_path)
    assert set(table["family"]) == {"inside"}
    planted, loose = table["increment"].isin(PLANTED), table["column"].str.startswith(LOOSE)
    chance, found = table[~planted & ~loose], table[planted].set_index("column")
    rows = chance[~chance["column"].str.startswith("table/")]
    assert len(rows) >= 25 and rows["n"].sum() >= 150
    assert rows["hits"].sum() <= 1, rows[rows["hits"] > 0]
    assert (found.loc[list(SOUGHT["taught"]), "hits"] == 1).all(), found.loc[list(SOUGHT["taught"])]
    page = tmp_path / "page.md"
    main(["--out", str(tmp_path), "--page", str(page)])
    text = page.read_text()
    assert "# Calibration of inside" in text and "`table/steer-uphill/effect`" in text and "`undo/back`" in text


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


@pytest.mark.parametrize("kind", ["gaussian", "heavy"])
def test_rounding_behind_an_exchange_is_no_effect(tmp_path, kind):
    """Before: of 16-bit models and small increments a quarter of exact effects had p < 0.05, and some p < 0.001."""
    drawn = draw_lineage(Cell("bfloat16", "rows", kind, 1.3, "inside"), 0, STATES, tmp_path)
    table = mastlens.inside_patch(**drawn.pair, splits={"f": drawn.problems}, limit=FEW).table
    assert (table["effect_p"] >= table["first_order_p"] - 1e-12).all()
    decided = table["effect_judged_by"] == FIRST_ORDER
    assert decided.any() and not decided.all()
    assert not table["effect_distinguishable"].any() and not table["first_order_distinguishable"].any()
