"""What chance alone would give: the bands that figures draw behind geometric numbers.

A random increment has no preferred direction. How much of its energy falls into a given pair of
subspaces, or how large its cosine with a given gradient is, then follows a known distribution.
"""

from typing import Any

import numpy as np
from scipy import stats


def principal_energy_band(
    rank: Any, rows: Any, cols: Any, *, level: float = 0.95, comparisons: int = 1, stable_rank: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the band of p = |U' D V|^2 / |D|^2 for a randomly oriented increment D of that shape.

    With independent normal entries p is Beta(k^2 / 2, (rows * cols - k^2) / 2), exactly. An increment of
    low rank scatters more around the same mean, because few directions carry it: its relative variance
    grows by about (4 k + 2) / (effective rank) / k^2. The stable rank is never above that effective rank,
    so the band errs to the wide side.

    Args:
        rank: k, the dimension of both principal subspaces.
        rows: Rows of the tensor.
        cols: Columns of the tensor.
        level: Share of random increments inside the band, for all comparisons together.
        comparisons: How many tensors are looked at; the level is corrected for them (Bonferroni).
        stable_rank: The increment's stable rank where it is known; without it D counts as full rank.

    Returns:
        The low and the high end.
    """
    k, m, n = (np.asarray(part, dtype=float) for part in (rank, rows, cols))
    numel = m * n
    inside = np.minimum(k, m) * np.minimum(k, n)
    mean = inside / numel
    excess = np.zeros_like(mean)
    if stable_rank is not None:
        known = np.asarray(stable_rank, dtype=float)
        known = np.where(np.isfinite(known) & (known > 0), known, np.inf)
        # (m + n + 1) / (m n) is what a matrix of independent normal entries already has.
        excess = np.maximum(0.0, 1 / known - (m + n + 1) / numel)
    with np.errstate(divide="ignore", invalid="ignore"):
        isotropic = 2 * (1 - mean) / (inside * (1 + 2 / numel))  # relative variance of the Beta above
        relative = isotropic + (4 * k + 2) * excess / k**2
        total = (1 - mean) / (mean * relative) - 1
        share = (1 - level) / comparisons / 2
        a, b = mean * total, (1 - mean) * total
        low, high = stats.beta.ppf(share, a, b), stats.beta.ppf(1 - share, a, b)
    everything = mean >= 1  # the subspaces are the whole space: nothing can lie outside
    return np.where(everything, 1.0, low), np.where(everything, 1.0, high)


def cosine_bound(numel: Any, *, level: float = 0.95, comparisons: int = 1) -> np.ndarray:
    """Return the |cosine| that random directions of that many entries stay below.

    Args:
        numel: Entries of the tensor.
        level: Share of random pairs below the bound, for all comparisons together.
        comparisons: How many tensors are looked at (Bonferroni).
    """
    size = np.asarray(numel, dtype=float)
    squared = stats.beta.ppf(1 - (1 - level) / comparisons, 0.5, np.maximum(size - 1, 0.5) / 2)
    return np.asarray(np.sqrt(squared))
