"""The placement null: the magnitudes of an increment laid at other places, given what rounding lets through there.

For readings of coordinates: how much of something that each entry has (its squared change, or whether it changed at
all) lies inside a set of entries (a mask, the rows of a head). Entries are taken as exchangeable within strata of one
spacing of the stored type, where rounding treats all alike, so that each stratum keeps what it has; and whole rows and
columns may be hot together, as they are in an increment of few directions. The mean is exact; the variance adds to the
one of exchangeable entries what rows and columns do in common, estimated from the increment itself:

    var = sum_e n_e d_e (1 - d_e) s_e^2 + phi_r sum_i [(sum_j w_ij v_ij)^2 - sum_j w_ij^2 v_ij^2] + the same by columns

with, in stratum e, n_e entries of mean v_e and variance s_e^2, a share d_e of them inside; w = inside - d_e; and phi
the covariance, relative to the v's, of two entries of one row.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16, Shaped
from numpy.typing import NDArray
from torch import Tensor

from mastlens.analysis.increments.masks import CELLS, STRATA, rounding_strata
from mastlens.analysis.increments.nulls import Null
from mastlens.analysis.increments.precision import coarser

_LEAN = 0.05
"""Share of the rounding that may lean to one side within a binade: its largest entries may end in the next one."""
_FREEDOM = 16
"""Degrees of freedom of the spread: in an increment of few directions few rows and columns decide; calibrated."""


@dataclass(frozen=True)
class Rounding:
    """What storage does to the entries of an increment.

    Attributes:
        strata: ``rounding_strata`` of the stored weight.
        spacing: Of each of them.
        cells: ``view_cells``, which tell entries of a stratum further apart; None where nothing does.
    """

    strata: Int16[Tensor, "rows cols"]
    spacing: Float[NDArray[np.float64], "512"]
    cells: Int16[Tensor, "rows cols"] | None = None

    @classmethod
    def of(cls, before: Float[Tensor, "rows cols"], after: torch.dtype) -> "Rounding":
        """Return it for a stored matrix, in its own dtype, and the dtype of the matrix after it: the coarser counts."""
        limits = torch.finfo(coarser(before.dtype, after))
        powers = np.maximum(2.0 ** (np.arange(STRATA, dtype=np.float64) // 2 - 127), limits.tiny)
        return cls(rounding_strata(before), limits.eps * powers)


def placed_null(
    values: Shaped[Tensor, "rows cols"],
    inside: Bool[Tensor, "rows cols"],
    rounding: Rounding | None = None,
    *,
    off: bool = False,
) -> Null:
    """Return the law of the share of ``values`` that lies inside a set of entries. O(numel).

    Args:
        values: What each entry has: its squared change, or whether it changed (bool).
        inside: The set.
        rounding: Entries are alike where their spacing is; None where all are.
        off: The law of 1 - share.
    """
    spread = _Spread(values, rounding)
    held = inside.numpy()
    law = spread.law(spread.by_line(0, held), spread.by_line(1, held))
    return replace(law, mean=1 - law.mean) if off else law


def placed_head_nulls(
    values: Float[Tensor, "rows cols"],
    heads: int,
    side: Literal["rows", "cols"],
    rounding: Rounding | None = None,
) -> list[Null]:
    """Return, for each head, the law of the share of ``values`` that lies in its block of rows or columns. O(numel)."""
    if side == "cols":
        turned = None
        if rounding is not None:
            cells = None if rounding.cells is None else rounding.cells.T
            turned = replace(rounding, strata=rounding.strata.T, cells=cells)
        return placed_head_nulls(values.T, heads, "rows", turned)
    spread = _Spread(values, rounding)
    nulls = []
    for rows in torch.arange(len(values)).chunk(heads):
        held = np.zeros_like(spread.lines[0])
        held[rows.numpy()] = spread.lines[0][rows.numpy()]
        nulls.append(spread.law(held))
    return nulls


class _Spread:
    """How values lie over strata, rows and columns.

    Attributes:
        lines: Entries of each stratum in every row, and in every column.
    """

    def __init__(self, values: Tensor, rounding: Rounding | None):
        table = values.contiguous().numpy()
        used = np.zeros(1, dtype=np.int64)
        self.codes = np.zeros(table.shape, dtype=np.int64)
        if rounding is not None:
            self.codes, used = _gapless(rounding)
        self.count = int(self.codes.max()) + 1
        self.lines = self.by_line(0), self.by_line(1)
        self.sizes = self.lines[0].sum(0)
        flat = table.ravel().astype(np.float64)
        sums, squares = (np.bincount(self.codes.ravel(), x, minlength=self.count) for x in (flat, flat * flat))
        self.total = float(sums.sum())
        self.means = sums / self.sizes
        self.scatter = np.maximum(squares - sums * self.means, 0.0)  # sums of squared deviations
        self.counted = table.dtype == np.bool_
        self.coarse = np.zeros(self.count)
        if rounding is not None and not self.counted:
            # A change x is known to half a spacing u: x^2 varies by x^2 u^2 / 3 + u^4 / 180, though all x be equal.
            unit = rounding.spacing[used] ** 2
            self.scatter += self.sizes * (self.means * unit / 3 + unit**2 / 180)
            root = np.maximum(self.means, np.finfo(float).tiny)
            self.coarse = np.minimum(np.sqrt(unit / root), 1.0)
        wide = flat.reshape(table.shape)
        self.rests = wide.sum(1) - self.lines[0] @ self.means, wide.sum(0) - self.lines[1] @ self.means

    def by_line(self, axis: int, held: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Return how many entries of each stratum every row (axis 0) or column has, all or those that are held."""
        codes, held = (self.codes, held) if axis == 0 else (self.codes.T, None if held is None else held.T)
        places = codes + self.count * np.arange(len(codes))[:, None]
        chosen = places.ravel() if held is None else places[held]
        return np.bincount(chosen, minlength=len(codes) * self.count).reshape(len(codes), -1).astype(np.float64)

    def law(self, *held: NDArray[np.float64]) -> Null:
        """Return the law of the share in a set of which each row (and, if given, column) holds so many entries."""
        source = "placed" if self.count == 1 else "stored"
        if not self.total:
            return Null(float("nan"), 0.0, "beta", source)
        v, n = self.means, self.sizes
        density = held[0].sum(0) / n
        variance = float((density * (1 - density) * self.scatter * n / np.maximum(n - 1, 1)).sum())
        for whole, part, rests in zip(self.lines, held, self.rests, strict=False):
            own = float(((whole @ v) ** 2 - whole @ v**2).sum())
            alike = max(float(rests @ rests) - float(self.scatter.sum()), 0.0)
            lean = (part - whole * density) @ v
            alone = (part * (1 - density) ** 2 + (whole - part) * density**2) @ v**2
            if own > 0:
                variance += alike / own * max(float((lean**2 - alone).sum()), 0.0)
        lean = float((density * (1 - density) * n * v * self.coarse).sum())  # large entries of a binade round coarser
        variance += (_LEAN * lean) ** 2
        share = float((density * n * v).sum()) / self.total
        step = 1 / self.total if self.counted else 0.0
        return Null(share, variance**0.5 / self.total, "beta", source, draws=_FREEDOM, step=step)


def _gapless(rounding: Rounding) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what rounding tells apart, counted 0, 1, ... without what no entry is in, and the stratum of each."""
    codes, each = rounding.strata.contiguous().numpy(), 1
    if rounding.cells is not None:
        codes, each = codes.astype(np.int64) * CELLS + rounding.cells.contiguous().numpy(), CELLS
    used = np.flatnonzero(np.bincount(codes.ravel(), minlength=STRATA * each))
    lookup = np.zeros(STRATA * each, dtype=np.int64)
    lookup[used] = np.arange(len(used))
    return lookup[codes], used // each
