"""What is said at first glance counts only what is beyond chance: where nothing is to be found, nobody claims."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mastlens import plots
from mastlens.cli import mechanism, weights
from mastlens.explorer.scores import SCORES, score_table
from mastlens.reporting.chapters.geometry import _finding
from mastlens.reporting.wording import beside_null
from mastlens.statistics import BELOW, LEVEL, SMALLEST_LIFT, beyond_chance, claim
from mastlens.statistics.claims import BONFERRONI, HOLM, NUMBER

MEASURES = ("off_principal", "angle_left_max_deg", "angle_right_max_deg", "stable_rank")
CLAIMS = ("avoided more", "used more", "turned", "largest in", "falls", "rises", "are beyond", "is beyond chance (")


def table_of(p, *, note="", told=None, values=None, layers=None):
    """Return geometry of one increment, a row a p-value; verdicts are the p-values' own unless given."""
    many = len(p)
    rows = pd.DataFrame({"increment": "rlvr", "layer": np.arange(many) // 4, "projection": list("qkvo" * many)[:many]})
    rows["name"] = [f"w{i}" for i in range(many)]
    rows = rows.assign(rows=64, cols=64, delta_norm=1.0, delta_rms=0.1, relative_norm=0.01, rank=4, note=note)
    rows = rows.assign(precision_floor=2.0 if note else 0.1)
    for column in MEASURES:
        null = 0.99 if column == "off_principal" else 40.0
        rows[f"{column}_null"] = null
        rows[column] = (null + 1e-4 * np.arange(many)) if values is None else values
        rows[f"{column}_z"] = 0.0
        rows[f"{column}_p"] = np.nan if note else p
        rows[f"{column}_distinguishable"] = np.asarray(p) < LEVEL if told is None else told
    return rows


def heads_of(table):
    return table.assign(head=0).rename(columns=lambda name: name.replace("stable_rank", "energy_share"))


def said_of(table):
    """Return everything that is said at first glance of a table of geometry."""
    result, asked = SimpleNamespace(table=table), SimpleNamespace(out=None)
    return [
        plots.plot_off_principal(table).layout.title.text,
        plots.plot_principal_angles(table).layout.title.text,
        plots.plot_score_map(table, "stable_rank").layout.title.text,
        plots.plot_head_map(heads_of(table), "energy_share").layout.title.text,
        _finding(table, SMALLEST_LIFT).split("gives", 1)[-1],
        weights.geometry(result, asked).text.splitlines()[-1],
    ]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.sampled_from([4, 12, 96]))
def test_no_headline_claims_below_the_floor(seed, many):
    """Whatever the verdict columns hold, e.g. of an older table: nothing below the floor is told from rounding."""
    rng = np.random.default_rng(seed)
    table = table_of(rng.uniform(size=many) ** 8, note=BELOW, told=rng.random(many) < 0.5)
    table["off_principal"] = rng.uniform(0.5, 1, many)
    for said in said_of(table):
        assert not any(word in said for word in CLAIMS), said
    assert _finding(table, SMALLEST_LIFT).startswith(f"{many} of {many} increments lie below")
    for column in MEASURES:
        assert not beyond_chance(table, column).any()
    counted = beside_null(table, [(column, column) for column in MEASURES])
    assert (counted[["above chance", "below chance", "at 5 % (Holm)"]] == 0).all(axis=None)
    for score in SCORES:
        judged = score.table == "geometry" and score.beyond.endswith("_distinguishable") and score.column in table
        if judged and ("increment", "rlvr") in score.rows:
            assert not score_table({"geometry": table}, score)["beyond_chance"].any()


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.sampled_from([4, 12, 96]))
def test_no_headline_claims_where_every_p_is_ordinary(seed, many):
    p = np.random.default_rng(seed).uniform(2 * LEVEL, 1, many)
    for said in said_of(table_of(p)):
        assert not any(word in said for word in CLAIMS), said
        assert "turned no" not in said, "an absence is no finding either"


def test_a_table_of_chance_is_said_to_hold_something_as_often_as_the_level_says():
    """96 rows at p < 0.001 each have one by chance in 9 of 100 tables; Holm's level leaves 5."""
    rng, many, tables = np.random.default_rng(0), 96, 4000
    draws = rng.uniform(size=(tables, many))
    frame = pd.DataFrame({"x": np.ones(many), "x_null": 1.0})
    some = draws[draws.min(axis=1) < LEVEL]  # in the other tables no row has a verdict, and nothing counts
    assert not claim(frame.assign(x_p=0.5, x_distinguishable=False), "x").holds
    found = [claim(frame.assign(x_p=p, x_distinguishable=p < LEVEL), "x") for p in some]
    single, whole = (sum(getattr(one, what) > 0 for one in found) / tables for what in ("beyond", "together"))
    assert single == pytest.approx(1 - (1 - LEVEL) ** many, abs=0.015)
    assert whole < 0.06 < single
    assert sum(one.beyond for one in found) / tables == pytest.approx(found[0].by_chance, rel=0.25)
    # Without p-values the count decides, and claims no more often.
    bare = [claim(frame.assign(x_distinguishable=p < LEVEL), "x") for p in some]
    assert sum(one.holds for one in bare) / tables < 0.06
    assert {one.level for one in found} == {HOLM} and {one.level for one in bare} == {NUMBER}
    single = next(one for one in bare if one.beyond == 1)
    assert "over the table (by their number, 5 %)" in single.sentence("x"), "nobody says Holm where there is no p"


def test_what_is_there_is_said_with_what_chance_gives_and_how_far_it_goes():
    p = np.array([1e-9] * 10 + [5e-4] * 2 + [0.5] * 84)
    values = np.where(np.arange(96) < 6, 0.98, np.where(np.arange(96) < 12, 0.9905, 0.99))
    table = table_of(p, values=values)
    found = claim(table, "off_principal")
    assert (found.of, found.above, found.below, found.floor) == (96, 6, 6, 0)
    assert found.together == int((multipletests(p, method="holm")[1] <= 0.05).sum()) == 12
    assert found.by_chance == pytest.approx(0.096)
    assert found.small == 6, "0.95 of what chance puts inside is too near to it to matter"
    said = found.sentence("projection")
    assert said.startswith("12 of 96 projections are beyond chance (chance alone gives about 0.1)")
    assert said.endswith("6 of them too small to matter")
    lifts = np.log((1 - values) / 0.01)
    assert found.lift == pytest.approx(math.exp(lifts.mean()))
    assert found.lift_interval.low < found.lift < found.lift_interval.high
    assert found.lift_interval.high < 1.1 * math.exp(stats.ttest_1samp(lifts, 0).confidence_interval().high)
    assert "principal directions avoided more in 6 and used more in 6" in plots.plot_off_principal(
        table
    ).layout.title.text.replace("<br>", " ")
    near = claim(table, "off_principal", smallest=3.0)
    assert near.small == near.beyond and "too small to matter (within 3 times" in near.sentence("projection")
    assert not near.matters and found.matters


def test_a_row_that_only_its_own_level_lets_through_is_no_headline():
    table = table_of(np.array([8e-4] + [0.5] * 95))
    found = claim(table, "off_principal")
    assert (found.beyond, found.together) == (1, 0)
    assert "none of 96 projections is beyond chance over the table (Holm, 5 %): 1 by itself" in found.sentence(
        "projection"
    )


def test_coupling_counts_what_is_beyond_chance():
    rows = table_of(np.ones(8))[["layer", "projection", "name", "rows", "cols"]]
    none = rows.assign(forget_cosine=-1e-4, forget_cosine_p=0.9, forget_above_chance=False)
    title = plots.plot_coupling(none).layout.title.text.replace("<br>", " ")
    assert "none of 8 projections is beyond chance" in title and "falls" not in title
    some = none.assign(forget_cosine=np.where(np.arange(8) < 2, -0.4, 0.3 * (np.arange(8) == 5)))
    some["forget_above_chance"] = some["forget_cosine"] != 0
    title = plots.plot_coupling(some).layout.title.text.replace("<br>", " ")
    assert "3 of 8 projections are beyond chance" in title and "falls in 2 and rises in 1" in title
    heads = plots.plot_coupling_heads(none.assign(head=0)).layout.title.text.replace("<br>", " ")
    assert "none of 8 heads is beyond chance" in heads
    assert claim(some, "forget_cosine").level == BONFERRONI
    for table, said in ((none, "none of 8 tensors is beyond chance"), (some, "3 of 8 tensors are beyond chance")):
        outcome = mechanism.couple(SimpleNamespace(table=table), SimpleNamespace(out=None))
        assert said in outcome.conclusion.splitlines()[-1]


def test_directions_paths_and_masks_go_through_the_same_count():
    """A spectrum's coefficient stands beside its spread, not beside a mean: its null is 0, its level Bonferroni's."""
    rows = table_of(np.ones(8))[["layer", "projection", "name"]]
    pieces = rows.assign(side="forget", index=1, directions=1, singular_value=1.0, contribution=0.1, cosine_part=0.1)
    pieces = pieces.assign(coefficient=[-3.0, 2.0] * 4, coefficient_null=5.0, z=1.0, p=1e-9)
    pieces["above_chance"] = np.arange(8) < 3
    found = claim(pieces, "coefficient")
    assert (found.above, found.below, found.level, found.by_chance) == (1, 2, BONFERRONI, 0.05)
    title = plots.plot_coupling_spectrum(pieces).layout.title.text.replace("<br>", " ")
    assert "3 of 8 singular directions are beyond chance (chance alone gives about 0.05)" in title
    none = plots.plot_coupling_spectrum(pieces.assign(above_chance=False)).layout.title.text.replace("<br>", " ")
    assert "none of 8 singular directions is beyond chance" in none
    path = rows.assign(delta_norm=1.0, note="")
    for name, value in (("explained_variance", 0.94), ("linearity", 0.9), ("increment_cosine", 0.3)):
        path = path.assign(**{name: value, f"{name}_walk": 0.5, f"{name}_adamw": 0.88, f"{name}_p": 1e-9})
        path[f"{name}_distinguishable"] = True
    assert claim(path, "increment_cosine").level == HOLM, "a cosine of steps has a verdict a row"
    assert claim(path, "explained_variance").lift == pytest.approx(0.5), "half of what AdamW on noise leaves"
    said = weights.trajectory(SimpleNamespace(table=path, checkpoints={}), SimpleNamespace(out=None)).conclusion
    assert "linearity: 8 of 8 tensors are beyond chance (chance alone gives about 0.008)" in said
    assert claim(path.assign(note=BELOW), "linearity").beyond == 0
