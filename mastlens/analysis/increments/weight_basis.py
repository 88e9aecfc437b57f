"""Singular vectors of a weight, as well as a null needs them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.analysis.increments.singular_values import gram_matrix

_SMALLEST = 1e-3  # of the largest singular value: below, single precision knows no direction, and none is given
_DOUBLE_UP_TO = 512  # rows of the smaller side up to which double precision costs nothing


@dataclass(frozen=True)
class WeightBasis:
    """Singular triplets of a weight, descending, float32; those of the smallest values are left out.

    Attributes:
        left: U.
        values: s.
        right: V.
    """

    left: Float[Tensor, "rows some"]
    values: Float[Tensor, " some"]
    right: Float[Tensor, "cols some"]


def weight_basis(weight: Float[Tensor, "rows cols"]) -> WeightBasis:
    """Return the singular triplets, from the Gram matrix of the smaller side. Errors of 1e-3 in single vectors."""
    if weight.shape[0] > weight.shape[1]:
        turned = weight_basis(weight.T)
        return WeightBasis(turned.right, turned.values, turned.left)
    wide = weight.double() if len(weight) <= _DOUBLE_UP_TO else weight.float()
    squares, vectors = torch.linalg.eigh(gram_matrix(wide.contiguous()))
    values, vectors = squares.flip(0).clamp_min(0).sqrt(), vectors.flip(1)
    kept = int((values > _SMALLEST * values[0]).sum())
    values, vectors = values[:kept], vectors[:, :kept]
    return WeightBasis(vectors.float(), values.float(), (wide.T @ vectors / values).float())
