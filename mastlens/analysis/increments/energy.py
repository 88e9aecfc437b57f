"""Off-principal energy of an increment in all its readings, whole and by head, beside what chance gives.

With U_k, V_k the top singular subspaces of a reference weight and D the increment, the share *outside* is
1 - |U'DV|^2 / |D|^2 read jointly (MAST's rho, arXiv:2606.19222; 1 - p_k of arXiv:2606.13657), 1 - |U'D|^2 / |D|^2
on the left (output side), 1 - |DV|^2 / |D|^2 on the right (input side), 1 - sum (u_i'Dv_i)^2 / |D|^2 on the rank-one
atoms, and 1 - |mask * D|^2 / |D|^2 in coordinates (arXiv:2511.08567). All products are accumulated in float64, one
block of rows at a time, so that no float64 copy of the matrix is made. Everything here costs O(rows * cols * k) and
needs no decomposition.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mastlens.analysis.increments.nulls import READINGS, Null, Reading, isotropic_null, rotated_null, turned_null
from mastlens.analysis.increments.spectra import matrix_participation
from mastlens.errors import BadFile, BadSetting

_BLOCK = 128  # rows at a time: few enough for little memory, enough for the products to run at full rate


@dataclass(frozen=True)
class PrincipalProducts:
    """What one pass over an increment gives; every reading follows from it.

    Attributes:
        left: U'D, the increment seen from the principal output directions.
        right: DV, seen from the principal input directions; None where it was not asked for.
        row_energy: Squared norm of each row of D.
        core: U'DV.
    """

    left: Float[Tensor, "k cols"]
    right: Float[Tensor, "rows k"] | None
    row_energy: Float[Tensor, " rows"]
    core: Float[Tensor, "k k"]

    @property
    def energy(self) -> float:
        """|D|_F^2."""
        return float(self.row_energy.sum())


@dataclass(frozen=True)
class EnergyReadings:
    """The off-principal share of an increment's energy in four readings, each in [0, 1]; 0 for a zero increment.

    Attributes:
        joint: Outside of the k x k block: 1 - |U'DV|^2 / |D|^2.
        left: Outside of the k output directions: 1 - |U'D|^2 / |D|^2.
        right: Outside of the k input directions: 1 - |DV|^2 / |D|^2; NaN where DV was not computed.
        diagonal: Outside of the k rank-one atoms: 1 - sum (u_i'Dv_i)^2 / |D|^2.
        norm: |D|_F.
    """

    joint: float
    left: float
    right: float
    diagonal: float
    norm: float


@dataclass(frozen=True)
class HeadReadings:
    """The readings head by head; a head is a block of rows (q, k, v) or of columns (o).

    Attributes:
        norm: |D_h|_F.
        share: |D_h|^2 / |D|^2; 0 for a zero increment. Null: ``share_null``.
        off_principal: Joint reading of the block in its place, 1 - |U'D_hV|^2 / |D_h|^2.
        off_principal_shared: Reading on the side that the heads share: input directions for q, k, v, output for o.
        share_null: One for all heads.
        off_principal_nulls: One for each head: its block's own singular values, turned at random within the block. U
            (or V) has another share of its length in each.
        off_principal_shared_nulls: The same.
    """

    norm: Float[Tensor, " heads"]
    share: Float[Tensor, " heads"]
    off_principal: Float[Tensor, " heads"]
    off_principal_shared: Float[Tensor, " heads"]
    share_null: Null
    off_principal_nulls: tuple[Null, ...]
    off_principal_shared_nulls: tuple[Null, ...]


def principal_products(
    increment: Float[Tensor, "rows cols"],
    left: Float[Tensor, "rows k"],
    right: Float[Tensor, "cols k"],
    *,
    both: bool = True,
    fill: Callable[[slice], None] | None = None,
) -> PrincipalProducts:
    """Multiply an increment with the principal bases in one pass, accumulated in float64. Cheap.

    Args:
        increment: D, float32 or float64.
        left: U_k, orthonormal columns, float64.
        right: V_k, orthonormal columns, float64.
        both: Also DV. The joint and the left reading do without it, at half the cost.
        fill: Writes these rows of the increment, each once, just before they are read: what it touches is then still
            in the processor's cache.

    Raises:
        MastlensError: If the increment holds NaN or infinity.
    """
    # Both bases with their long side contiguous: the skinny products run half again as fast.
    across, along = left.double().T.contiguous(), right.double().T.contiguous()
    (rows_total, cols), k = increment.shape, left.shape[1]
    from_left = increment.new_zeros(k, cols, dtype=torch.float64)
    from_right = increment.new_empty(rows_total, k, dtype=torch.float64) if both else None
    row_energy = increment.new_empty(rows_total, dtype=torch.float64)
    for rows, block in _blocks(increment, fill):
        from_left.addmm_(across[:, rows], block)
        if from_right is not None:
            torch.mm(block, along.T, out=from_right[rows])
        row_energy[rows] = _row_squares(block)
    _check(float(row_energy.sum()))
    return PrincipalProducts(from_left, from_right, row_energy, from_left @ right.double())


def frobenius_norm(matrix: Float[Tensor, "rows cols"]) -> float:
    """Return |W|_F, each row in the matrix's own precision (at least float32), their sum in float64. Cheap."""
    return float(_row_squares(matrix.float() if matrix.itemsize < 4 else matrix).double().sum()) ** 0.5


def off_principal(
    increment: Float[Tensor, "rows cols"], left: Float[Tensor, "rows k"], right: Float[Tensor, "cols k"]
) -> float:
    """Return the joint reading 1 - |U'DV|^2 / |D|^2 alone; 0 for a zero increment. Arguments as above."""
    return energy_readings(principal_products(increment, left, right, both=False)).joint


def right_reading(increment: Float[Tensor, "rows cols"], right: Float[Tensor, "cols k"], norm: float) -> float:
    """Return the reading 1 - |DV|^2 / |D|^2 in single precision, enough to bound errors with; 0 for a zero increment.

    Args:
        increment: D.
        right: V_k, orthonormal columns.
        norm: |D|_F.
    """
    return _outside(frobenius_norm(increment.float() @ right.float()) ** 2, norm**2)


def energy_readings(products: PrincipalProducts) -> EnergyReadings:
    """Return all readings of the off-principal energy. Free, once the products are there."""
    energy = products.energy
    return EnergyReadings(
        joint=_outside(_squares(products.core), energy),
        left=_outside(_squares(products.left), energy),
        right=float("nan") if products.right is None else _outside(_squares(products.right), energy),
        diagonal=_outside(_squares(products.core.diagonal()), energy),
        norm=energy**0.5,
    )


def energy_nulls(rows: int, cols: int, rank: int, participation: float | None = None) -> dict[Reading, Null]:
    """Return what chance gives for each reading of ``EnergyReadings``; mean 1 - k^2 / (m n) for the joint one.

    Args:
        rows: m.
        cols: n.
        rank: k.
        participation: sum s^4 / (sum s^2)^2 of the increment: then the law for an increment of the same singular
            values, turned at random. None for the isotropic law, which is narrower (see ``nulls``).
    """
    if participation is not None:
        return {r: rotated_null(r, rows, cols, rank, participation, off=True) for r in READINGS}
    dimensions: dict[Reading, int] = {
        "joint": rank * rank,
        "left": rank * cols,
        "right": rank * rows,
        "diagonal": rank,
    }
    return {r: isotropic_null(d, rows * cols, off=True) for r, d in dimensions.items()}


def off_mask_energy(increment: Float[Tensor, "rows cols"], mask: Bool[Tensor, "rows cols"]) -> tuple[float, Null]:
    """Return the share of the energy outside a coordinate mask, 1 - |mask * D|^2 / |D|^2, and its isotropic null.

    0 for a zero increment. The null's mean is 1 - density of the mask. Cheap.

    Raises:
        MastlensError: If the increment holds NaN or infinity.
    """
    energy = inside = 0.0
    for rows, block in _blocks(increment):
        block.square_()
        energy += float(block.sum())
        inside += float(block.mul_(mask[rows]).sum())
    _check(energy)
    return _outside(inside, energy), isotropic_null(int(mask.sum()), mask.numel(), off=True)


def head_readings(
    increment: Float[Tensor, "rows cols"],
    products: PrincipalProducts,
    left: Float[Tensor, "rows k"],
    right: Float[Tensor, "cols k"],
    *,
    heads: int,
    side: Literal["rows", "cols"],
) -> HeadReadings:
    """Read the off-principal energy head by head, beside rotated nulls. Once the products are there: rows cols head.

    Args:
        increment: D.
        products: Of the same increment and bases.
        left: U_k.
        right: V_k.
        heads: Number of heads.
        side: Where the heads lie: ``rows`` for q, k and v, ``cols`` for o.

    Raises:
        MastlensError: If the heads do not divide that side.
    """
    size = increment.shape[0 if side == "rows" else 1]
    if heads < 1 or size % heads:
        raise BadSetting(f"{size} {side} cannot be {heads} heads of equal size.")
    k = products.core.shape[0]
    basis = (left if side == "rows" else right).double().reshape(heads, size // heads, k)
    other = products.right if side == "rows" else products.left.T
    if other is None:
        raise ValueError("The heads of q, k and v need DV: principal_products(..., both=True).")
    product = other.reshape(heads, size // heads, k)
    if side == "rows":
        energy = products.row_energy.reshape(heads, -1).sum(1)
    else:
        energy = increment.new_zeros(size, dtype=torch.float64)
        for _, block in _blocks(increment):
            energy += block.square_().sum(0)
        energy = energy.reshape(heads, -1).sum(1)
    joint = torch.linalg.matmul(basis.mT, product).square().sum((1, 2))
    grams = basis.mT @ basis
    traces = grams.diagonal(dim1=1, dim2=2).sum(1).tolist()
    squares = grams.square().sum((1, 2)).tolist()
    wide, long = size // heads, len(increment) * increment.shape[1] // size
    blocks = increment.chunk(heads, 0 if side == "rows" else 1)
    # A zero head has the spread of a single direction: none can be told of it anyway.
    shares = [matrix_participation(block) or 1.0 for block in blocks]
    return HeadReadings(
        norm=energy.sqrt(),
        share=torch.nan_to_num(energy / energy.sum()),
        off_principal=torch.nan_to_num(1 - joint / energy).clamp_(0, 1),
        off_principal_shared=torch.nan_to_num(1 - product.square().sum((1, 2)) / energy).clamp_(0, 1),
        share_null=isotropic_null(wide * long, increment.numel()),
        off_principal_nulls=tuple(
            turned_null(wide, long, (t, s), (k, k), p, off=True)
            for t, s, p in zip(traces, squares, shares, strict=True)
        ),
        off_principal_shared_nulls=tuple(turned_null(wide, long, (wide, wide), (k, k), p, off=True) for p in shares),
    )


def _blocks(increment: Tensor, fill: Callable[[slice], None] | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows in float64, a block at a time; the block's memory is used again for the next one."""
    buffer = increment.new_empty(min(_BLOCK, increment.shape[0]), increment.shape[1], dtype=torch.float64)
    for start in range(0, increment.shape[0], _BLOCK):
        rows = slice(start, min(start + _BLOCK, increment.shape[0]))
        if fill is not None:
            fill(rows)
        yield rows, buffer[: rows.stop - start].copy_(increment[rows])


def _row_squares(matrix: Tensor) -> Tensor:
    """Return the squared norm of each row, in the matrix's own precision."""
    if matrix.device.type == "cpu":
        return torch.from_numpy(np.vecdot(matrix.numpy(), matrix.numpy()))  # by BLAS, twice as fast
    return torch.linalg.vecdot(matrix, matrix)


def _squares(values: Tensor) -> float:
    return float((values * values).sum())


def _outside(inside: float, energy: float) -> float:
    # Rounding may carry the share inside a hair beyond the whole.
    return min(max(1.0 - inside / energy, 0.0), 1.0) if energy else 0.0


def _check(energy: float) -> None:
    if not energy < float("inf"):
        raise BadFile("The increment holds NaN or infinity: one of the two checkpoints is damaged or diverged.")
