"""Means over seeds and draws, contrasts and permutation ranks, against numbers worked out by hand and by scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mastlens.plots.study import plot_study, plot_study_selections
from mastlens.plots.tables import figure_table
from mastlens.studies.exam import measure_answers
from mastlens.studies.tables import contrast_draws, summarise_study

SEEDS = (0, 1, 2)


def arm(selection, draw, seed, retain, *, objective="ga", kind="matched", reached=True):
    row = {
        "arm": f"{objective}/{selection}/{draw}/{seed}",
        "kind": kind,
        "objective": objective,
        "selection": selection,
        "rule": selection,
        "draw": draw,
        "seed": seed,
        "reached": reached,
        "retain_accuracy": retain,
        "retain_kl": 1 - retain,
        "perplexity": math.nan,
    }
    for side in ("forget", "retain"):
        row |= {f"{side}_difference": retain - 1, f"{side}_low": retain - 1.1, f"{side}_high": retain - 0.9}
    return row | {f"forget_{m}": math.nan for m in ("accuracy", "kl", "agreement")} | {"retain_agreement": math.nan}


@pytest.fixture
def crossed():
    rows = [arm("mast", 0, seed, 0.5 + 0.1 * seed) for seed in SEEDS]
    rows += [arm("random", d, s, 0.3 + 0.05 * d + 0.1 * s) for d in range(1, 9) for s in SEEDS]
    return pd.DataFrame([arm("", 0, 0, 1.0, objective="rlvr", kind="model"), *rows])


def line(table, **keys):
    for key, value in keys.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_means_are_over_seeds_with_a_t_interval(crossed):
    row = line(summarise_study(crossed), selection="mast", measure="retain_accuracy")
    expected = stats.ttest_1samp([0.5, 0.6, 0.7], 0).confidence_interval(0.95)
    assert row["mean"] == pytest.approx(0.6)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected.low, expected.high))
    assert (row["seeds"], row["draws"], row["arms"]) == (3, 0, 3)
    assert math.isnan(row["draw_min"])


def test_random_draws_have_a_range_and_percentiles(crossed):
    row = line(summarise_study(crossed), selection="random", measure="retain_accuracy")
    draws = 0.4 + 0.05 * np.arange(1, 9)  # each draw's mean over the seeds
    assert (row["draw_min"], row["draw_max"]) == pytest.approx((draws.min(), draws.max()))
    assert (row["draw_low"], row["draw_high"]) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))
    assert (row["draws"], row["seeds"], row["arms"]) == (8, 3, 24)
    # stages of the lineage and measures that nobody took are in no row
    measures = set(summarise_study(crossed)["measure"])
    assert measures == {"retain_accuracy", "retain_kl"}
    assert "rlvr" not in set(summarise_study(crossed)["objective"])


@pytest.mark.parametrize("measure", ["retain_accuracy", "retain_kl"])
def test_a_contrast_is_paired_by_seed_and_ranked_among_the_draws(crossed, measure):
    row = line(contrast_draws(crossed), selection="mast", measure=measure)
    sign = 1 if measure == "retain_accuracy" else -1
    assert row["mean"] == pytest.approx(sign * (0.5 - (0.3 + 0.05 * 4.5)))
    # the difference is the same at every seed: nothing is left for the interval
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((row["mean"], row["mean"]))
    # mast at seed 0 is 0.5: draws 4 to 8 are at least as good, whichever way the measure is good
    assert row["as_good"] in (4, 5)  # draw 4 ties, to rounding
    assert row["permutation_p"] == (row["as_good"] + 1) / 9
    assert set(contrast_draws(crossed)["selection"]) == {"mast"}


def test_cycled_draws_are_held_against_the_same_seed():
    rows = [arm("mast", 0, seed, 0.5 + 0.2 * seed) for seed in SEEDS]
    # every draw 0.01 worse than mast at its own seed, though some are far better than mast's mean
    rows += [arm("random", d, d % 3, 0.49 + 0.2 * (d % 3)) for d in range(1, 21)]
    row = line(contrast_draws(pd.DataFrame(rows)), measure="retain_accuracy")
    assert (row["as_good"], row["draws"]) == (0, 20)
    assert row["permutation_p"] == pytest.approx(1 / 21)
    assert row["mean"] == pytest.approx(0.01)


def test_figures_hold_every_arm(crossed):
    drawn = figure_table(plot_study(crossed))
    assert sorted(drawn["arm"]) == sorted(crossed["arm"])
    fig = plot_study_selections(crossed, objective="ga")
    assert sorted(figure_table(fig)["selection"].unique()) == ["mast", "random"]
    points = {value for trace in fig.data if trace.mode == "markers" for value in trace.x}
    assert any(value == pytest.approx(60.0) for value in points)  # mast's mean, in per cent


def answers(right, responses=None, kl=0.0):
    n = len(right)
    return pd.DataFrame(
        {
            "split": ["forget"] * 4 + ["a"] * 3 + ["b"] * (n - 7),
            "item": [*range(4), *range(3), *range(n - 7)],
            "subject": "",
            "prompt": [f"p{i}" for i in range(n)],
            "response": "",
            "gold": "1",
            "answer": responses or ["1" if r else None for r in right],
            "correct": right,
            "correct_strict": right,
            "truncated": False,
            "logprob_solution": -1.0 * np.arange(n),
            "solution_tokens": np.arange(n) + 1,
            "kl_reference": kl * np.arange(n),
        }
    )


def test_measures_pool_retain_and_divide_sums_by_counts():
    source = answers([True] * 9)
    reference = answers([False] * 9, responses=["1", None, "2", "", "1", "1", "3", " 1 ", "1"])
    edited = answers([True, False, False, False, True, True, False, True, True], kl=0.5)
    table = measure_answers(edited, source, reference, perplexity=2.0).set_index("split")
    assert table.index.tolist() == ["forget", "a", "b", "retain"]
    assert table["accuracy"].tolist() == pytest.approx([0.25, 2 / 3, 1.0, 0.8])
    assert table["difference"].tolist() == pytest.approx([-0.75, -1 / 3, 0.0, -0.2])
    assert table["lost"].tolist() == [3, 1, 0, 1]
    assert table["gained"].tolist() == [0, 0, 0, 0]
    assert table.loc["retain", "logprob"] == pytest.approx(-(4 + 5 + 6 + 7 + 8) / (5 + 6 + 7 + 8 + 9))
    assert table.loc["forget", "kl"] == pytest.approx(0.5 * (0 + 1 + 2 + 3) / (1 + 2 + 3 + 4))
    # only item 0 of forget has an answer on both sides; two without one do not agree
    assert table.loc["forget", "agreement"] == pytest.approx(1 / 4)
    assert table.loc["retain", "agreement"] == pytest.approx(4 / 5)
    assert (table["perplexity"] == 2.0).all()


def test_without_a_reference_there_is_no_distance_to_one():
    source = answers([True] * 9)
    table = measure_answers(answers([True] * 9, kl=math.nan), source, None, perplexity=math.nan)
    assert table[["kl", "agreement", "perplexity"]].isna().all().all()
    assert (table["accuracy"] == 1.0).all()
