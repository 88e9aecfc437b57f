"""The exact McNemar test, permutation tests, and Holm's correction for several tests."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mastlens.errors import BadSetting


class PairedCounts(NamedTuple):
    """Yes-or-no outcomes of the same items, before and after: how many of each kind there are."""

    both: int
    b: int
    c: int
    neither: int


def paired_counts(before: ArrayLike, after: ArrayLike) -> PairedCounts:
    """Return how many items are right before and after, before alone (b, lost), after alone (c, gained), and never.

    Args:
        before: One outcome an item.
        after: Same items in the same order.
    """
    old, new = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if old.shape != new.shape:
        raise BadSetting("Outcomes before and after are of other items.")
    return PairedCounts(*(int(cell.sum()) for cell in (old & new, old & ~new, ~old & new, ~old & ~new)))


def mcnemar_exact(b: int, c: int) -> float:
    """Return the exact two-sided McNemar p-value: min(1, 2 P[Bin(b + c, 1/2) <= min(b, c)]).

    Args:
        b: Items right before and wrong after.
        c: Items wrong before and right after.
    """
    if b + c == 0:
        return 1.0
    return float(stats.binomtest(min(b, c), b + c, 0.5).pvalue)


def permutation_p(as_extreme: int, draws: int) -> float:
    """Return the p-value of a permutation test: (as extreme + 1) / (draws + 1), what is tested being one of them.

    Never below 1 / (draws + 1), so that few draws can show little (Phipson and Smyth 2010); NaN without any draw.

    Args:
        as_extreme: Draws at least as extreme as what is tested.
        draws: All draws.
    """
    return (as_extreme + 1) / (draws + 1) if draws else float("nan")


def holm(p: ArrayLike) -> np.ndarray:
    """Return Holm's adjusted p-values (Holm 1979): those at or below alpha hold together at that level.

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on; none comes out below a smaller
    one, none above 1. It holds whatever the dependence between the tests.

    Args:
        p: The p-values, in any order, which is kept.

    Raises:
        MastlensError: If one is missing or not within [0, 1].
    """
    values = np.asarray(p, dtype=float)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise BadSetting(f"p-values lie between 0 and 1, one a test; given are {values.tolist()}.")
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
