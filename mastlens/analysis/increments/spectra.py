"""The spectrum of an increment, and what the increment does to the spectrum of the weight.

All from singular values, which need a full decomposition; ``estimate_participation`` alone is cheap. What chance gives
is sampled exactly and fast: the singular values of a Gaussian matrix are those of a small bidiagonal one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal
from torch import Tensor

from mastlens.analysis.increments.nulls import Null, isotropic_null, rotated_null, sampled_null, seeded
from mastlens.analysis.increments.ranks import energy_rank
from mastlens.analysis.increments.signs import entry_signs, turned_signs
from mastlens.analysis.increments.singular_values import gram_matrix, gram_spectrum
from mastlens.analysis.increments.weight_basis import WeightBasis

_ROWS = 16  # behind an estimated participation ratio

SHIFT_DRAWS = 3
"""Spectra behind the null of a spectral shift beyond first order; the mean's error is in its spread."""
ENTRY_DRAWS = 8
"""Increments with the sign of every entry redrawn behind the null of a rank."""
_FREEDOM = 5  # draws that their tail is given: where few entries decide it is heavier than a normal law's; calibrated
_RELATIVE = 2e-3  # of the mean, least spread: where signs hardly matter draws differ by less than they can show
_SHIFT_FREEDOM = 16  # the same for a spectral shift, whose spread is known to first order
_CLOSE = 0.01

ENERGY = 0.99
"""Share of the energy behind ``energy_rank_99`` (the 99%-energy rank)."""


@dataclass(frozen=True)
class SpectrumReadings:
    """How many directions an increment has, in four readings; all 0 for a zero increment.

    Attributes:
        stable_rank: |D|_F^2 / |D|_2^2.
        effective_rank: exp of the entropy of s_i / sum s (Roy and Vetterli 2007: of the singular values themselves, not
            of their squares).
        energy_rank_99: Smallest k whose largest singular values hold 99% of the sum of squares.
        participation: sum s^4 / (sum s^2)^2, from 1 / (smaller dimension) to 1; its inverse counts directions too.
    """

    stable_rank: float
    effective_rank: float
    energy_rank_99: float
    participation: float


def spectrum_readings(singular_values: Float[Tensor, " smaller"]) -> SpectrumReadings:
    """Return every reading of an increment's singular values."""
    if not float(singular_values.abs().sum()):
        return SpectrumReadings(0.0, 0.0, 0.0, 0.0)
    return SpectrumReadings(
        stable_rank(singular_values),
        effective_rank(singular_values),
        float(energy_rank(singular_values.sort(descending=True).values, ENERGY)),
        participation_ratio(singular_values),
    )


def stable_rank(singular_values: Float[Tensor, " smaller"]) -> float:
    """Return |D|_F^2 / |D|_2^2; 0 for a zero increment."""
    s = singular_values.double()
    largest = float(s.max())
    return float((s / largest).square().sum()) if largest else 0.0


def effective_rank(singular_values: Float[Tensor, " smaller"]) -> float:
    """Return exp(-sum p log p) with p = s / sum s (Roy and Vetterli 2007); 0 for a zero increment."""
    s = singular_values.double()
    total = float(s.sum())
    return float(torch.special.entr(s / total).sum().exp()) if total else 0.0


def participation_ratio(singular_values: Float[Tensor, " smaller"]) -> float:
    """Return sum s^4 / (sum s^2)^2; 0 for a zero increment. What ``rotated_null`` needs of a spectrum."""
    energy = singular_values.double().square()
    total = float(energy.sum())
    return float((energy / total).square().sum()) if total else 0.0


def matrix_participation(matrix: Float[Tensor, "rows cols"]) -> float:
    """Return ``participation_ratio`` of a matrix's singular values by the Gram matrix of its smaller side; 0 for zero.

    In float32: a null's width needs no more. rows cols min(rows, cols) flops.
    """
    norm = float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
    if not norm:
        return 0.0
    unit = (matrix / norm).float()
    gram = gram_matrix(unit if unit.shape[0] <= unit.shape[1] else unit.T)
    return min(float(torch.linalg.vector_norm(gram, dtype=torch.float64)) ** 2, 1.0)


def estimate_participation(
    increment: Float[Tensor, "rows cols"], row_energy: Float[Tensor, " rows"], *, seed: int = 0, name: str = ""
) -> float:
    """Estimate ``participation_ratio`` without a decomposition, from a few rows.

    sum s^4 = |DD'|_F^2 is the sum over rows d of |D d|^2. Rows drawn in proportion to their energy e give it without
    bias as the mean of |D d|^2 / e times |D|^2, exactly where all rows point one way, and to some percent where they
    are many and alike. Products in float32: a null's width needs no more. Cheap.

    Args:
        increment: D.
        row_energy: Squared norm of each row; 0 is returned where all are zero.
        seed: Of the draw, together with ``name``.
        name: Of the tensor.
    """
    energy = row_energy.cpu()
    total = float(energy.sum())
    if not total:
        return 0.0
    drawn = torch.multinomial(energy / total, _ROWS, replacement=True, generator=seeded(seed, "participation", name))
    d = increment.float()
    rows = (d[drawn.to(d.device)].double() / energy[drawn].sqrt()[:, None].to(d.device)).float()
    images = rows @ d.T / total**0.5
    return min(float(torch.linalg.vector_norm(images, dim=1, dtype=torch.float64).square().mean()), 1.0)


def fixed_spectrum_distance(before: Float[Tensor, " smaller"], after: Float[Tensor, " smaller"]) -> float:
    """Return |s(after) - s(before)|_2: how far the weight is from all matrices with the old spectrum.

    The distance to the nearest U diag(s(before)) V' (Mirsky), after arXiv:2607.19331. It cannot exceed |D|_F; its
    share of |D|_F is the part of the increment that turning singular vectors cannot explain.
    """
    return float(torch.linalg.vector_norm(after.double() - before.double()))


def isotropic_ratio(distance: float, norm: float, rows: int, cols: int) -> float:
    """Return kappa = (distance / |D|_F)^2 / (1 / max(rows, cols)): 1 where the increment is as a random one.

    To first order s_i' - s_i = u_i'Dv_i. The min(m, n) directions u_i v_i' are orthonormal, so of an isotropic
    increment they hold the share min(m, n) / (m n) of the energy. A ratio of energies, as the published orders of
    magnitude need (arXiv:2607.19331: about 1 for RLVR, hundreds for SFT); its root compares distances. 0 for a zero
    increment.

    Args:
        distance: From ``fixed_spectrum_distance``.
        norm: |D|_F.
        rows: m.
        cols: n.
    """
    return (distance / norm) ** 2 * max(rows, cols) if norm else 0.0


def fixed_spectrum_null(rows: int, cols: int) -> Null:
    """Return what an isotropic increment gives for (distance / |D|_F)^2, to first order: mean 1 / max(rows, cols).

    First order holds while the increment is small beside the gaps between the weight's singular values, and storage
    is not in it: ``shift_null`` knows both.
    """
    return isotropic_null(min(rows, cols), rows * cols)


def shift_null(
    weight: Float[Tensor, "rows cols"],
    basis: WeightBasis,
    before: Float[Tensor, " smaller"],
    increment: Float[Tensor, "rows cols"],
    participation: float,
    *,
    seed: int = 0,
    name: str = "",
) -> Null:
    """Return what the increment with redrawn signs gives for (distance / |D|_F)^2, also beyond first order.

    To first order the mean is exact, sum_i sum_ab u_ai^2 d_ab^2 v_bi^2 over |D|^2 (see ``signs``). Where singular
    values lie so close that they push one another, it is the mean of ``SHIFT_DRAWS`` spectra. The spread is that of an
    increment of these singular values, turned at random, to first order; beyond it is smaller.

    Args:
        weight: B, before the increment.
        basis: Its singular vectors.
        before: Its singular values, all, float64.
        increment: D, not zero.
        participation: sum s^4 / (sum s^2)^2 of the increment.
        seed: Of the draws, together with ``name``.
        name: Of the tensor and increment.
    """
    rows, cols = increment.shape
    flat = rotated_null("diagonal", rows, cols, min(rows, cols), participation)
    energy = float(torch.linalg.vector_norm(increment, dtype=torch.float64)) ** 2
    draws = 0
    if beyond_first_order(before, rows, cols, (energy / (rows * cols)) ** 0.5):
        draws = SHIFT_DRAWS
        signs = turned_signs(increment, draws=draws, seed=seed, name=f"{name}/shift")
        moved = [gram_spectrum(weight.float() + r * increment * c).values for r, c in signs]
        mean = float(np.mean([fixed_spectrum_distance(before, after) ** 2 for after in moved])) / energy
    else:
        seen = basis.left.square().T @ increment.square()
        mean = float((seen * basis.right.square().T).sum(dtype=torch.float64)) / energy
    sd = mean * flat.sd / flat.mean * (1 + 1 / draws if draws else 1) ** 0.5
    return Null(min(mean, 1.0), sd if mean < 1 else 0.0, "beta", "signs", _SHIFT_FREEDOM)


def beyond_first_order(values: Float[Tensor, " smaller"], rows: int, cols: int, rms: float) -> bool:
    """Return whether an increment of this entry size moves singular values by more than its diagonal u_i'Dv_i.

    Either more than ``_CLOSE`` of them are nearer to the next than two such moves, or the second-order shifts,
    rms^2 (s_i sum_j 1 / (s_i^2 - s_j^2) + |m - n| / 2 s_i), have more than that of the first-order energy.
    """
    s = values.double()
    if len(s) < 2 or not rms:
        return False
    if float((-s.diff() < 2 * rms).double().mean()) > _CLOSE:
        return True
    apart = s[:, None] ** 2 - s**2
    push = s * torch.where((s[:, None] - s).abs() > 2 * rms, 1 / apart, torch.zeros_like(apart)).sum(1)
    shift = rms * (push + abs(rows - cols) / (2 * s.clamp_min(rms)))
    return float(shift.square().mean()) > _CLOSE


def stable_rank_null(rows: int, cols: int) -> Null:
    """Return what an isotropic increment gives for the stable rank, asymptotically; no sampling.

    The largest singular value squared follows the Tracy-Widom law of order 1 about (sqrt(m - 1/2) + sqrt(n - 1/2))^2
    (Johnstone 2001, centred after Ma 2012), while |D|_F^2 / (m n) stands still beside it. Good to a few percent of the
    standard deviation from some 50 rows on.
    """
    a, b = (rows - 0.5) ** 0.5, (cols - 0.5) ** 0.5
    scale = (a + b) * (1 / a + 1 / b) ** (1 / 3)
    largest = (a + b) ** 2 - 1.2065335745820 * scale
    mean = rows * cols / largest
    return Null(mean, mean * scale * 1.607781034581**0.5 / largest, "normal", "asymptotic")


def gaussian_singular_values(
    rows: int, cols: int, generator: np.random.Generator
) -> Float[NDArray[np.float64], " smaller"]:
    """Draw the singular values of a rows x cols matrix of standard normal entries, descending, without the matrix.

    Householder reflections bring it to a bidiagonal one whose entries are independent chi variables (Golub and Kahan;
    Dumitriu and Edelman 2002), so that a draw costs O(smaller^2).
    """
    larger, smaller = max(rows, cols), min(rows, cols)
    diagonal = generator.chisquare(np.arange(larger, larger - smaller, -1))
    beside = generator.chisquare(np.arange(smaller - 1, 0, -1)) if smaller > 1 else np.empty(0)
    gram = diagonal.copy()
    gram[1:] += beside
    squares = eigvalsh_tridiagonal(gram, np.sqrt(diagonal[:-1] * beside), lapack_driver="sterf")
    return np.sqrt(np.maximum(squares[::-1], 0.0))


@lru_cache(maxsize=32)
def spectrum_nulls(rows: int, cols: int, *, draws: int = 20, seed: int = 0) -> dict[str, Null]:
    """Return what isotropic increments of this shape give for each of ``SpectrumReadings``, by its name, sampled.

    The readings do not depend on the norm. A draw of 1536 x 1536 takes about 30 ms; each shape is sampled once.
    """
    generator = np.random.default_rng(seed)
    drawn = [spectrum_readings(torch.from_numpy(gaussian_singular_values(rows, cols, generator))) for _ in range(draws)]
    steps = {"stable_rank": 0.0, "effective_rank": 0.0, "energy_rank_99": 1.0, "participation": 0.0}
    return {name: sampled_null([getattr(r, name) for r in drawn], step=step) for name, step in steps.items()}


def entry_nulls(
    increment: Float[Tensor, "rows cols"],
    measures: Callable[[Float[Tensor, "rows cols"]], Mapping[str, float]],
    *,
    draws: int = ENTRY_DRAWS,
    seed: int = 0,
    name: str = "",
) -> dict[str, Null]:
    """Return the laws of measures of an increment whose entries keep their magnitude and place and redraw their sign.

    Chance for the number of directions: entries that know nothing of one another, stored as these were.

    Args:
        increment: D.
        measures: Of an increment, by name.
        draws: How many.
        seed: Decides them, together with ``name``.
        name: Of the tensor and increment.
    """
    drawn = [measures(increment * s) for s in entry_signs(increment, draws=draws, seed=seed, name=f"{name}/entries")]
    found = {}
    for measure in drawn[0]:
        null = sampled_null([one[measure] for one in drawn], step=1.0 if measure == "energy_rank_99" else 0.0)
        spread = max(null.sd, _RELATIVE * abs(null.mean))
        found[measure] = replace(null, sd=spread, source="signs", draws=min(_FREEDOM, draws))
    return found
