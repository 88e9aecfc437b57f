"""Which entries an increment visibly changed, and whether they are the principal or the small entries of the weight.

After "The Path Not Taken" (arXiv:2511.08567). Every mask is decided without tolerance in the ties, so that the same
tensors give the same bits. A warning belongs to every overlap with small entries: in a floating-point format the
spacing shrinks with the magnitude, so that *any* small random increment changes small entries more often. Beside the
plain null stands one with the magnitudes matched, which takes that out.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16
from torch import Tensor

from mastlens.analysis.increments.nulls import Null, intersection_null
from mastlens.analysis.increments.settings import TOLERANCE, VIEWS
from mastlens.errors import BadFile, BadSetting, unknown

PRINCIPAL_RANK = 64
"""Rank of the reconstruction behind the principal mask (the default of arXiv:2606.07082)."""
ALPHA = 0.5
"""Share of the entries in the principal and in the low-magnitude mask (arXiv:2511.08567, arXiv:2606.07082)."""
STRATA = 512
"""Two of each of the 256 binades of float32, see ``rounding_strata``."""
CELLS = 2048
"""More than ``view_cells`` tells apart."""


@dataclass(frozen=True)
class Overlap:
    """How much of an update mask M lies in a reference mask R.

    Attributes:
        overlap: |R and M| / |M|; NaN where nothing was updated.
        density: |R| / numel: what chance gives.
        lift: overlap / density.
        updated: |M|.
        null: Of ``overlap``, M laid at random (hypergeometric).
        matched_null: The same within each stratum of entries that rounding treats alike; None where none were given.
    """

    overlap: float
    density: float
    lift: float
    updated: int
    null: Null
    matched_null: Null | None = None


def update_mask(
    before: Float[Tensor, "rows cols"],
    after: Float[Tensor, "rows cols"],
    *,
    view: str = "bf16",
    tolerance: float = TOLERANCE,
) -> Bool[Tensor, "rows cols"]:
    """Return where ``after`` differs from ``before``. Cheap.

    In the view ``bf16`` both are first rounded to bfloat16, and an entry is unchanged iff |a - b| <= tolerance *
    max(|a|, |b|). Below a tolerance of 2^-9 that is equality, since distinct bfloat16 values are at least 2^-8 of the
    larger apart. In the view ``native`` they are compared as stored; of two dtypes, in the wider. 0 and -0 are equal.

    Raises:
        MastlensError: For NaN or infinity, an unknown view, or a tolerance outside of [0, 1).
    """
    _check(before, "before")
    _check(after, "after")
    if view == "native":
        wider = torch.promote_types(before.dtype, after.dtype)
        return _different(before.to(wider), after.to(wider))
    if view != "bf16":
        raise unknown("view of the update mask", view, VIEWS)
    if not 0 <= tolerance < 1:
        raise BadSetting(f"The tolerance of the update mask is relative: from 0 to below 1, not {tolerance}.")
    a, b = before.bfloat16(), after.bfloat16()
    if tolerance < 2.0**-9:
        return _different(a, b)
    a, b = a.float(), b.float()
    return (a - b).abs() > tolerance * torch.maximum(a.abs(), b.abs())


def changed_fraction(mask: Bool[Tensor, "rows cols"]) -> float:
    """Return the share of entries in a mask; the update sparsity is 1 minus this."""
    return count(mask) / mask.numel()


def count(mask: Bool[Tensor, "..."]) -> int:
    """Return the number of entries in a mask."""
    return int(np.count_nonzero(mask.numpy()))


def principal_mask(
    left: Float[Tensor, "rows k"],
    singular_values: Float[Tensor, " some"],
    right: Float[Tensor, "cols k"],
    *,
    alpha: float = ALPHA,
) -> Bool[Tensor, "rows cols"]:
    """Return the largest entries, in magnitude, of the rank-k reconstruction U_k diag(s) V_k' of the base weight.

    Exactly round(alpha * numel) entries; of equal ones the first in row order. Ranked in float32. Cheap, once the
    singular triplets are there.

    Args:
        left: U_k.
        singular_values: At least the k largest, descending.
        right: V_k.
        alpha: Share of the entries, in [0, 1].
    """
    scaled = left.double() * singular_values[: left.shape[1]].double()
    return largest_entries(scaled.float() @ right.float().T, alpha)


def largest_entries(scores: Float[Tensor, "rows cols"], alpha: float) -> Bool[Tensor, "rows cols"]:
    """Return the round(alpha * numel) largest entries by magnitude; of equal ones the first in row order. Cheap.

    Raises:
        MastlensError: For NaN or infinity, or ``alpha`` outside of [0, 1].
    """
    return _ranked(scores, alpha, largest=True)


def smallest_entries(weight: Float[Tensor, "rows cols"], alpha: float = ALPHA) -> Bool[Tensor, "rows cols"]:
    """Return the low-magnitude mask: the round(alpha * numel) smallest |entries|, ties in row order. Cheap.

    Raises:
        MastlensError: For NaN or infinity, or ``alpha`` outside of [0, 1].
    """
    return _ranked(weight, alpha, largest=False)


def rounding_strata(weight: Float[Tensor, "rows cols"]) -> Int16[Tensor, "rows cols"]:
    """Return which entries rounding treats alike: twice the binary exponent (biased as in float32), 1 more at its end.

    Entries of one binade have one spacing, but for its least, the power of two itself: towards zero the numbers lie
    twice as close, so that a change that is swallowed everywhere else in the binade is seen there, on the smallest.
    """
    bits = weight.float().contiguous().view(torch.int32).numpy() & 0x7FFFFFFF
    edge = (bits & 0x7FFFFF) == 0
    return torch.from_numpy((2 * (bits >> 23) + edge).astype(np.int16))


def view_cells(
    weight: Float[Tensor, "rows cols"], *, view: str = "bf16", tolerance: float = TOLERANCE
) -> Int16[Tensor, "rows cols"]:
    """Return which entries of one binade an update mask treats alike, whatever is added to them. O(numel).

    Stored finer than the view, an entry lies somewhere between the two places where the view rounds to another number.
    One that lies close to such a place is seen to change by almost anything, in every run from this weight. Alike are
    entries as far from it, to a quarter of an octave, on the same side; where they can lie on it exactly, those that a
    tie takes up, or down; and under a tolerance that is more than one step of the view, those that need as many steps.

    Args:
        weight: What the runs started from, as stored.
        view: Of the mask.
        tolerance: Of the mask.
    """
    if view == "native":  # as it is stored: nothing but ties
        halves = weight.dtype in (torch.bfloat16, torch.float16)
        return weight.contiguous().view(torch.int16) & 1 if halves else torch.zeros(weight.shape, dtype=torch.int16)
    bits = weight.float().contiguous().view(torch.int32).numpy()
    low = bits & 0xFFFF
    distance = np.abs(low - 0x8000)
    octave = np.where(distance == 0, 0, 1 + np.floor(4 * np.log2(np.maximum(distance, 1))).astype(np.int32))
    cell = 2 * octave + (low >= 0x8000)
    cell = 2 * cell + np.where(low & 0x1FFF == 0, (bits >> 16) & 1, 0)
    if tolerance >= 2.0**-9:
        cell = 8 * cell + np.minimum(np.ceil(tolerance * (128 + ((bits >> 16) & 0x7F))), 7).astype(np.int32)
    return torch.from_numpy(cell.astype(np.int16))


def mask_overlap(
    update: Bool[Tensor, "rows cols"],
    reference: Bool[Tensor, "rows cols"],
    strata: Int16[Tensor, "rows cols"] | None = None,
) -> Overlap:
    """Return how much of the update mask lies in the reference mask, beside chance. Cheap without ``strata``.

    Args:
        update: M, from ``update_mask``.
        reference: The principal or the low-magnitude mask, or any other.
        strata: ``rounding_strata`` of the weight, for the null with the magnitudes matched.
    """
    updated, inside = count(update), int(np.count_nonzero(update.numpy() & reference.numpy()))
    expected = count(reference)
    density = expected / reference.numel()
    overlap = inside / updated if updated else float("nan")
    per_entry = 1 / updated if updated else float("nan")
    matched = None
    if strata is not None:
        first, second, _, sizes = stratified_counts(update, reference, strata)
        matched = intersection_null(first, second, sizes).scaled(per_entry)
    return Overlap(
        overlap=overlap,
        density=density,
        lift=overlap / density if density else float("nan"),
        updated=updated,
        null=intersection_null([updated], [expected], [reference.numel()]).scaled(per_entry),
        matched_null=matched,
    )


def stratified_counts(
    first: Bool[Tensor, "rows cols"], second: Bool[Tensor, "rows cols"], strata: Int16[Tensor, "rows cols"]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Count, in each stratum, the first mask, the second, their intersection, and all entries."""
    code = strata.numpy() + STRATA * (first.numpy() + 2 * second.numpy().astype(np.int16))
    neither, a, b, both = np.bincount(code.ravel(), minlength=4 * STRATA).reshape(4, STRATA)
    return (a + both).tolist(), (b + both).tolist(), both.tolist(), (neither + a + b + both).tolist()


def _different(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype not in (torch.bfloat16, torch.float16):
        return torch.from_numpy(np.not_equal(a.numpy(), b.numpy()))
    # Halves are compared by their bits, which numpy does ten times as fast; the two zeros are one value.
    x, y = (t.contiguous().view(torch.int16).numpy() for t in (a, b))
    changed = np.not_equal(x, y)
    negative_zero = np.int16(-(2**15))
    if (x == negative_zero).any() or (y == negative_zero).any():
        changed &= ((x | y) & np.int16(0x7FFF)) != 0
    return torch.from_numpy(changed)


def _ranked(scores: Tensor, alpha: float, *, largest: bool) -> Tensor:
    _check(scores, "scored")
    if not 0 <= alpha <= 1:
        raise BadSetting(f"alpha is the share of the entries in a mask: from 0 to 1, not {alpha}.")
    # Magnitudes are ordered as their bits are, and integers are partitioned faster.
    halves = scores.dtype in (torch.bfloat16, torch.float16)
    magnitudes = (scores if halves else scores.float()).abs()
    bits = magnitudes.view(torch.int16 if halves else torch.int32).numpy().ravel()
    wanted = round(alpha * bits.size)
    if wanted in (0, bits.size):
        return torch.full(scores.shape, wanted > 0)
    position = bits.size - wanted if largest else wanted - 1
    if halves:  # few values and many ties: counting them is faster still
        edge = np.searchsorted(np.bincount(bits).cumsum(), position, side="right")
    else:
        edge = np.partition(bits, position)[position]
    mask = bits > edge if largest else bits < edge
    if missing := wanted - int(np.count_nonzero(mask)):
        mask[np.flatnonzero(bits == edge)[:missing]] = True
    return torch.from_numpy(mask).reshape(scores.shape)


def _check(values: Tensor, what: str) -> None:
    # NaN and infinity survive every sum: one fast pass says that there are none, a slow one only where there may be.
    if bool(torch.isfinite(values.sum())):
        return
    if bad := int((~torch.isfinite(values)).sum()):
        raise BadFile(
            f"The matrix {what} holds {bad} NaN or infinite entries of {values.numel()}. The checkpoint is damaged or "
            "its training diverged; use an earlier one."
        )
