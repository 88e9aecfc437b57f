"""Bootstraps that draw items once for many rows, so that rows can be compared, or leave out what has no bound."""

import numpy as np
from jaxtyping import Float

from mastlens.statistics.intervals import Interval

_BATCH = 1000  # resamples in memory at a time
_UNBOUNDED = 0.025  # an end of a 95% interval beyond which no finite number lies


def ratio_intervals(
    differences: Float[np.ndarray, "rows items"],
    weights: Float[np.ndarray, " items"],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Return the percentile intervals of sum(differences) / sum(weights), items resampled with all that is theirs.

    Items are drawn once for all rows, so that rows can be compared. One item has no interval: both ends are NaN.

    Args:
        differences: Paired differences, one column an item.
        weights: What the sums are divided by, e.g. tokens; ones for a mean.
        resamples: Number of bootstrap samples.
        level: Confidence level.
        seed: Of the resampling.
    """
    many = len(weights)
    if many < 2:
        return np.full(len(differences), np.nan), np.full(len(differences), np.nan)
    generator = np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, _BATCH):
        times = generator.multinomial(many, np.full(many, 1 / many), size=min(_BATCH, resamples - start)).astype(float)
        drawn.append((differences @ times.T) / (times @ weights))
    low, high = np.quantile(np.concatenate(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2], axis=1)
    return low, high


def mean_interval(
    values: np.ndarray, clusters: np.ndarray, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the percentile interval of the mean of all values, whole clusters resampled.

    Args:
        values: One a token.
        clusters: Which item each belongs to.
        resamples: Number of bootstrap samples.
        level: Confidence level.
        seed: Of the resampling.

    Returns:
        The interval; NaN for fewer than two clusters, which say nothing about how much clusters differ.
    """
    _, which = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(which, weights=values).astype(float), np.bincount(which).astype(float)
    # A row more, of ones: products of one row alone are summed in another order, and tables keep their last bit.
    rows = np.stack([sums, counts])
    low, high = ratio_intervals(rows, counts, resamples=resamples, level=level, seed=seed)
    return Interval(float(low[0]), float(high[0]))


def recovered_share(
    back: np.ndarray, forgotten: np.ndarray, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, Interval]:
    """Return sum(back) / sum(forgotten) over the items and its percentile interval, items resampled in pairs.

    Unlike a ratio of counts, single items may have been forgotten (1), not (0), or learned from the edit (-1); what
    must be above 0 is their sum. A resample in which it is not counts as beyond any bound.

    Args:
        back: One value an item: right under the attack minus right before it.
        forgotten: One value an item: right before the edit minus right after it.
        resamples: Number of bootstrap samples.
        level: Confidence level.
        seed: Of the resampling.
    """
    nothing = (float("nan"), Interval(float("nan"), float("nan")))
    if forgotten.sum() <= 0:
        return nothing
    share = float(back.sum() / forgotten.sum())
    generator = np.random.default_rng(seed)
    n, shares = len(back), []
    for start in range(0, resamples, _BATCH):
        drawn = generator.integers(n, size=(min(_BATCH, resamples - start), n))
        above, below = back[drawn].sum(axis=1), forgotten[drawn].sum(axis=1)
        shares.append(np.divide(above, below, out=np.full(len(drawn), np.nan), where=below > 0))
    values = np.concatenate(shares)
    if np.isnan(values).mean() > _UNBOUNDED:
        return share, nothing[1]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return share, Interval(float(low), float(high))
