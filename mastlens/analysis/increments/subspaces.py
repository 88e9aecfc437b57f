"""Principal subspaces of a weight matrix: found fast, checked afterwards, and the angles between them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.analysis.increments.krylov import block_krylov, least_known
from mastlens.analysis.increments.singular_values import gram_matrix, leading_eigenpairs
from mastlens.errors import BadSetting

TOLERANCE = 5e-8
"""Accepted sine of the largest angle to the true subspaces: off-principal energy is then right to about 1e-7."""

_GRAM_UP_TO = 384  # rows of the smaller side: decomposing the Gram matrix is then cheaper than iterating
_EPS = torch.finfo(torch.float64).eps
_TINY = torch.finfo(torch.float64).tiny
_GROWTH = 16  # of rounding in a LAPACK decomposition, in units of eps; measured below 4, see the reference tests


@dataclass(frozen=True)
class PrincipalSubspaces:
    """The spans of the top-k singular vectors of a matrix.

    Attributes:
        left: Orthonormal columns U_k, in the output space, float64.
        right: Orthonormal columns V_k, in the input space, float64.
        singular_values: The k largest singular values, descending.
        gap: (s_k - s_{k+1}) / s_1. Near 0 the subspace is hardly defined, whatever finds it.
        error: Bound on the sine of the largest angle to the true subspaces.
        method: ``krylov``, ``gram`` or ``svd``: what found them.
    """

    left: Float[Tensor, "rows k"]
    right: Float[Tensor, "cols k"]
    singular_values: Float[Tensor, " k"]
    gap: float
    error: float
    method: str

    @property
    def rank(self) -> int:
        """The number k of dimensions kept."""
        return self.left.shape[1]

    def swapped(self) -> "PrincipalSubspaces":
        """Return the subspaces of the transposed matrix."""
        return PrincipalSubspaces(self.right, self.left, self.singular_values, self.gap, self.error, self.method)


def principal_subspaces(
    weight: Float[Tensor, "rows cols"], rank: int, *, tolerance: float = TOLERANCE, seed: int = 0
) -> PrincipalSubspaces:
    """Return the top-``rank`` singular subspaces of ``weight``.

    A block Krylov iteration in mixed precision (the Gram matrix where the smaller side is short), accepted only if
    its bound on the angle to the true subspaces meets ``tolerance``; otherwise an exact float64 decomposition,
    whose own rounding bounds the angle then.

    Args:
        weight: Any floating dtype.
        rank: k.
        tolerance: Accepted sine of the largest angle.
        seed: Of the iteration's random start.

    Raises:
        MastlensError: If ``rank`` is not between 1 and the smaller dimension.
    """
    return within(refined_subspaces(weight, rank, seed=seed), tolerance)


def within(subspaces: Iterator[PrincipalSubspaces], tolerance: float) -> PrincipalSubspaces:
    """Return the first of ever better subspaces whose error is small enough, or else the last."""
    found = None
    for found in subspaces:
        if found.error <= tolerance:
            break
    assert found is not None
    return found


def refined_subspaces(weight: Float[Tensor, "rows cols"], rank: int, *, seed: int = 0) -> Iterator[PrincipalSubspaces]:
    """Yield ever better approximations of the top-``rank`` singular subspaces; the last is exact.

    For those who learn only from what they measure how good the subspaces must be. Arguments and errors as of
    ``principal_subspaces``.
    """
    check_rank(rank, weight.shape)
    if weight.shape[0] > weight.shape[1]:
        yield from (found.swapped() for found in refined_subspaces(weight.T, rank, seed=seed))
        return
    smaller = weight.shape[0]
    if smaller <= _GRAM_UP_TO:
        yield _by_gram(weight, rank)
    elif 8 * rank <= smaller:
        for pairs in block_krylov(weight.float(), rank, seed):
            values = pairs.values
            if float(values[rank - 1]) <= least_known(values):
                break  # of a rank below k: only the exact decomposition knows what follows
            gap = float(values[rank - 1] - values[rank]) / max(float(values[0]), _TINY)
            left, right = pairs.left[:rank].T.contiguous(), pairs.right[:rank].T.contiguous()
            error = min(1.0, pairs.error + (_GROWTH * _EPS / gap if gap > 0 else 1.0))
            yield PrincipalSubspaces(left, right, values[:rank].contiguous(), gap, error, "krylov")
    yield _by_svd(weight, rank)


def check_rank(rank: int, shape: tuple[int, ...]) -> None:
    """Raise unless ``rank`` lies between 1 and the smaller dimension."""
    smaller = min(shape)
    if not 1 <= rank <= smaller:
        raise BadSetting(f"Rank {rank} does not fit a matrix of {shape[0]} x {shape[1]}: from 1 to {smaller}.")


def _by_gram(weight: Tensor, rank: int) -> PrincipalSubspaces:
    wide = weight.double()
    squares, vectors = leading_eigenpairs(gram_matrix(wide), min(rank + 1, len(wide)))
    left, values = vectors[:, :rank].contiguous(), squares.clamp_min(0).sqrt()
    right = (left.T.contiguous() @ wide).T / values[:rank].clamp_min(_TINY)
    following = float(squares[rank].clamp_min(0)) if rank < len(squares) else 0.0
    distance = float(squares[rank - 1]) - following
    error = _GROWTH * _EPS * float(squares[0]) / distance if distance > 0 else float("inf")
    return PrincipalSubspaces(left, right.contiguous(), values[:rank], _relative_gap(values, rank), error, "gram")


def _by_svd(weight: Tensor, rank: int) -> PrincipalSubspaces:
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    gap = _relative_gap(s, rank)
    error = min(1.0, _GROWTH * _EPS / gap) if gap > 0 else 1.0
    return PrincipalSubspaces(u[:, :rank].contiguous(), vh[:rank].T.contiguous(), s[:rank], gap, error, "svd")


def _relative_gap(values: Tensor, rank: int) -> float:
    largest = float(values[0])
    if not largest:
        return 0.0
    following = float(values[rank]) if rank < len(values) else 0.0
    return (float(values[rank - 1]) - following) / largest


def principal_angles(a: Float[Tensor, "ambient k"], b: Float[Tensor, "ambient k"]) -> Float[Tensor, " k"]:
    """Return the principal angles between two subspaces of equal dimension, ascending, in radians.

    Each from its sine and its cosine together (Bjoerck and Golub 1973): a cosine near 1 alone loses half of the
    digits, so that float32 turns a true 1e-6 into 0.

    Args:
        a: Orthonormal columns, float64.
        b: Orthonormal columns, float64.
    """
    inside = a.T @ b
    sines = torch.linalg.svdvals(b - a @ inside).flip(0)
    cosines = torch.linalg.svdvals(inside)
    return torch.atan2(sines, cosines)
