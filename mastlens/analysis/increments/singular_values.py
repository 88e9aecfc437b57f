"""All singular values of a weight matrix, how exactly they are known, and how far an increment moved them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.linalg import eigh
from torch import Tensor

SHIFT_TOLERANCE = 1e-6
"""Accepted relative error of a spectral shift before the values are computed anew, without squaring."""

_EPS = torch.finfo(torch.float64).eps
_GROWTH = 4  # of rounding in a LAPACK decomposition, in units of eps


@dataclass(frozen=True)
class Spectrum:
    """Singular values with the size of the rounding error that each may have.

    Attributes:
        values: Descending, float64.
        rounding: Of each value.
    """

    values: Float[Tensor, " smaller"]
    rounding: Float[Tensor, " smaller"]


def gram_matrix(wide: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows rows"]:
    """Return W W'."""
    if wide.device.type == "cpu":
        array = wide.numpy()
        return torch.from_numpy(array @ array.T)  # numpy sees that it is symmetric and computes half of it
    return wide @ wide.T


def leading_eigenpairs(
    symmetric: Float[Tensor, "size size"], count: int
) -> tuple[Float[Tensor, " count"], Float[Tensor, "size count"]]:
    """Return the largest eigenvalues, descending, and their vectors as columns; half the cost of all of them.

    The matrix itself is overwritten.
    """
    size = len(symmetric)
    if symmetric.device.type == "cpu":
        wanted = (size - count, size - 1)
        found = eigh(symmetric.numpy(), subset_by_index=wanted, driver="evr", check_finite=False, overwrite_a=True)
        values, vectors = map(torch.from_numpy, found)
    else:
        values, vectors = torch.linalg.eigh(symmetric)
    return values.flip(0)[:count], vectors.flip(1)[:, :count]


def gram_spectrum(weight: Float[Tensor, "rows cols"]) -> Spectrum:
    """Return the singular values from the float64 Gram matrix of the smaller side.

    Three times faster than a singular value decomposition, and as exact for the large values; squaring costs the
    small ones digits, which ``rounding`` says.
    """
    wide = weight.double()
    if wide.shape[0] > wide.shape[1]:
        wide = wide.T
    gram = gram_matrix(wide)
    del wide
    squares = torch.linalg.eigvalsh(gram)
    values = squares.flip(0).clamp_min(0).sqrt()
    noise = _GROWTH * _EPS * float(values[0]) ** 2
    return Spectrum(values, noise / (values + (values**2 + noise).sqrt()).clamp_min(torch.finfo(torch.float64).tiny))


def exact_spectrum(weight: Float[Tensor, "rows cols"]) -> Spectrum:
    """Return the singular values by a float64 singular value decomposition."""
    values = torch.linalg.svdvals(weight.double())
    return Spectrum(values, torch.full_like(values, _GROWTH * _EPS * float(values[0])))


def spectral_shift(before: Spectrum, after: Spectrum) -> tuple[float, float]:
    """Return the normalised spectral shift |s(after) - s(before)| / |s(before)| and its estimated relative error.

    NSS of arXiv:2511.08567. The error takes the roundings as independent: linear terms of both signs, and the
    square that they add to the norm.
    """
    norm = float(torch.linalg.vector_norm(before.values))
    difference = after.values - before.values
    shift = float(torch.linalg.vector_norm(difference))
    if shift == 0.0 or norm == 0.0:
        return (0.0 if shift == 0.0 else float("inf")), 0.0
    noise = before.rounding**2 + after.rounding**2
    linear = float((difference**2 * noise).sum().sqrt()) / shift**2
    return shift / norm, linear + 0.5 * float(noise.sum()) / shift**2
