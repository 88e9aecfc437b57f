"""Paired tests and intervals. scipy does the work; this module fixes the choices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mastlens.errors import MastlensError


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


def mcnemar_exact(b: int, c: int) -> float:
    """Return the exact two-sided McNemar p-value: min(1, 2 P[Bin(b + c, 1/2) <= min(b, c)]).

    Args:
        b: Items right before and wrong after.
        c: Items wrong before and right after.
    """
    if b + c == 0:
        return 1.0
    return float(stats.binomtest(min(b, c), b + c, 0.5).pvalue)


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a proportion (Wilson 1927, without continuity correction)."""
    if n == 0:
        raise MastlensError("A proportion of no items has no interval.")
    interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def paired_bootstrap(
    before: ArrayLike | Sequence[bool],
    after: ArrayLike | Sequence[bool],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of mean(after) - mean(before), items resampled as pairs.

    Args:
        before: One value an item.
        after: One value an item, same items in the same order.
        resamples: Number of bootstrap samples.
        level: Confidence level.
        seed: Of the resampling.
    """
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    if difference.ndim != 1 or difference.size == 0:
        raise MastlensError("A paired interval needs the same items before and after, at least one.")
    if difference.min() == difference.max():  # nothing to resample
        return Interval(float(difference[0]), float(difference[0]))
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))
