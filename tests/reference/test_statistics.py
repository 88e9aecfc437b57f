"""Statistics against statsmodels, and against the published values."""

import itertools

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from mastlens.statistics import mcnemar_exact, paired_bootstrap, wilson


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
    for n, level in itertools.product((1, 2, 10, 150, 1319), (0.9, 0.95, 0.99)):
        for k in sorted({0, 1, n // 3, n - 1, n}):
            low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
            found = wilson(k, n, level=level)
            assert found.low == pytest.approx(low, abs=1e-9)
            assert found.high == pytest.approx(high, abs=1e-9)
            assert 0 <= found.low <= k / n + 1e-12
            assert k / n - 1e-12 <= found.high <= 1


def test_wilson_by_hand():
    # z = 1.959964; 0 of 10: high = z^2 / (10 + z^2) = 3.841459 / 13.841459
    found = wilson(0, 10)
    assert found.low == pytest.approx(0, abs=1e-12)
    assert found.high == pytest.approx(0.277533, abs=1e-6)


def lost(n, b, c=0):
    """Return paired outcomes in which ``b`` of n were lost and ``c`` gained."""
    before = np.zeros(n)
    after = np.zeros(n)
    before[:b] = 1
    after[b : b + c] = 1
    return before, after


def test_bootstrap_of_the_published_headline():
    """Eight lost of 150: the 2.5 % and 97.5 % points of Bin(150, 8/150) are 3 and 14 items."""
    for seed in range(5):
        interval = paired_bootstrap(*lost(150, 8), resamples=10_000, seed=seed)
        assert 100 * interval.low == pytest.approx(-9.333, abs=1e-3)
        assert 100 * interval.high == pytest.approx(-2.000, abs=1e-3)


def test_bootstrap_is_antisymmetric():
    before, after = lost(150, 8)
    forth, back = paired_bootstrap(before, after, seed=3), paired_bootstrap(after, before, seed=3)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))


def test_bootstrap_seeds():
    before, after = lost(200, 21, 20)
    first, again = (paired_bootstrap(before, after, seed=7, resamples=501) for _ in range(2))
    assert (first.low, first.high) == (again.low, again.high)
    others = {(i.low, i.high) for i in (paired_bootstrap(before, after, seed=s, resamples=501) for s in range(8))}
    assert len(others) > 1


def test_bootstrap_resamples_pairs():
    """All items equally changed: paired, there is no uncertainty; unpaired there would be."""
    before = np.arange(50) % 2
    interval = paired_bootstrap(before * 0.5, before * 0.5 + 0.25, seed=0)
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))
    unchanged = paired_bootstrap(before, before.copy(), seed=0)
    assert (unchanged.low, unchanged.high) == (0.0, 0.0)


def test_bootstrap_level_and_items_of_another_length():
    before, after = lost(150, 20, 5)
    wide, narrow = (paired_bootstrap(before, after, level=level) for level in (0.99, 0.8))
    assert wide.low < narrow.low < -0.1 < narrow.high < wide.high
    with pytest.raises((ValueError, TypeError)):
        paired_bootstrap(before, after[:-1])


def test_bootstrap_takes_truth_values():
    before, after = lost(150, 8)
    plain = paired_bootstrap(before, after)
    truth = paired_bootstrap(before.astype(bool), after.astype(bool))
    assert (plain.low, plain.high) == (truth.low, truth.high)
