"""Principal subspaces of a weight matrix, and what of an increment lies in them. float64 throughout."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.errors import MastlensError


@dataclass(frozen=True)
class PrincipalSubspaces:
    """The spans of the top-k singular vectors of a matrix.

    Attributes:
        left: Orthonormal columns U_k, in the output space.
        right: Orthonormal columns V_k, in the input space.
        singular_values: All singular values, descending.
    """

    left: Float[Tensor, "rows k"]
    right: Float[Tensor, "cols k"]
    singular_values: Float[Tensor, " smaller"]

    @property
    def rank(self) -> int:
        """The number k of dimensions kept."""
        return self.left.shape[1]


def principal_subspaces(weight: Float[Tensor, "rows cols"], rank: int) -> PrincipalSubspaces:
    """Return the top-``rank`` singular subspaces of ``weight``, by an exact float64 decomposition.

    Raises:
        MastlensError: If ``rank`` is not between 1 and the smaller dimension.
    """
    smaller = min(weight.shape)
    if not 1 <= rank <= smaller:
        raise MastlensError(
            f"Rank {rank} does not fit a matrix of {weight.shape[0]} x {weight.shape[1]}: from 1 to {smaller}."
        )
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return PrincipalSubspaces(u[:, :rank].contiguous(), vh[:rank].T.contiguous(), s)


def off_principal(increment: Float[Tensor, "rows cols"], subspaces: PrincipalSubspaces) -> float:
    """Return the off-principal energy 1 - |U_k' D V_k|^2 / |D|^2; 0 for a zero increment.

    The joint reading of MAST's rho (arXiv:2606.19222), equal to 1 - p_k of arXiv:2606.13657.
    """
    d = increment.double()
    energy = float((d * d).sum())
    if energy == 0.0:
        return 0.0
    inside = subspaces.left.T @ d @ subspaces.right
    return 1.0 - float((inside * inside).sum()) / energy


def off_principal_null(rows: int, cols: int, rank: int) -> float:
    """Return the expected off-principal energy of a random (isotropic) increment, 1 - k^2 / (rows * cols)."""
    return 1.0 - rank * rank / (rows * cols)


def largest_angle(a: Float[Tensor, "ambient k"], b: Float[Tensor, "ambient k"]) -> float:
    """Return the largest principal angle between two subspaces of equal dimension, in radians.

    By the sine form where the angle is small, which is exact there: a cosine near 1 loses half of the digits.

    Args:
        a: Orthonormal columns.
        b: Orthonormal columns.
    """
    residual = b - a @ (a.T @ b)
    sine = float(torch.linalg.matrix_norm(residual, 2))
    if sine**2 <= 0.5:
        return float(torch.asin(torch.tensor(sine, dtype=torch.float64)))
    cosine = float(torch.linalg.svdvals(a.T @ b).min())
    return float(torch.acos(torch.tensor(min(cosine, 1.0), dtype=torch.float64)))


def spectral_shift(before: Float[Tensor, " smaller"], after: Float[Tensor, " smaller"]) -> float:
    """Return the normalised spectral shift |s(after) - s(before)| / |s(before)| (NSS, arXiv:2511.08567)."""
    norm = float(torch.linalg.vector_norm(before))
    shift = float(torch.linalg.vector_norm(after - before))
    return shift / norm if norm else (0.0 if shift == 0.0 else float("inf"))


def stable_rank(increment: Float[Tensor, "rows cols"]) -> float:
    """Return |D|_F^2 / |D|_2^2; 0 for a zero increment."""
    d = increment.double()
    largest = float(torch.linalg.matrix_norm(d, 2))
    return float((d * d).sum()) / largest**2 if largest else 0.0


def changed_fraction_bf16(
    before: Float[Tensor, "rows cols"], after: Float[Tensor, "rows cols"], tolerance: float = 1e-3
) -> float:
    """Return the share of entries that differ once both are rounded to bfloat16 (arXiv:2511.08567).

    An entry is unchanged if |a - b| <= tolerance * max(|a|, |b|); at 1e-3 this is equality in bfloat16.
    """
    a, b = before.bfloat16().float(), after.bfloat16().float()
    changed = (a - b).abs() > tolerance * torch.maximum(a.abs(), b.abs())
    return float(changed.double().mean())
