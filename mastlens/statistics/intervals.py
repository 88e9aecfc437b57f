"""Intervals in closed form: a proportion, and the difference of two proportions of the same items."""

from dataclasses import dataclass
from math import sqrt

from scipy import stats

from mastlens.errors import BadSetting


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a proportion (Wilson 1927, without continuity correction)."""
    if n == 0:
        raise BadSetting("A proportion of no items has no interval.")
    interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def newcombe_paired(both: int, b: int, c: int, neither: int, *, level: float = 0.95) -> Interval:
    """Return Newcombe's interval of the difference after - before of two proportions of the same items.

    Method 10 of Newcombe (1998), Statistics in Medicine 17, 2635: the Wilson intervals of both proportions,
    combined through their correlation, whose estimate is corrected for continuity. Unlike the bootstrap it has a
    width where no item changed, and it never leaves [-1, 1].

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
    of_before, of_after = wilson(both + b, n, level=level), wilson(both + c, n, level=level)
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
