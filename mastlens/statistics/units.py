"""Units of evidence: what may vary by itself. Rows that belong together count as one, whatever they are many of.

Samples of one problem share the problem, problems of one subject share the subject: what they share is no evidence
several times (Field and Welsh 2007; Miller 2024, arXiv:2411.00640). Every interval here therefore has as many degrees
of freedom as it has units, less one.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from mastlens.errors import BadSetting, NotTogether

FEWEST = 3
"""Clusters below which nothing is said: two differ or do not."""
FEW = 10
"""Clusters below which an interval is said to rest on few."""
SKEWED = 5
"""Units below which nothing is said of their skewness: of three, it has the same size whatever they are."""
_STRAIGHT = 1e-6  # skewness below which the transformation is the identity, and its inverse a quotient of noughts
_PLURALS = {"person": "people"}


@dataclass(frozen=True)
class Units:
    """Sums over each unit.

    Attributes:
        sums: Of the values times their counts.
        counts: Of what stands behind the values: 1 an item, its tokens, its samples.
    """

    sums: Float[np.ndarray, " units"]
    counts: Float[np.ndarray, " units"]

    @classmethod
    def of(cls, values: ArrayLike, counts: ArrayLike | None = None, clusters: ArrayLike | None = None) -> "Units":
        """Return the units of some rows.

        Args:
            values: One a row.
            counts: What each row's value is the mean of; None: of one.
            clusters: One label a row; rows with equal labels are one unit. None: every row is a unit.

        Raises:
            MastlensError: If the arrays do not belong together, a count is not above 0, or the clusters are too few.
        """
        rows = np.asarray(values, dtype=float)
        many = np.ones_like(rows) if counts is None else np.asarray(counts, dtype=float)
        if rows.ndim != 1 or not rows.size or rows.shape != many.shape:
            raise BadSetting("An interval needs one value an item, for at least one item.")
        if not (many > 0).all():
            raise BadSetting("An interval of a ratio needs denominators above 0.")
        sums = rows * many
        if clusters is None:
            return cls(sums, many)
        labels = np.asarray(clusters)
        if labels.shape != rows.shape:
            raise NotTogether(f"There are {rows.size} items and {labels.size} cluster labels; each item needs one.")
        codes, names = pd.factorize(labels, use_na_sentinel=False)  # in order of appearance: names do not matter
        if len(names) < FEWEST:
            raise BadSetting(few_clusters(len(names)))
        return cls(np.bincount(codes, sums), np.bincount(codes, many))

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def total(self) -> float:
        """All counts."""
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        """The sum of all sums over that of all counts."""
        return float(self.sums.sum() / self.total)

    def variance(self, centre: float | None = None) -> float:
        """Return the variance of the mean, from how units differ: the linearised ratio's, with n / (n - 1)."""
        rests = self.sums - (self.mean if centre is None else centre) * self.counts
        n = len(self)
        return float((rests**2).sum()) * n / max(n - 1, 1) / self.total**2

    def unskewed(self, level: float) -> tuple[float, float]:
        """Return the interval of the mean as the units alone give it, skewness taken out: see ``ratio_ends``.

        Also of three units: of rare outcomes the skewness is known before it is seen.
        """
        low, high = ratio_ends(self.sums[None], self.counts, level=level, skewed=FEWEST)
        return float(low[0]), float(high[0])


def ratio_ends(
    sums: Float[np.ndarray, "rows units"], counts: Float[np.ndarray, " units"], *, level: float, skewed: int = SKEWED
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Return the farther ends of Student's t and of Hall's (1992), row by row, of sum(sums) / sum(counts).

    Hall takes the skewness out of t by a cubic transformation and turns it round; of fewer than ``skewed`` units t
    stands alone.

    Args:
        sums: One column a unit; three at least.
        counts: What the sums are divided by.
        level: Confidence level.
        skewed: See above.
    """
    n = sums.shape[1]
    ratio = sums.sum(axis=1) / counts.sum()
    rests = (sums - ratio[:, None] * counts) / counts.mean()
    square, cube = (rests**2).mean(axis=1), (rests**3).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.where(square > 0, cube / square**1.5, 0.0)
    if n < skewed:
        skewness = np.zeros_like(skewness)
    spread = np.sqrt(square * n / (n - 1))
    quantile = student(level, n) / n**0.5
    down = np.maximum(quantile, _unskewed(quantile, skewness, n))
    up = np.maximum(quantile, -_unskewed(-quantile, skewness, n))
    return ratio - spread * down, ratio + spread * up


def _unskewed(quantile: float, skewness: np.ndarray, n: int) -> np.ndarray:
    """Return Hall's transformation turned round: which standardised mean has this quantile of t / sqrt(n)."""
    bent = np.where(np.abs(skewness) < _STRAIGHT, 1.0, skewness)
    turned = 3 / bent * (np.cbrt(1 + bent * (quantile - bent / (6 * n))) - 1)
    return np.where(np.abs(skewness) < _STRAIGHT, quantile, turned)


@lru_cache(maxsize=1024)
def student(level: float, units: int) -> float:
    """Return Student's two-sided quantile with one degree of freedom less than there are units."""
    return float(stats.t.isf((1 - level) / 2, max(units - 1, 1)))


@lru_cache(maxsize=1024)
def normal(level: float) -> float:
    """Return the normal law's two-sided quantile."""
    return float(stats.norm.isf((1 - level) / 2))


def few_clusters(number: int, what: str = "cluster") -> str:
    """Return what is to be said of so many clusters; nothing where there are enough of them.

    Args:
        number: Of clusters.
        what: What one is called, e.g. ``person``, ``cluster of subject``.
    """
    if number >= FEW:
        return ""
    noun, _, rest = what.partition(" ")
    named = f"{number} {noun if number == 1 else _PLURALS.get(noun, f'{noun}s')}{rest and f' {rest}'}"
    if number < FEWEST:
        return (
            f"There {'is' if number == 1 else 'are'} {named}, which say{'s' if number == 1 else ''} nothing of how one "
            f"differs from another: no interval. Take items of {FEWEST} or more ({FEW} say more), or leave clusters "
            "out: the interval is then about these alone."
        )
    return (
        f"There are only {named}: the interval has {number - 1} degrees of freedom and is wide, and rare changes that "
        f"come in whole clusters are missed. {FEW} or more would say more."
    )
