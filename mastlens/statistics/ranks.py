"""Rank correlation, and whether it is more than the order of the numbers would give by chance."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mastlens.statistics.significance import permutation_p

_SAME = 1e-12  # equal but for rounding counts as equal: permutations that give the same sum in another order


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's correlation, ties at their mean rank; NaN where one side is constant."""
    x, y, size = _ranks(a, b)
    return float(x @ y) / size if size else float("nan")


def spearman(a: ArrayLike, b: ArrayLike, *, resamples: int = 9_999, seed: int = 0) -> dict[str, int | float]:
    """Return ``n``, Spearman's ``spearman`` and its two-sided permutation ``p_value``; NaN where one side is constant.

    Args:
        a: Numbers.
        b: As many numbers, in the same order.
        resamples: Random permutations that make the null; the p-value is at least 1 / (resamples + 1).
        seed: Of the permutations.
    """
    x, y, size = _ranks(a, b)
    if not size:
        return {"n": len(x), "spearman": float("nan"), "p_value": float("nan")}
    generator = np.random.default_rng(seed)
    null = np.array([generator.permutation(x) @ y for _ in range(resamples)]) / size
    found = float(x @ y) / size
    extreme = int((np.abs(null) >= abs(found) - _SAME).sum())
    return {"n": len(x), "spearman": found, "p_value": permutation_p(extreme, resamples)}


def _ranks(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray, float]:
    """Return both sides' ranks, centred, and the product of their norms."""
    x, y = (ranks - ranks.mean() for ranks in (stats.rankdata(a), stats.rankdata(b)))
    return x, y, float(np.sqrt((x @ x) * (y @ y)))
