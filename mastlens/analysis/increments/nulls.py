"""What chance gives: the laws that measures of an increment are held against, exact where one is known, else sampled.

Kinds of chance, and they differ. *Isotropic*: every entry of the increment is an independent normal variable, so
only its norm is kept. *Rotated*: the increment keeps its singular values and both of its singular bases are turned at
random (equivalently: the increment stays and the subspaces it is held against are random). Both give the same mean;
the second has the larger spread, much larger for an increment of few directions. Neither knows that the increment was
*stored*: rounding lets more through where entries are small, so that on weights whose rows differ in size a random
increment leans to one side. The laws of ``signs`` (rows and columns keep their magnitudes and singular values, their
signs are redrawn) and of ``placement`` (magnitudes are laid elsewhere among entries of like spacing) do know it. A
reading is called distinguishable where it lies beyond every law that stands beside it.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy import special, stats
from torch import Tensor

from mastlens.errors import BadFile, BadSetting

LEVEL = 0.001
"""Two-sided p below which a value counts as distinguishable: a tenth of a false alarm in a column of 112 tensors."""

Reading = Literal["joint", "left", "right", "diagonal"]
READINGS: tuple[Reading, ...] = ("joint", "left", "right", "diagonal")


@dataclass(frozen=True)
class Null:
    """The law of a statistic under chance.

    Attributes:
        mean: Its expected value.
        sd: Its standard deviation.
        law: ``beta`` (on [0, 1], by its two moments; exact for isotropic increments), ``normal``, ``t`` (moments
            estimated from ``draws`` samples, so that a new value is judged by the predictive Student law), or
            ``lognormal`` (the same for the logarithm: ``mean`` is then the geometric one, ``sd`` that of the logs).
        source: ``isotropic``, ``rotated``, ``signs``, ``placed``, ``stored``, ``hypergeometric``,
            ``magnitude-matched``, ``asymptotic``, ``shuffled`` (labels) or ``sampled``.
        draws: Number of samples behind the moments; 0 where they are exact. A ``beta`` law with draws has an exact mean
            and a sampled spread: its tail is widened as Student's is beside the normal one.
        step: Spacing of the values that the statistic can take; half of it is the continuity correction.
    """

    mean: float
    sd: float
    law: Literal["beta", "normal", "t", "lognormal"]
    source: str
    draws: int = 0
    step: float = 0.0

    def z(self, value: int | float) -> float:
        """Return (value - mean) / sd; NaN where chance leaves the statistic no freedom (sd = 0)."""
        if not self.sd > 0:
            return float("nan")
        if self.law == "lognormal":
            return math.log(value / self.mean) / self.sd if value > 0 else -math.inf
        return (value - self.mean) / self.sd

    def p_value(self, value: int | float) -> float:
        """Return the two-sided p: twice the smaller tail; 1 where chance leaves the statistic no freedom."""
        if math.isnan(value):
            return float("nan")
        if not self.sd > 0:
            return 1.0
        if self.law == "beta":
            a, b = self._shape
            if not min(a, b) > 0:  # a spread as wide as [0, 1] allows: no value is out of reach
                return 1.0
            # Tails are taken from the end that is near: 1 - x loses what a tail of 1e-30 needs.
            if abs(value - self.mean) <= self.step / 2:
                return 1.0
            # Continuity: three entries of three inside count as no more than five sixths.
            value += math.copysign(self.step / 2, self.mean - value)
            tail = min(special.betainc(a, b, value), special.betainc(b, a, 1.0 - value))
            if self.draws:
                tail = special.stdtr(self.draws, special.ndtri(tail))
        elif self.law == "lognormal":
            tail = special.stdtr(self.draws - 1, -abs(self.z(value)) / self._widening)
        else:
            away = max(abs(value - self.mean) - self.step / 2, 0.0) / self.sd
            known = self.law == "normal"
            tail = special.ndtr(-away) if known else special.stdtr(self.draws - 1, -away / self._widening)
        return float(min(1.0, 2.0 * tail))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the central interval that holds the statistic with probability ``level`` under chance."""
        if not self.sd > 0:
            return self.mean, self.mean
        tail = (1.0 - level) / 2
        if self.law == "beta":
            a, b = self._shape
            if not min(a, b) > 0:
                return 0.0, 1.0
            tail = special.ndtr(-stats.t.isf(tail, self.draws)) if self.draws else tail
            return float(special.betaincinv(a, b, tail)), 1.0 - float(special.betaincinv(b, a, tail))
        estimated = self.law in ("t", "lognormal")
        width = stats.t.isf(tail, self.draws - 1) * self._widening if estimated else stats.norm.isf(tail)
        reach = float(width) * self.sd
        if self.law == "lognormal":
            return self.mean * math.exp(-reach), self.mean * math.exp(reach)
        return self.mean - reach, self.mean + reach

    def distinguishable(self, value: int | float, level: float = LEVEL) -> bool:
        """Return whether ``value`` is farther out than chance goes: two-sided p below ``level``; NaN is not."""
        return self.p_value(value) < level

    def scaled(self, factor: int | float) -> "Null":
        """Return the law of ``factor`` times the statistic (``normal`` and ``t`` alone keep their law)."""
        if self.law in ("beta", "lognormal"):
            raise ValueError(f"A {self.law} law cannot be scaled.")
        return Null(self.mean * factor, self.sd * factor, self.law, self.source, self.draws, self.step * factor)

    @property
    def _shape(self) -> tuple[float, float]:
        size = self.mean * (1.0 - self.mean) / self.sd**2 - 1.0
        return self.mean * size, (1.0 - self.mean) * size

    @property
    def _widening(self) -> float:
        return (1.0 + 1.0 / self.draws) ** 0.5


def judged(column: str, value: float, nulls: Sequence[Null], *, told: bool = True) -> dict[str, Any]:
    """Return a reading beside what chance gives: the columns that a table has of it.

    ``X``; ``X_null`` and ``X_z``, mean of the first law and distance from it in its standard deviations; with a second
    law ``X_null_stored`` and ``X_z_stored`` of that; ``X_p``, the largest p of them; ``X_judged_by``, whose it is;
    ``X_distinguishable``, whether it is below ``LEVEL``: beyond every law.

    Args:
        column: X.
        value: The reading.
        nulls: One law or two, the one that knows of storage last.
        told: Whether anything can be told of the increment: not where it is zero, or below the precision floor.
    """
    first, last = nulls[0], nulls[-1]
    ps = [null.p_value(value) for null in nulls]
    worst = max(range(len(ps)), key=lambda i: ps[i])
    row = {column: value, f"{column}_null": first.mean, f"{column}_z": first.z(value) if value == value else math.nan}
    if len(nulls) > 1:
        row |= {f"{column}_null_stored": last.mean, f"{column}_z_stored": last.z(value)}
    return row | {
        f"{column}_p": ps[worst] if told else math.nan,
        f"{column}_judged_by": nulls[worst].source,
        f"{column}_distinguishable": told and ps[worst] < LEVEL,
    }


def isotropic_null(
    dimension: int | float, numel: int, *, squared: int | float | None = None, off: bool = False
) -> Null:
    """Return the law of the share of an isotropic increment's energy that falls into a subspace of matrices.

    For a subspace of dimension d in R^N it is Beta(d / 2, (N - d) / 2), exactly: mean d / N. More generally the share
    may be a quadratic form g'Mg / g'g with trace(M) = ``dimension`` and trace(M^2) = ``squared``; its two moments are
    exact then, its Beta shape is an approximation. The dimensions of the readings, k of m x n: joint k^2, left k n,
    right k m, diagonal k, a coordinate mask its number of entries.

    Args:
        dimension: d, or trace(M).
        numel: N, the number of entries of the increment.
        squared: trace(M^2); None for a subspace, where it is d.
        off: The law of 1 - share.
    """
    mean = dimension / numel
    squared = dimension if squared is None else squared
    variance = 2 * (numel * squared - dimension**2) / (numel**2 * (numel + 2))
    return Null(1 - mean if off else mean, max(variance, 0.0) ** 0.5, "beta", "isotropic")


def rotated_null(reading: Reading, rows: int, cols: int, rank: int, participation: float, *, off: bool = False) -> Null:
    """Return the law of the captured energy of an increment whose singular bases are turned at random.

    Its mean is that of an isotropic increment. Its variance follows from the moments of random projections and is
    exact; of the increment's spectrum it needs ``participation`` alone, sum s^4 / (sum s^2)^2, which is 1 for rank 1
    and (m + n + 1) / (m n) for noise. The Beta shape is fitted to the two moments.

    Args:
        reading: ``joint`` |U'DV|^2, ``left`` |U'D|^2, ``right`` |DV|^2 or ``diagonal`` sum (u_i'Dv_i)^2, over |D|^2.
        rows: m.
        cols: n.
        rank: k, the dimensions of U and V.
        participation: sum s^4 / (sum s^2)^2 of the increment, see ``spectra.participation_ratio``.
        off: The law of 1 - share.
    """
    if reading != "diagonal":
        left = rows if reading == "right" else rank
        right = cols if reading == "left" else rank
        return turned_null(rows, cols, (left, left), (right, right), participation, off=off)
    mean = rank / (rows * cols)
    alone = 1.0 / (rows * (rows + 2) * cols * (cols + 2))
    pairs = participation * alone
    if min(rows, cols) > 1:
        pairs += (1.0 - participation) * alone * ((rows + 1) * (cols + 1) + 2) / ((rows - 1) * (cols - 1))
    second = rank * (3 + 6 * participation) * alone + rank * (rank - 1) * pairs
    return _rotated(mean, second, off)


def turned_null(
    rows: int,
    cols: int,
    left: tuple[int | float, int | float],
    right: tuple[int | float, int | float],
    participation: float,
    *,
    off: bool = False,
) -> Null:
    """Return the law of tr(A D B D') / |D|^2 where both singular bases of D are turned at random; moments exact.

    With projections on subspaces for A and B it is the share inside of them; a head's part of a basis gives an A that
    is none.

    Args:
        rows: m.
        cols: n.
        left: trace(A) and trace(A^2), A positive semidefinite, m x m; (m, m) is the identity.
        right: The same of B, n x n.
        participation: Of D.
        off: The law of 1 - share.
    """
    (a2, aa, ao), (b2, bb, bo) = _turned_moments(rows, *left), _turned_moments(cols, *right)
    second = participation * a2 * b2 + (1.0 - participation) * (aa * bb + 2 * ao * bo)
    return _rotated(left[0] * right[0] / (rows * cols), second, off)


def _rotated(mean: float, second: float, off: bool) -> Null:
    variance = second - mean * mean
    if variance <= 1e-12 * mean * mean:  # the subspace is the whole space: every turn gives the same
        variance = 0.0
    return Null(1 - mean if off else mean, variance**0.5, "beta", "rotated")


def _turned_moments(size: int, trace: int | float, squared: int | float) -> tuple[float, float, float]:
    """Return E A_ii^2, E A_ii A_jj and E A_ij^2 (i != j) of a symmetric matrix turned at random."""
    square = (trace * trace + 2 * squared) / (size * (size + 2))
    if size == 1:
        return square, 0.0, 0.0
    below = size * (size - 1) * (size + 2)
    return square, ((size + 1) * trace * trace - 2 * squared) / below, (size * squared - trace * trace) / below


def intersection_null(first: Sequence[int], second: Sequence[int], sizes: Sequence[int]) -> Null:
    """Return the law of the size of the intersection of two masks that are laid at random within strata.

    A sum of independent hypergeometric counts, its mean and variance exact. One stratum is plain chance; strata of
    equal magnitude leave both masks their dependence on it, and ask whether they agree beyond that.

    Args:
        first: Entries of the first mask in each stratum.
        second: Entries of the second mask in each stratum.
        sizes: All entries of each stratum.
    """
    a, b, n = (np.asarray(x, dtype=np.float64) for x in (first, second, sizes))
    a, b, n = a[n > 0], b[n > 0], n[n > 0]
    variance = a * (b / n) * (1 - b / n) * (n - a) / np.maximum(n - 1, 1)
    source = "hypergeometric" if len(n) == 1 else "magnitude-matched"
    return Null(float((a * b / n).sum()), float(variance.sum()) ** 0.5, "normal", source, step=1.0)


def seeded(seed: int, *names: object) -> torch.Generator:
    """Return a generator for what ``names`` say: the same on every run, whatever else was drawn before."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def random_increments(
    rows: int, cols: int, norm: float, *, draws: int, seed: int = 0, name: str = ""
) -> Iterator[Float[Tensor, "rows cols"]]:
    """Yield ``draws`` isotropic float32 increments of Frobenius norm ``norm``, decided by the seed and the name."""
    generator = seeded(seed, "increment", name)
    for _ in range(draws):
        noise = torch.randn(rows, cols, generator=generator)
        yield noise.mul_(norm / float(torch.linalg.vector_norm(noise)))


def random_subspaces(
    rows: int, cols: int, rank: int, *, draws: int, seed: int = 0, name: str = ""
) -> Iterator[tuple[Float[Tensor, "rows k"], Float[Tensor, "cols k"]]]:
    """Yield ``draws`` pairs of uniformly random orthonormal bases, float64, decided by the seed and the name.

    Held against a fixed increment they are its spectrum-matched null: turning U and V is turning the increment.
    """
    generator = seeded(seed, "subspaces", name)
    for _ in range(draws):
        sides = []
        for size in (rows, cols):
            basis, _ = torch.linalg.qr(torch.randn(size, rank, generator=generator, dtype=torch.float64))
            sides.append(basis.contiguous())
        yield sides[0], sides[1]


def sampled_null(values: Sequence[float], *, step: float = 0.0) -> Null:
    """Return the law of a statistic from its values on random draws.

    Args:
        values: One a draw.
        step: Spacing of the values of a statistic that counts: its share of the variance, step^2 / 12, is added, since
            draws that all fall on one value do not mean that no other is possible.

    Raises:
        MastlensError: For fewer than two draws, or values that are not finite.
    """
    drawn = np.asarray(values, dtype=np.float64)
    if drawn.size < 2:
        raise BadSetting(f"A sampled null needs at least 2 draws, better 10 or more; there are {drawn.size}.")
    if not np.isfinite(drawn).all():
        raise BadFile("The statistic is NaN or infinite on a random draw, so it has no null.")
    # The mean of equal numbers may be off by rounding, and would leave a spread that every other value is far out of.
    variance = 0.0 if (drawn == drawn[0]).all() else float(drawn.var(ddof=1))
    sd = (variance + step**2 / 12) ** 0.5
    return Null(float(drawn.mean()), sd, "t", "sampled", draws=drawn.size, step=step)
