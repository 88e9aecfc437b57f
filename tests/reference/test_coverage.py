"""What the intervals cover, in short: what was wrong before, and a few cells of each kind of interval."""

import itertools

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from mastlens.statistics import (
    difference_interval,
    mean_interval,
    newcombe_paired,
    paired_counts,
    paired_interval,
    permutation_p,
)

PER_KIND = 3


def test_bootstrap_small():
    """30 items, 5 % lost, none gained: the percentile bootstrap covered 78 %."""
    rng, hit = np.random.default_rng(0), 0
    for _ in range(500):
        after = (rng.random(30) >= 0.05).astype(float)
        found = paired_interval(np.ones(30), after)
        hit += found.low <= -0.05 <= found.high
    assert hit / 500 >= 0.935


def test_cluster_bootstrap_three():
    """Three clusters of 50: resampling them covered 71 %."""
    rng, hit, clusters = np.random.default_rng(0), 0, np.repeat(np.arange(3), 50)
    for _ in range(400):
        found = mean_interval(0.2 * rng.normal(size=3)[clusters] + rng.normal(size=150), clusters=clusters)
        hit += found.low <= 0 <= found.high
    assert 0.92 <= hit / 400 <= 0.98


@pytest.mark.parametrize("n", coverage.ITEMS)
def test_shares_of_single_outcomes_cover_exactly(n):
    for share in (0.05, 0.1, 0.3, 0.5, 0.7, 0.95):
        held, nearest = coverage.single(n, share)
        assert held >= coverage.LEAST, share
        assert nearest == pytest.approx(0.95, abs=0.03)
        # The same, without this module: the counts whose interval holds the share are a run of them.
        low, high = (int(k) for k in stats.binom.interval(0.999999, n, share))
        assert held <= stats.binom.cdf(high, n, share) - stats.binom.cdf(low - 2, n, share) + 1e-9


def test_every_kind_of_interval_covers():
    """A few cells of each kind, drawn less often than in the table: within four standard errors of the limits."""
    kinds = itertools.groupby(coverage.cells(), key=lambda cell: cell.interval)
    chosen = [cell for _, kind in kinds for cell in list(kind)[:: 1 + 7 * PER_KIND][:PER_KIND] if not cell.beyond]
    assert len({cell.interval for cell in chosen}) >= 9
    runs, slack = 300, 4 * (0.05 * 0.95 / 300) ** 0.5
    for cell in chosen:
        held = coverage.covered(cell, runs, refined=False)
        assert held >= coverage.LEAST - slack, cell.name
        assert cell.discrete or held <= coverage.MOST + slack, cell.name


def test_beside_newcombe_and_statsmodels():
    """Where many items change, all ways say the same: Newcombe's, Bonett and Price's, the t interval of statsmodels."""
    from statsmodels.stats.weightstats import DescrStatsW

    rng = np.random.default_rng(1)
    before, after = rng.random((2, 2000)) < np.array([[0.6], [0.4]])
    ours, closed = difference_interval(before, after), newcombe_paired(*paired_counts(before, after))
    wald = DescrStatsW(after * 1.0 - before).tconfint_mean()
    for other in (closed.low, closed.high), wald:
        assert (ours.low, ours.high) == pytest.approx(other, abs=5e-4)


def test_the_permutation_p_of_a_study_has_its_size():
    rng = np.random.default_rng(0)
    for seeds in (1, 3):
        assert coverage.permutation_size(20, seeds, 4000, rng) == pytest.approx(1 / 21, abs=0.012)
    assert permutation_p(0, 20) == pytest.approx(1 / 21)


def test_rare_losses_that_come_in_few_clusters_are_covered():
    """5 % lost, alike within five clusters: t between clusters covered 91.8 %, a share's Wilson interval 93.1 %."""
    kinds = {"difference over clusters": "5% lost, 0% gained, 0.02", "share over clusters": "5%, 0.05"}
    for kind, data in kinds.items():
        named = [c for c in coverage.cells() if c.interval.startswith(kind) and c.data.startswith(data)]
        (cell,) = (c for c in named if (c.items, c.clusters) == (1000, 5))
        rng = np.random.default_rng(0)
        found = [cell.draw(rng) for _ in range(1500)]
        assert np.mean([i.low <= truth <= i.high for i, truth in found]) >= coverage.LEAST


def test_of_three_units_no_skewness_is_told():
    values = np.array([0.1, 0.2, 0.9])
    found, plain = mean_interval(values), stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))
    more = np.concatenate([values, [0.15, 0.1, 0.12]])
    found, plain = mean_interval(more), stats.ttest_1samp(more, 0).confidence_interval()
    assert found.high > plain.high + 0.05 and found.low == pytest.approx(plain.low), "long on the side of the tail"


def test_clusters_of_one_item_each_are_no_clusters():
    rng = np.random.default_rng(3)
    before, after = rng.random((2, 40)) < 0.6
    alone, labelled = (difference_interval(before, after, clusters=c) for c in (None, np.arange(40)))
    assert alone == labelled != difference_interval(before, after, clusters=np.arange(40) // 4)
