"""Cosines between directions in weight space, and the laws they follow where one of the two knows nothing of the other.

Two kinds of chance, and a coupling is beyond chance where it is beyond both. *Rotated*: the increment keeps its
singular values, and its directions are turned at random. *Signs*: the increment keeps the magnitude and the place of
every entry, and the signs of its rows and of its columns are redrawn, so that what storage let through stays as it is
(see ``increments.signs``). A gradient has its largest entries where activations are large, and so may the increment
have; the first law does not know that, and the second does.

Under either, <G, D> is a sum of products of independent variables, sum_i w_i x_i y_i: with g and s the singular values
of G and D the weights are g_i s_j / sqrt(rows cols) when turned, and the singular values of the matrix of products
G * D when signs are redrawn. With normal x and y (signs, and coordinates of unit vectors, have smaller moments, which
errs to the safe side) the cumulants of even order 2r are (2r - 1)! sum w^2r. A normal law misses its heavy tail: a
gradient has few directions. Of all sums of one variance and one participation P = sum w^4 / (sum w^2)^2, the one of a
single product, w^2 = sqrt(P), and a normal rest has the largest cumulants of every order, and that one is taken. It is
exact for P = 0 (normal) and P = 1 (the product of two normal variables), and between them in variance and kurtosis.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special
from torch import Tensor, linalg

from mastlens.analysis.increments.spectra import matrix_participation

LEVEL = 0.05
"""Chance that any row of a table without alignment is marked as above chance."""

# Of the normal variable that is held fixed while the tail of the other is taken; the trapezoidal rule is exact to
# rounding for a smooth function that falls off as this one does.
_GRID = np.linspace(0.0, 40.0, 801)
_WEIGHTS = np.exp(-0.5 * _GRID**2) * (2 - (_GRID == 0)) * (_GRID[1] / math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class Chance:
    """The law of an inner product under chance: mean 0.

    Attributes:
        sd: Its standard deviation, exact.
        participation: P of its weights: 0 for a normal law, 1 for the product of two normal variables.
        source: ``rotated`` or ``signs``.
    """

    sd: float
    participation: float
    source: str


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine between two tensors, taken flat, in float64; 0 where either is zero."""
    a, b = a.double(), b.double()
    norms = float(linalg.vector_norm(a)) * float(linalg.vector_norm(b))
    return float((a * b).sum()) / norms if norms else 0.0


def expected_cosine(numel: int) -> float:
    """Return the mean |cosine| of a random direction of that many entries with a fixed one.

    The cosine has variance 1 / numel: exactly, whether the entries are independent normal variables or the matrix
    keeps its singular values and has both of its singular bases turned at random.
    """
    return (2 / (math.pi * numel)) ** 0.5


def cosine_chances(gradient: Tensor, increment: Tensor) -> list[Chance]:
    """Return the laws of the cosine of a gradient with an increment, (rows, cols) each; none where one is zero."""
    norms = float(linalg.vector_norm(gradient.double())) * float(linalg.vector_norm(increment.double()))
    if not norms:
        return []
    products = gradient.double() * increment.double()
    flat = matrix_participation(gradient) * matrix_participation(increment)
    return [
        Chance(increment.numel() ** -0.5, flat, "rotated"),
        Chance(float(linalg.vector_norm(products)) / norms, matrix_participation(products), "signs"),
    ]


def product_p(z: np.ndarray, participation: np.ndarray) -> np.ndarray:
    """Return the two-sided p of a value in standard deviations of a sum of products of normal variables.

    Args:
        z: Of any shape; NaN gives NaN.
        participation: P of the weights, from 0 to 1, of the same shape.
    """
    z, share = np.abs(z), np.sqrt(np.clip(participation, 0.0, 1.0))
    spread = np.sqrt(1 - share[..., None] + share[..., None] * _GRID**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        tails = special.ndtr(-z[..., None] / spread)
    tails = np.where(spread > 0, tails, 0.5 * (z[..., None] == 0))
    return np.where(np.isnan(z), np.nan, np.minimum(2 * tails @ _WEIGHTS, 1.0))


def judged(value: float, chances: Sequence[Chance], *, told: bool = True) -> dict[str, Any]:
    """Return what chance says of a cosine: ``z``, ``z_stored``, ``p`` and ``judged_by``, of the law with the largest p.

    Args:
        value: The cosine.
        chances: Its laws, ``rotated`` first; none where nothing can be told.
        told: Whether anything can be told of the increment: not where it is zero, or below the precision floor.
    """
    if not chances:
        return {"z": math.nan, "z_stored": math.nan, "p": math.nan, "judged_by": ""}
    # Where both have no entry in common no sign can change anything: nothing is beyond chance then.
    z = np.array([value / chance.sd if chance.sd else math.nan for chance in chances])
    p = np.nan_to_num(product_p(z, np.array([chance.participation for chance in chances])), nan=1.0)
    worst = int(p.argmax())
    return {
        "z": float(z[0]),
        "z_stored": float(z[-1]),
        "p": float(p[worst]) if told else math.nan,
        "judged_by": chances[worst].source,
    }


def above_chance(p: np.ndarray) -> np.ndarray:
    """Return which of a table's p-values chance does not explain: p <= ``LEVEL`` / rows (Bonferroni); NaN is not."""
    return np.asarray(p) <= LEVEL / max(len(p), 1)
