"""Intervals of proportions and of their differences, in closed form; which one, by one stated rule.

*One share* of yes-or-no outcomes: Wilson's score interval. *The difference of two shares of the same items*: the Wald
interval after one item more has been lost and one more gained (Bonett and Price). *Anything else* is a mean of numbers:
see ``means``. Each takes Student's quantile with as many degrees of freedom as there are units, less one. Where
outcomes belong together, both are of as many items as their units are worth; of ``FEW`` units or fewer, either end is
the farther of that interval's and of the mean's over units, which see the skewness of rare outcomes each in its own
way. ``benchmarks/coverage.py`` measures what they cover.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from mastlens.errors import BadSetting
from mastlens.statistics.units import FEW, Units, normal, student


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval; NaN where there is none."""

    low: float
    high: float


NONE = Interval(float("nan"), float("nan"))
"""Where there is nothing to say."""


def wilson(successes: int | float, n: int | float, *, level: float = 0.95, units: int | None = None) -> Interval:
    """Return the score interval of a proportion (Wilson 1927, without continuity correction), at Student's quantile.

    With the normal quantile it covers as little as 92 % of 95 at 30 items; with Student's, 93.6 % or more from 5 % to
    95 % (``benchmarks/coverage.py``); from 300 items on the two agree to a hundredth of their width.

    Args:
        successes: Of ``n``; counts need not be whole where items were weighed.
        n: Items.
        level: Confidence level.
        units: Independent ones among the items, for the degrees of freedom; None: all of them.
    """
    if n == 0:
        raise BadSetting("A proportion of no items has no interval.")
    return _score(successes / n, n, student(level, round(n) if units is None else units))


def _score(share: int | float, n: int | float, quantile: float) -> Interval:
    """Return all shares from which the one seen is no more than ``quantile`` of their standard errors away."""
    square = quantile**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    reach = quantile * sqrt(max(share * (1 - share), 0.0) / n + square / (4 * n**2)) / (1 + square / n)
    # Rounding must not leave the share itself outside, at none and at all of them.
    return Interval(max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share)))


def share_interval(
    values: ArrayLike, *, counts: ArrayLike | None = None, clusters: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Return the interval of a share of yes-or-no outcomes: Wilson's, of as many items as the units are worth.

    That number is n / design effect, the variance between units over that of independent outcomes (Korn and Graubard
    1998, Survey Methodology 24, 193), and no larger than what makes the interval as narrow as for independent outcomes.
    Where every row is one outcome, it is n, and the interval is ``wilson``'s. Of ``FEW`` units or fewer, either
    end is the farther of it and of the mean's over units.

    Args:
        values: Yes or no, or the share of a row's outcomes that are yes.
        counts: Outcomes behind each row, e.g. samples of one problem; None: one.
        clusters: One label a row; rows with equal labels are one unit. None: every row is a unit.
        level: Confidence level.

    Raises:
        MastlensError: As ``Units.of``.
    """
    units = Units.of(values, counts, clusters)
    n, share, number = units.total, units.mean, len(units)
    if number == n:
        return wilson(float(units.sums.sum()), n, level=level)
    worth = _worth(units, share * (1 - share), level)
    return _farther(wilson(share * worth, worth, level=level, units=number), units, level, least=0.0)


def _worth(units: Units, alone: float, level: float) -> float:
    """Return how many independent items the units are worth, whose outcomes have variance ``alone`` each.

    No more than makes the interval as narrow as that of independent outcomes at the normal quantile: that units differ
    by less than independent outcomes do is chance.
    """
    n, between = units.total, units.variance()
    alone /= max(n - 1, 1)
    most = n * (student(level, len(units)) / normal(level)) ** 2
    return min(n * alone / between, most) if between > 0 else n if alone == 0 else most


def _farther(found: Interval, units: Units, level: float, *, least: float) -> Interval:
    """Return the farther ends of an interval and of the mean's over few units, within [least, 1]."""
    if len(units) > FEW:
        return found
    low, high = units.unskewed(level)
    return Interval(max(least, min(found.low, low)), min(1.0, max(found.high, high)))


def difference_interval(
    before: ArrayLike,
    after: ArrayLike,
    *,
    counts: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """Return the interval of after - before of shares of yes-or-no outcomes of the same items.

    Wald's, with one item lost and one gained added to those seen (Bonett and Price 2012, Journal of Educational and
    Behavioral Statistics 37, 479), at Student's quantile. It has a width where nothing changed, where a bootstrap has
    none: of 30 items of which 5 % are lost, the percentile bootstrap covers 78 %. Where a unit is of several outcomes,
    the items are as many as the units are worth (as in ``share_interval``), and lost or gained is what a unit lost or
    gained on balance: the interval depends on the units' sums alone, however their outcomes are paired. Of ``FEW``
    units or fewer, either end is the farther of it and of the mean's over units.

    Args:
        before: One row an item: yes or no, or a share.
        after: Same items in the same order.
        counts: Outcomes behind each row, e.g. samples of one problem; None: one.
        clusters: One label a row; rows with equal labels are one unit. None: every row is a unit.
        level: Confidence level.

    Raises:
        MastlensError: If before and after are not of the same items, or as ``Units.of``.
    """
    units = Units.of(paired(before, after), counts, clusters)
    number, quantile = len(units), student(level, len(units))
    if number == units.total:
        squares = float((units.sums**2).sum())
        return _one_more_each(units.mean, squares, float(number), quantile, scale=number / max(number - 1, 1))
    changed = float(np.abs(units.sums).sum()) / units.total
    worth = _worth(units, changed - units.mean**2, level)
    return _farther(_one_more_each(units.mean, changed * worth, worth, quantile), units, level, least=-1.0)


def _one_more_each(difference: float, changed: float, n: float, quantile: float, *, scale: float = 1.0) -> Interval:
    """Return Wald's interval of a difference after one item more has been lost and one more gained.

    Args:
        difference: What is seen, of ``n`` items.
        changed: Items lost or gained; need not be whole.
        n: Items.
        quantile: Of the standardised difference, two-sided.
        scale: What makes the variance of what was seen unbiased, where ``n`` is not scaled already.
    """
    items = n + 2
    centre = difference * n / items
    seen = changed - 2 * centre * difference * n + n * centre**2
    spread = scale * seen + (1 - centre) ** 2 + (1 + centre) ** 2
    reach = quantile * sqrt(spread) / items
    return Interval(max(-1.0, centre - reach), min(1.0, centre + reach))


def paired(before: ArrayLike, after: ArrayLike) -> np.ndarray:
    """Return after - before, item by item.

    Raises:
        MastlensError: If they are not of the same items.
    """
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if old.ndim != 1 or old.size == 0 or old.shape != new.shape:
        raise BadSetting("A paired interval needs the same items before and after, at least one.")
    return new - old


def newcombe_paired(both: int, b: int, c: int, neither: int, *, level: float = 0.95) -> Interval:
    """Return Newcombe's interval of the difference after - before of two proportions of the same items.

    Method 10 of Newcombe (1998), Statistics in Medicine 17, 2635: the Wilson intervals of both proportions (at the
    normal quantile, as published), combined through their correlation, whose estimate is corrected for continuity. It
    has a width where no item changed, and never leaves [-1, 1].

    Args:
        both: Items right before and after.
        b: Items right before and wrong after.
        c: Items wrong before and right after.
        neither: Items wrong before and after.
        level: Confidence level.
    """
    n = both + b + c + neither
    if n == 0 or min(both, b, c, neither) < 0:
        raise BadSetting("A difference of proportions needs at least one item, and no count below 0.")
    before, after = (both + b) / n, (both + c) / n
    of_before, of_after = (_score(share, n, normal(level)) for share in (before, after))
    margins = (both + b) * (c + neither) * (both + c) * (b + neither)
    agreement = both * neither - b * c
    if agreement > 0:
        agreement = max(agreement - n / 2, 0)
    correlation = agreement / sqrt(margins) if margins else 0.0

    def reach(one: float, other: float) -> float:
        # Rounding may leave less than nothing under the root where both distances are 0.
        return sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    difference = (c - b) / n
    down = reach(after - of_after.low, of_before.high - before)
    up = reach(of_after.high - after, before - of_before.low)
    return Interval(max(-1.0, difference - down), min(1.0, difference + up))
