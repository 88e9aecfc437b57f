"""Rank correlation and the two-sample Kolmogorov-Smirnov test: what order alone says, beside what chance gives."""

from math import log, log10, sqrt
from typing import Any, NamedTuple

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


class KolmogorovSmirnov(NamedTuple):
    """A two-sample Kolmogorov-Smirnov test.

    Attributes:
        statistic: Largest distance between both distribution functions.
        p: Two-sided p-value; exact up to 10,000 items.
        log10_p: Its logarithm, also where the p-value itself is too small for a number.
        median_statistic: What the statistic has in half of all pairs of samples of one law, of many items.
    """

    statistic: float
    p: float
    log10_p: float
    median_statistic: float


def kolmogorov_smirnov(a: ArrayLike, b: ArrayLike) -> KolmogorovSmirnov:
    """Return the test of two samples."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    found: Any = stats.ks_2samp(x, y)
    statistic, p = float(found.statistic), float(found.pvalue)
    scale = sqrt(x.size * y.size / (x.size + y.size))
    # Kolmogorov's series has one term left where p-values are that small.
    logarithm = log10(p) if p > 0 else log10(2) - 2 * (scale * statistic) ** 2 / log(10)
    return KolmogorovSmirnov(statistic, p, logarithm, float(stats.kstwobign.median()) / scale)
