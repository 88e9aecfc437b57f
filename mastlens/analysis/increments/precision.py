"""What storing two checkpoints in finite precision does to their difference, whatever the training did.

A stored number is the true one rounded to nearest: its error is uniform over one unit in the last place (ulp), of
variance ulp^2 / 12, and independent of the error of the other checkpoint. So two copies of the same weights, rounded on
their own, differ by noise of a known size. An increment that is not larger says nothing about the training. Everything
here is O(numel).
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.errors import BadSetting
from mastlens.statistics import BELOW as BELOW
from mastlens.statistics import ZERO as ZERO

_BLOCK = 1 << 16


@dataclass(frozen=True)
class PrecisionFloor:
    """The size of the difference that rounding alone gives two stored matrices.

    Attributes:
        norm: Expected Frobenius norm (root mean square).
        largest: Expected largest singular value, rms * (sqrt(rows) + sqrt(cols)).
        spectral_shift: Expected |s(after) - s(before)|_2 to first order, norm / sqrt(larger dimension); not normalised.
    """

    norm: float
    largest: float
    spectral_shift: float

    def below(self, norm: float) -> bool:
        """Return whether an increment of this Frobenius norm is not larger than rounding alone; a zero one is not."""
        return 0.0 < norm <= self.norm

    def note(self, norm: float) -> str:
        """Return why nothing can be told of an increment of this norm: it is zero, or not larger than rounding."""
        return ZERO if norm == 0.0 else BELOW if self.below(norm) else ""


def unit_in_last_place(stored: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
    """Return the spacing of the stored dtype at each entry; float64 for float64, float32 for everything narrower."""
    return _power_of_two(stored).mul_(torch.finfo(stored.dtype).eps)


def rounding_variance(stored: Float[Tensor, "rows cols"], spacing: Float[Tensor, "rows cols"] | None = None) -> float:
    """Return the summed variance of the rounding errors of a stored matrix, ulp^2 / 12 an entry. Cheap.

    Args:
        stored: The matrix, in its dtype.
        spacing: What takes the place of ulp where codes were stored (``Checkpoint.spacing``); it may have more rows.
    """
    if spacing is None:
        return _squared_units(stored) / 12
    return float(spacing[: len(stored)].double().square().sum()) / 12


def precision_floor(variance: float, rows: int, cols: int) -> PrecisionFloor:
    """Return what rounding alone would make of the difference of two stored matrices.

    Args:
        variance: ``rounding_variance`` of the one and of the other, added.
        rows: m.
        cols: n.
    """
    norm = math.sqrt(variance)
    return PrecisionFloor(
        norm=norm,
        largest=norm / math.sqrt(rows * cols) * (math.sqrt(rows) + math.sqrt(cols)),
        spectral_shift=norm / math.sqrt(max(rows, cols)),
    )


def floor_sentence(table: pd.DataFrame) -> str:
    """Return what to say first of a table of increments where some lie below the floor, or nothing.

    Args:
        table: Has ``note``, one row an increment of a tensor.
    """
    below = int((table["note"] == BELOW).sum()) if "note" in table else 0
    if not below:
        return ""
    whole = "Nothing about them" if below < len(table) else "Nothing about any of them"
    return (
        f"{below:,} of {len(table):,} increments lie below what the stored precision can hold. {whole} can be told "
        "from rounding. Float32 checkpoints, a longer run, or the increment over several checkpoints would say more."
    )


def coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """Return the dtype with the larger spacing; of equal ones the first."""
    return b if torch.finfo(b).eps > torch.finfo(a).eps else a


def neighbour_fraction(
    before: Float[Tensor, "rows cols"], after: Float[Tensor, "rows cols"], dtype: torch.dtype | None = None
) -> float:
    """Return the share of entries that moved to the very next number of ``dtype``: what rounding alone could flip.

    Such an entry may have changed by next to nothing. An entry that moved by two steps or more did change, by at least
    one unit in the last place. To be read beside the changed fraction, which it cannot exceed. Cheap.

    Args:
        before: A stored matrix.
        after: Another, of the same or another dtype.
        dtype: bfloat16, float16 or float32; without it the coarser of the two dtypes stored.

    Raises:
        MastlensError: For another dtype.
    """
    dtype = dtype or coarser(before.dtype, after.dtype)
    integers = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
    if dtype not in integers:
        known = ", ".join(str(d).removeprefix("torch.") for d in integers)
        raise BadSetting(f"Steps are counted in {known}, not in {str(dtype).removeprefix('torch.')}.")
    a, b = (t.to(dtype).contiguous().view(integers[dtype]).numpy() for t in (before, after))
    with np.errstate(over="ignore"):  # of unequal signs the difference wraps; no finite pair wraps to 1
        step = a - b
    return float(np.count_nonzero((step == 1) | (step == -1))) / before.numel()


def _squared_units(stored: Tensor) -> float:
    """Return the sum of ulp^2: blocks in float32, their sum in float64, for an expectation needs no more."""
    flat = stored.contiguous().view(-1)
    total = 0.0
    if stored.dtype == torch.float32:  # the common case, in one buffer; zeros count nothing
        bits, buffer = flat.view(torch.int32).numpy(), np.empty(_BLOCK, dtype=np.int32)
        for start in range(0, len(bits), _BLOCK):
            part = bits[start : start + _BLOCK]
            power = np.bitwise_and(part, 0x7F800000, out=buffer[: len(part)]).view(np.float32)
            total += float(np.dot(power, power))
    else:
        for block in flat.split(_BLOCK):  # as many entries as stay in the cache
            power = _power_of_two(block).numpy()
            total += float(np.dot(power, power))
    return total * torch.finfo(stored.dtype).eps ** 2


def _power_of_two(stored: Tensor) -> Tensor:
    """Return 2^floor(log2 |w|), not below the smallest normal number of the stored dtype, by masking the exponent."""
    if stored.dtype == torch.float64:
        power = (stored.contiguous().view(torch.int64) & 0x7FF0000000000000).view(torch.float64)
    else:
        power = (stored.float().contiguous().view(torch.int32) & 0x7F800000).view(torch.float32)
    return power.clamp_min_(torch.finfo(stored.dtype).tiny)
