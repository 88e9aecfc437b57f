"""Statistics against statsmodels, and against the published values."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from mastlens.errors import MastlensError
from mastlens.statistics import (
    difference_interval,
    few_clusters,
    holm,
    mcnemar_exact,
    mean_interval,
    newcombe_paired,
    paired_interval,
    pass_at_k,
    ratio_interval,
    ratio_intervals,
    sampled_accuracy,
    seed_interval,
    seed_spread,
    share_interval,
    wilson,
)
from mastlens.statistics.units import Units


@pytest.mark.parametrize(
    ("b", "c", "p"), [(8, 0, 0.0078125), (9, 1, 0.021484375), (10, 2, 0.038574), (0, 0, 1.0), (5, 5, 1.0)]
)
def test_mcnemar_published_values(b, c, p):
    assert mcnemar_exact(b, c) == pytest.approx(p, abs=5e-7)
    assert mcnemar_exact(c, b) == mcnemar_exact(b, c)


def test_only_eight_to_nothing_gives_the_published_p():
    found = {b: mcnemar_exact(b, b - 8) for b in range(8, 30)}
    assert found[8] == 2 * 2**-8
    assert all(p > 0.02 for b, p in found.items() if b > 8)


def test_mcnemar_agrees_with_statsmodels():
    grid = [*itertools.product(range(12), range(12)), (40, 17), (17, 40), (300, 260), (1000, 900)]
    for b, c in grid:
        expected = mcnemar([[7, b], [c, 11]], exact=True).pvalue if b + c else 1.0
        found = mcnemar_exact(b, c)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-15), (b, c)
        assert 0 < found <= 1


def test_mcnemar_does_not_underflow_or_pass_one():
    assert mcnemar_exact(2000, 0) >= 0
    assert mcnemar_exact(1, 1) == 1.0  # twice the tail is more than one


def test_wilson_agrees_with_statsmodels():
    """At Student's quantile; statsmodels takes the normal one: it is asked for the level at which that is as large."""
    for n, level in itertools.product((4, 10, 150, 1319), (0.9, 0.95, 0.99)):
        quantile = stats.t.isf((1 - level) / 2, max(n - 1, 1))
        for k in sorted({0, 1, n // 3, n - 1, n}):
            low, high = proportion_confint(k, n, alpha=2 * stats.norm.sf(quantile), method="wilson")
            found = wilson(k, n, level=level)
            assert found.low == pytest.approx(low, abs=1e-9)
            assert found.high == pytest.approx(high, abs=1e-9)
            assert 0 <= found.low <= k / n + 1e-12
            assert k / n - 1e-12 <= found.high <= 1


def test_wilson_by_hand():
    # t of 9 degrees of freedom = 2.262157; 0 of 10: high = t^2 / (10 + t^2) = 5.117355 / 15.117355
    found = wilson(0, 10)
    assert found.low == pytest.approx(0, abs=1e-12)
    assert found.high == pytest.approx(0.338508, abs=1e-6)


def lost(n, b, c=0):
    """Return paired outcomes in which ``b`` of n were lost and ``c`` gained."""
    before = np.zeros(n)
    after = np.zeros(n)
    before[:b] = 1
    after[b : b + c] = 1
    return before, after


def test_the_difference_of_the_published_headline_by_hand():
    """Eight lost of 150; with one more lost and one gained: -8 / 152, and the spread of those 152 about it."""
    found = difference_interval(*lost(150, 8))
    centre = -8 / 152
    square = 8 * (1 + centre) ** 2 + 142 * centre**2  # the items seen, about the new centre
    variance = (square * 150 / 149 + (1 - centre) ** 2 + (1 + centre) ** 2) / 152**2
    reach = stats.t.isf(0.025, 149) * np.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach), rel=1e-12)
    assert 100 * found.low == pytest.approx(-9.297, abs=1e-3)
    # Bonett and Price's own formula, on counts and at the normal quantile, is the same but for n / (n - 1).
    own = stats.norm.isf(0.025) * np.sqrt(((9 + 1) / 152 - centre**2) / 152)
    assert reach == pytest.approx(own, rel=0.02)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1)]), min_size=1, max_size=40))
def test_the_difference_is_antisymmetric_and_has_a_width(pairs):
    before, after = np.array(pairs).T
    forth, back = difference_interval(before, after), difference_interval(after, before)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert -1 <= forth.low < forth.high <= 1
    assert forth == paired_interval(before.astype(bool), after.astype(bool)), "truth values are outcomes too"
    wide = difference_interval(before, after, level=0.99)
    assert wide.low <= forth.low and forth.high <= wide.high


def test_numbers_are_paired_and_not_taken_for_outcomes():
    """All items equally changed: paired, there is no uncertainty; unpaired there would be."""
    before = np.arange(50) % 2
    interval = paired_interval(before * 0.5, before * 0.5 + 0.25)
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))
    with pytest.raises(MastlensError, match="same items"):
        paired_interval(before, before[:-1])


# Newcombe (1998), Statistics in Medicine 17, 2635, table III, method 10; first counted minus second.
NEWCOMBE_TABLE_III = {
    (36, 12, 2, 0): (0.0569, 0.3404),
    (20, 12, 2, 16): (0.0562, 0.3292),
    (18, 12, 2, 18): (0.0562, 0.3290),
    (36, 14, 0, 0): (0.1528, 0.4167),
    (18, 14, 0, 18): (0.1441, 0.3963),
    (2, 97, 1, 0): (0.8721, 0.9854),
    (0, 29, 1, 0): (0.6666, 0.9882),
    (0, 30, 0, 0): (0.8395, 1.0),
    (54, 0, 0, 0): (-0.0664, 0.0664),
    (53, 0, 0, 1): (-0.0729, 0.0729),
    (27, 0, 0, 27): (-0.0351, 0.0351),
}


@pytest.mark.parametrize(("cells", "published"), NEWCOMBE_TABLE_III.items())
def test_newcombe_published_values(cells, published):
    both, first_only, second_only, neither = cells
    found = newcombe_paired(both, first_only, second_only, neither)  # after - before, so signs are turned
    assert (-found.high, -found.low) == pytest.approx(published, abs=6e-5)


def test_newcombe_without_correlation_is_the_interval_of_independent_samples():
    for both, b, c, neither in ((6, 4, 9, 6), (20, 10, 4, 2), (1, 1, 1, 1)):
        assert both * neither == b * c
        n = both + b + c + neither
        low, high = confint_proportions_2indep(both + c, n, both + b, n, method="newcomb", compare="diff")
        found = newcombe_paired(both, b, c, neither)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


COUNTS = st.integers(0, 60)
PAIRED = st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(any)


@settings(max_examples=50, deadline=None)
@given(PAIRED, st.floats(0.5, 0.99))
def test_newcombe_contains_the_difference_and_is_antisymmetric(cells, level):
    both, b, c, neither = cells
    found, turned = newcombe_paired(both, b, c, neither, level=level), newcombe_paired(both, c, b, neither, level=level)
    assert -1 <= found.low <= (c - b) / sum(cells) + 1e-9
    assert (c - b) / sum(cells) - 1e-9 <= found.high <= 1
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    swapped = newcombe_paired(neither, b, c, both, level=level)  # right and wrong change places: so do the sides
    assert (swapped.low, swapped.high) == pytest.approx((found.low, found.high), abs=1e-9)
    assert found.high - found.low > 1e-3


def test_newcombe_covers_where_a_bootstrap_has_no_width():
    rng, truth, n = np.random.default_rng(0), (0.55, 0.03, 0.01, 0.41), 60
    drawn, counts = np.unique(rng.multinomial(n, truth, size=2000), axis=0, return_counts=True)
    intervals = [newcombe_paired(*map(int, cells)) for cells in drawn]
    covered = np.average([i.low <= truth[2] - truth[1] <= i.high for i in intervals], weights=counts)
    assert covered > 0.93
    unchanged = (drawn[:, 1] == 0) & (drawn[:, 2] == 0)
    assert counts[unchanged].sum() > 100
    assert all(i.low < -0.02 < 0.02 < i.high for i, none in zip(intervals, unchanged, strict=True) if none)


def test_means_of_numbers_without_skewness_are_students_t():
    half = np.random.default_rng(0).normal(size=40)
    values = np.concatenate([half, -half]) + 3.0  # symmetric to the last bit but rounding
    for level in (0.8, 0.95, 0.99):
        found, expected = mean_interval(values, level=level), DescrStatsW(values).tconfint_mean(alpha=1 - level)
        assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)


def test_skewness_is_taken_out_as_hall_says():
    """His cubic, g(w) = w + c w^2 / 3 + c^2 w^3 / 27 + c / (6 n), turned round by root finding."""
    values = np.random.default_rng(3).lognormal(size=25)
    n, c, sd = len(values), stats.skew(values), values.std(ddof=1)
    quantile = stats.t.isf(0.025, n - 1) / np.sqrt(n)

    def turned(at):
        return optimize.brentq(lambda w: w + c * w**2 / 3 + c**2 * w**3 / 27 + c / (6 * n) - at, -50, 50)

    found = mean_interval(values)
    assert found.low == pytest.approx(values.mean() - sd * max(quantile, turned(quantile)), rel=1e-9)
    assert found.high == pytest.approx(values.mean() - sd * turned(-quantile), rel=1e-9)
    assert -turned(-quantile) > 1.1 * quantile > 1.1 * turned(quantile)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_intervals_of_numbers_move_with_them(seed, scale, shift):
    values = np.random.default_rng(seed).exponential(size=12)
    first, moved = mean_interval(values), mean_interval(scale * values + shift)
    assert (moved.low, moved.high) == pytest.approx((scale * first.low + shift, scale * first.high + shift), rel=1e-6)
    turned = mean_interval(-values)
    assert (turned.low, turned.high) == pytest.approx((-first.high, -first.low), rel=1e-9)
    assert first.low < values.mean() < first.high
    rows = ratio_intervals(np.stack([values, -values]), np.ones(12))
    assert rows[0][0] == first.low and rows[1][1] == turned.high


def test_a_ratio_weighs_by_the_denominator():
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 40, 300)
    sums = counts * rng.normal(2.0, 0.5, 300)
    found = ratio_interval(sums, counts)
    ratio = sums.sum() / counts.sum()
    error = np.sqrt(np.sum((sums - ratio * counts) ** 2)) / counts.sum()  # the delta method
    assert (found.low, found.high) == pytest.approx((ratio - 1.97 * error, ratio + 1.97 * error), abs=0.1 * error)
    plain = mean_interval(sums / counts)
    assert abs(plain.low - found.low) > 1e-3, "the mean of ratios is something else"


def test_clusters_agree_with_the_cluster_robust_error():
    import statsmodels.api as sm

    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(120), rng.integers(1, 9, 120))
    values = rng.normal(size=120)[clusters] + 0.3 * rng.normal(size=len(clusters))
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    found, naive = mean_interval(values, clusters=clusters), mean_interval(values)
    assert (found.high - found.low) / (2 * stats.t.isf(0.025, 119)) == pytest.approx(float(fit.bse[0]), rel=0.06)
    assert found.high - found.low > 1.5 * (naive.high - naive.low)
    # Of shares: the variance between clusters is statsmodels' own, up to its small-sample factor.
    chosen = values > 0.5
    fit = sm.OLS(chosen * 1.0, np.ones(len(chosen))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    correction = np.sqrt((len(chosen) - 1) / len(chosen))  # it multiplies by (n - 1) / (n - k)
    assert np.sqrt(Units.of(chosen, clusters=clusters).variance()) == pytest.approx(
        float(fit.bse[0]) * correction, rel=0.01
    )


@pytest.mark.parametrize("interval", [difference_interval, paired_interval])
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_copies_are_no_evidence(interval, seed, copies):
    """An item answered ``copies`` times alike is as good as once: for shares, up to the item that is added to them."""
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, 2, (2, 30))
    often = interval(*(np.repeat(side, copies) for side in (before, after)), clusters=np.repeat(np.arange(30), copies))
    counted = interval(before, after, counts=np.full(30, copies))
    assert (often.low, often.high) == pytest.approx((counted.low, counted.high))
    once = interval(before, after)  # the item that is added weighs more where each stands for one answer
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.35)
    assert often.high - often.low < 1.03 * (once.high - once.low)
    labels = [f"name {x}" for x in rng.permutation(30)]
    renamed, plain = interval(before, after, clusters=labels), interval(before, after)
    assert (renamed.low, renamed.high) == pytest.approx((plain.low, plain.high))
    numbers = rng.normal(size=30)
    copied = mean_interval(np.repeat(numbers, copies), clusters=np.repeat(np.arange(30), copies))
    assert (copied.low, copied.high) == pytest.approx((mean_interval(numbers).low, mean_interval(numbers).high))


def test_a_share_of_single_outcomes_is_wilsons():
    outcomes = np.arange(40) < 13
    assert share_interval(outcomes) == wilson(13, 40)
    assert share_interval(outcomes, clusters=np.arange(40)) == wilson(13, 40)
    alike = share_interval(np.repeat(outcomes, 5), clusters=np.repeat(np.arange(40), 5))
    assert (alike.low, alike.high) == pytest.approx((wilson(13, 40).low, wilson(13, 40).high), abs=2e-3)
    apart = share_interval(np.full(40, 0.3), counts=np.full(40, 10))  # nothing between items: as 400 outcomes
    normal = proportion_confint(120, 400, method="wilson")
    assert (apart.low, apart.high) == pytest.approx(normal, abs=1e-3)


def test_too_few_clusters_are_refused_with_what_to_do():
    numbers = functools.partial(mean_interval, [0.0, 1.0, 1.0, 0.0])
    outcomes = functools.partial(share_interval, [0, 1, 1, 0])
    for interval in (numbers, outcomes):
        with pytest.raises(MastlensError, match=r"2 clusters, which say nothing .* leave clusters out"):
            interval(clusters=["a", "a", "b", "b"])
    with pytest.raises(MastlensError, match="There is 1 cluster"):
        paired_interval([0, 1], [1, 1], clusters=["a", "a"])
    with pytest.raises(MastlensError, match="each item needs one"):
        paired_interval([0, 1], [1, 1], clusters=["a"])
    with pytest.raises(MastlensError, match="above 0"):
        ratio_interval([1.0, 2.0], [1.0, 0.0])
    assert few_clusters(10) == "" and "9 people" in few_clusters(9, "person")
    assert np.isnan(mean_interval([1.0, 2.0]).low), "two numbers say nothing of a third"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_rejects_step_by_step(p):
    found = holm(p)
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert (found >= np.asarray(p)).all() and (found <= 1).all()
    for alpha in (0.01, 0.05, 0.5):  # Holm's own wording: go up until one is above alpha / those left
        rejected = set()
        for left, test in zip(range(len(p), 0, -1), order, strict=True):
            if p[test] * left > alpha:
                break
            rejected.add(int(test))
        assert set(np.flatnonzero(found <= alpha).tolist()) == rejected


def test_holm_agrees_with_statsmodels():
    rng = np.random.default_rng(0)
    for p in ([0.2], [0.01, 0.01, 0.01], [0.0, 1.0], rng.random(9) ** 3):
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


def test_holm_by_hand():
    # Of three tests the smallest counts three times, the next twice; the largest cannot fall below it.
    assert holm([0.04, 0.01, 0.03]).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]).tolist() == []
    for bad in ([0.5, float("nan")], [1.2], [[0.1]]):
        with pytest.raises(MastlensError, match="p-values"):
            holm(bad)


def test_pass_at_k_is_the_share_of_draws_with_a_hit():
    for n, c in itertools.product(range(1, 7), range(7)):
        for k in range(1, n + 1):
            if c <= n:
                draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(draw) for draw in draws]), abs=1e-12)
    assert pass_at_k(20_000, 1, 100) == pytest.approx(100 / 20_000, rel=1e-12)  # no overflow, no cancellation
    with pytest.raises(MastlensError, match="at least 5 samples"):
        pass_at_k(4, 2, 5)


def test_sampled_accuracy_counts_problems():
    rng = np.random.default_rng(0)
    items, chance = np.repeat(np.arange(40), 8), rng.choice([0.0, 1.0], 40)
    correct = rng.random(320) < chance[items]  # all samples of a problem agree: 40 pieces of evidence, not 320
    found = sampled_accuracy(items, correct, ks=(1, 4))
    table = found.table.set_index("metric")
    assert list(table.index) == ["avg@8", "pass@1", "pass@4"]
    assert table.loc["avg@8", "estimate"] == table.loc["pass@1", "estimate"] == pytest.approx(correct.mean())
    width, p = table.loc["avg@8", "ci_high"] - table.loc["avg@8", "ci_low"], correct.mean()
    assert width == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 40), rel=0.05)
    with pytest.raises(MastlensError, match="pass@9"):
        sampled_accuracy(items, correct, ks=(9,))


def test_seed_interval_agrees_with_statsmodels():
    values = [0.247, 0.251, 0.273]
    found = seed_interval(values, level=0.9)
    assert (found.low, found.high) == pytest.approx(DescrStatsW(values).tconfint_mean(alpha=0.1))
    with pytest.raises(MastlensError, match="at least two seeds"):
        seed_interval([0.3])


def test_seed_spread_has_the_mean_squares_of_an_analysis_of_variance():
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(3)
    y = rng.normal(size=(5, 1)) + 2 * rng.normal(size=(1, 30)) + 0.5 * rng.normal(size=(5, 30))
    cells = [(s, i, y[s, i]) for s in range(5) for i in range(30)]
    squares = anova_lm(ols("y ~ C(s) + C(i)", pd.DataFrame(cells, columns=["s", "i", "y"])).fit())["mean_sq"]
    found = seed_spread(y)
    assert found.residual == pytest.approx(squares["Residual"])
    assert found.between_seeds == pytest.approx((squares["C(s)"] - squares["Residual"]) / 30)
    assert found.between_items == pytest.approx((squares["C(i)"] - squares["Residual"]) / 5)
    assert found.mean == pytest.approx(y.mean())


def test_seed_spread_finds_the_components_that_were_put_in():
    rng, spreads = np.random.default_rng(4), []
    for _ in range(400):
        y = 0.3 * rng.normal(size=(4, 1)) + rng.normal(size=(1, 50)) + 0.7 * rng.normal(size=(4, 50))
        spreads.append(seed_spread(y))
    means = np.array([s.mean for s in spreads])
    assert np.mean([s.between_seeds for s in spreads]) == pytest.approx(0.09, rel=0.15)
    assert np.mean([s.between_items for s in spreads]) == pytest.approx(1.0, rel=0.05)
    assert np.mean([s.residual for s in spreads]) == pytest.approx(0.49, rel=0.05)
    assert np.mean([s.standard_error**2 for s in spreads]) == pytest.approx(means.var(), rel=0.2)


def test_seeds_without_a_spread():
    y = np.tile(np.arange(10) % 2, (3, 1))
    found = seed_spread(y)
    assert (found.between_seeds, found.residual) == (0, 0)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.5, 0.5))
    with pytest.raises(MastlensError, match="at least two of each"):
        seed_spread(y[:1])


@pytest.mark.parametrize("n", [1, 3, 7, 30, 1000])
def test_a_share_lies_in_its_interval_at_none_and_at_all(n):
    none, every = wilson(0, n), wilson(n, n)
    assert none.low == 0.0 < none.high
    assert every.low < every.high == 1.0
