"""Cosines between directions in weight space, and the law they follow when one of the two has no preference."""

import math

import numpy as np
from scipy import stats
from torch import Tensor, linalg

LEVEL = 0.05
"""Chance that any row of a table without alignment is marked as above chance."""


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


def cosine_p(cosines: np.ndarray, numel: np.ndarray) -> np.ndarray:
    """Return the share of random directions whose |cosine| with a fixed one is at least as large.

    With independent normal entries the squared cosine is Beta(1/2, (numel - 1) / 2), exactly. Gradient and increment
    of few directions scatter with the same variance and heavier tails, so a p far out in the tail errs to the small
    side there.

    Args:
        cosines: Cosines, of any shape; NaN gives NaN.
        numel: Number of entries of the directions; 1 leaves no freedom and gives p = 1.
    """
    cosines, numel = np.asarray(cosines, dtype=float), np.asarray(numel, dtype=float)
    squared = np.minimum(cosines**2, 1.0)
    p = stats.beta.sf(squared, 0.5, np.maximum(numel - 1, 1) / 2)
    return np.where(np.isnan(cosines), np.nan, np.where(numel > 1, p, 1.0))


def above_chance(p: np.ndarray) -> np.ndarray:
    """Return which of a table's p-values chance does not explain: p <= ``LEVEL`` / rows (Bonferroni); NaN is not."""
    return np.asarray(p) <= LEVEL / max(len(p), 1)
