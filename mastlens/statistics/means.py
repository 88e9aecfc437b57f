"""Intervals of means and ratios of numbers: Student's t, and the same without skewness, in closed form.

Log-probabilities, divergences and effects are skewed, and so few items as an evaluation has do not average it away: at
30 lognormal items Student's t and the percentile bootstrap cover 88 % where 95 % are said. Hall (1992), JRSS B 54, 221,
takes the skewness out of t by a cubic transformation and turns it round, which does what a bootstrap of t does, without
resampling, and also for the few units for which that has no end. It in turn covers too little where tails are heavy on
both sides, which t does not mind. Which of the two it is, a sample does not tell: the interval has the farther end of
both on either side. Of three or four units no skewness can be told, and t stands alone.
"""

from math import nan

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mastlens.statistics.intervals import NONE, Interval, difference_interval, paired
from mastlens.statistics.units import FEWEST, Units, ratio_ends, student


def ratio_intervals(
    differences: Float[np.ndarray, "rows units"], counts: Float[np.ndarray, " units"], *, level: float = 0.95
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Return the intervals of sum(differences) / sum(counts), row by row; both ends NaN for fewer than three units.

    Args:
        differences: One column a unit, e.g. an item's summed change of log-probability.
        counts: What the sums are divided by, e.g. tokens; ones for a mean.
        level: Confidence level.
    """
    rows, n = differences.shape
    if n < FEWEST:
        return np.full(rows, nan), np.full(rows, nan)
    return ratio_ends(differences, counts, level=level)


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Return the interval of sum(numerators) / sum(denominators), e.g. of a mean over tokens.

    Args:
        numerators: One value an item, e.g. its summed log-probability.
        denominators: One positive value an item, e.g. its number of tokens.
        clusters: One label an item; items with equal labels are one unit. None: every item is one.
        level: Confidence level.

    Returns:
        The interval; NaN for fewer than three items.

    Raises:
        MastlensError: If the arrays do not belong together, or there are fewer than three clusters.
    """
    sums, counts = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        units = Units.of(sums / counts if sums.shape == counts.shape else sums, counts, clusters)
    low, high = ratio_intervals(units.sums[None], units.counts, level=level)
    return Interval(float(low[0]), float(high[0]))


def mean_interval(values: ArrayLike, *, clusters: ArrayLike | None = None, level: float = 0.95) -> Interval:
    """Return the interval of the mean of ``values``, one an item; arguments as in ``ratio_interval``."""
    found = np.asarray(values, dtype=float)
    return ratio_interval(found, np.ones_like(found), clusters=clusters, level=level)


def paired_interval(
    before: ArrayLike,
    after: ArrayLike,
    *,
    counts: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """Return the interval of mean(after) - mean(before): of yes-or-no outcomes and shares of them, or of numbers.

    Args:
        before: One value an item.
        after: One value an item, same items in the same order.
        counts: Outcomes behind each item, where values are shares of them; None: single outcomes where all values are
            0 or 1, else numbers.
        clusters: One label an item; items with equal labels are one unit. None: every item is one.
        level: Confidence level.

    Raises:
        MastlensError: If before and after are not of the same items, or there are fewer than three clusters.
    """
    change = paired(before, after)
    if counts is not None or set(np.unique(np.asarray([before, after]))) <= {0.0, 1.0}:
        return difference_interval(before, after, counts=counts, clusters=clusters, level=level)
    return mean_interval(change, clusters=clusters, level=level)


def recovered_share(back: np.ndarray, forgotten: np.ndarray, *, level: float = 0.95) -> tuple[float, Interval]:
    """Return sum(back) / sum(forgotten) over the items and its interval: Fieller's, of paired yes-or-no changes.

    All r for which sum(back - r forgotten) is not told from 0, with one item more brought back and one more lost, as in
    ``difference_interval`` (Fieller 1954, JRSS B 16, 175). Unlike a ratio of counts, single items may have been
    forgotten (1), not (0), or learned from the edit (-1); what must be above 0 is their sum.

    Args:
        back: One value an item: right under the attack minus right before it.
        forgotten: One value an item: right before the edit minus right after it.
        level: Confidence level.

    Returns:
        The share; NaN where nothing was forgotten. The interval; NaN where it has no bound, because what was forgotten
        is itself not told from nothing.
    """
    above, below = float(back.sum()), float(forgotten.sum())
    if below <= 0:
        return nan, NONE
    n, square = len(back) + 2, student(level, len(back)) ** 2
    scale = square * len(back) / max(len(back) - 1, 1)
    # (above - r below)^2 = square * variance of the sum, a quadratic in r.
    a = below**2 - scale * (float(forgotten @ forgotten) - below**2 / n)
    b = above * below - scale * (float(back @ forgotten) - above * below / n)
    c = above**2 - scale * (float(back @ back) + 2 - above**2 / n)
    if a <= 0:
        return above / below, NONE
    reach = max(b * b - a * c, 0.0) ** 0.5
    return above / below, Interval((b - reach) / a, (b + reach) / a)
