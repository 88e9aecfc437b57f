"""Percentile bootstrap of means over items, with items that belong together resampled together.

Rows of one cluster (samples of one problem, problems of one subject) are drawn as a whole, so that what they
share is not counted as evidence several times (Field and Welsh 2007; Miller 2024, arXiv:2411.00640).
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from mastlens.errors import BadSetting, NotTogether
from mastlens.statistics.intervals import Interval

_BATCH = 1000  # resamples in memory at a time; another size would draw the same ones


def ratio_bootstrap(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of sum(numerators) / sum(denominators), e.g. of a mean over tokens.

    Args:
        numerators: One value an item, e.g. its summed log-probability.
        denominators: One positive value an item, e.g. its number of tokens.
        clusters: One label an item; items with equal labels are drawn together. None: every item for itself.
        resamples: Number of bootstrap samples.
        level: Confidence level.
        seed: Of the resampling.

    Raises:
        MastlensError: If the arrays do not belong together, or there is only one cluster.
    """
    sums, counts = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if sums.ndim != 1 or sums.size == 0 or sums.shape != counts.shape:
        raise BadSetting("A bootstrap interval needs one value an item, for at least one item.")
    if not (counts > 0).all():
        raise BadSetting("A bootstrap interval of a ratio needs denominators above 0.")
    if clusters is not None:
        sums, counts = _together(sums, counts, np.asarray(clusters))
    ratios = sums / counts
    if ratios.min() == ratios.max():  # nothing to resample
        return Interval(float(ratios[0]), float(ratios[0]))
    interval = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


def _together(sums: np.ndarray, counts: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums over each cluster, clusters in order of appearance: their names do not matter."""
    if labels.shape != sums.shape:
        raise NotTogether(f"There are {sums.size} items and {labels.size} cluster labels; each item needs one.")
    codes, names = pd.factorize(labels, use_na_sentinel=False)
    if len(names) < 2:
        raise BadSetting(
            f"All {sums.size} items are of one cluster ({names[0]!r}), which says nothing of how clusters differ. "
            "Resample by something that the items differ in."
        )
    return np.bincount(codes, sums), np.bincount(codes, counts)


def mean_bootstrap(
    values: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of the mean of ``values``, one an item; arguments as in ``ratio_bootstrap``."""
    values = np.asarray(values, dtype=float)
    return ratio_bootstrap(values, np.ones_like(values), clusters=clusters, resamples=resamples, level=level, seed=seed)


def paired_bootstrap(
    before: ArrayLike,
    after: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of mean(after) - mean(before), items resampled as pairs.

    Args:
        before: One value an item.
        after: One value an item, same items in the same order.
        clusters: One label an item; items with equal labels are drawn together. None: every item for itself.
        resamples: Number of bootstrap samples.
        level: Confidence level.
        seed: Of the resampling.

    Raises:
        MastlensError: If before and after are not of the same items, or there is only one cluster.
    """
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if old.ndim != 1 or old.size == 0 or old.shape != new.shape:
        raise BadSetting("A paired interval needs the same items before and after, at least one.")
    return mean_bootstrap(new - old, clusters=clusters, resamples=resamples, level=level, seed=seed)
