"""What an optimiser makes of gradients that are noise alone: the nulls of a run's path in time.

A sum of independent steps already explains most of itself by one direction, and lies nearly on a line. AdamW adds to
that: momentum joins neighbouring steps, and dividing by the root of the second moment makes the first steps larger.
Two such laws stand beside a path, and a measure of it is beyond chance where it is beyond both: *walk*, independent
increments, and *adamw*, the optimiser itself with constant learning rate and independent gradients.

Each is a covariance C of the path between the saved steps. How far measures scatter about what C gives depends on how
many independent entries a tensor has, and noise has fewer than a tensor has entries: a gradient has few directions. So
nothing is assumed of it. With C = LL' the innovations L^-1 M of the observed updates M (steps x entries) are
uncorrelated in time; chance is that their signs are, too. Redrawing the signs S, one a step, gives L S L^-1 M. Its
measures follow from the Gram matrix of the observed updates, and it keeps everything about entries: low rank, unequal
sizes, rounding. T steps have 2^(T - 1) different patterns of signs, so that fewer than 13 never reach p < 0.001.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mastlens.analysis.increments.nulls import LEVEL
from mastlens.analysis.trajectories.relex import PathNull, path_null

BETAS = (0.9, 0.999)
DRAWS = (511, 4095)
"""Sign patterns: so many at first, and the second number where p is not far from ``LEVEL``."""
MEASURES = ("explained_variance", "linearity", "last_error", "increment_cosine")

_LONGEST = 20_000  # optimiser steps that are gone through; beyond, AdamW's memory is short beside the run
_ENTRIES = 1 << 14
_WORK = 1 << 24  # entries times steps
_ITERATIONS = 30  # of the power method; a path's second direction in time has a tenth of the first one's energy
_CLEAR = 0.02  # p beyond which the first draws are enough


@dataclass(frozen=True)
class PathLaw:
    """A law of paths.

    Attributes:
        source: ``walk`` or ``adamw``.
        covariance: C, of the path between saved steps, in any unit.
        expected: What it gives where entries are many.
    """

    source: str
    covariance: Float[ndarray, "steps steps"]
    expected: PathNull


@dataclass(frozen=True)
class Judgement:
    """What the laws say of one measure.

    Attributes:
        p: Two-sided, the largest over the laws; NaN where nothing can be told.
        judged_by: Whose it is; empty where nothing can be told.
    """

    p: float
    judged_by: str

    @property
    def distinguishable(self) -> bool:
        """Whether the measure lies beyond every law."""
        return self.p < LEVEL


def path_laws(steps: Sequence[int | float], start: int | float = 0, fitted: int | None = None) -> tuple[PathLaw, ...]:
    """Return the laws of paths at these steps: ``walk``, then ``adamw``.

    Args:
        steps: Step numbers, ascending.
        start: Step number of theta_0.
        fitted: How many steps are fitted on; by default all.
    """
    since = np.asarray(steps, dtype=float) - start
    walk = np.minimum.outer(since, since)
    short = float(since[-1]) <= _LONGEST and all(float(s).is_integer() for s in since)
    adamw = adamw_covariance(tuple(int(s) for s in since)) if short else walk
    covariances = {"walk": walk, "adamw": adamw}
    return tuple(PathLaw(name, c, path_null(c, steps, fitted)) for name, c in covariances.items())


@lru_cache(maxsize=8)
def adamw_covariance(since: tuple[int, ...], *, seed: int = 0) -> Float[ndarray, "steps steps"]:
    """Return the covariance of AdamW's path, an entry, between these optimiser steps, where gradients are noise.

    Learning rate 1 and constant, betas (0.9, 0.999), no weight decay; a gradient's scale does not matter. Simulated,
    with as many independent entries as the length allows: 1 % off for short runs, some percent for the longest.
    """
    generator = np.random.default_rng(seed)
    entries = int(np.clip(_WORK // since[-1], 256, _ENTRIES))
    first, second, place = np.zeros(entries), np.zeros(entries), np.zeros(entries)
    saved, wanted = [], set(since)
    for step in range(1, since[-1] + 1):
        gradient = generator.standard_normal(entries)
        first += (1 - BETAS[0]) * (gradient - first)
        second += (1 - BETAS[1]) * (gradient**2 - second)
        place = place - first / (1 - BETAS[0] ** step) / np.sqrt(second / (1 - BETAS[1] ** step))
        if step in wanted:
            saved.append(place)
    path = np.array(saved)
    return path @ path.T / entries


def judge_path(
    gram: Float[ndarray, "steps steps"],
    steps: Sequence[int | float],
    fitted: int,
    laws: Sequence[PathLaw],
    observed: dict[str, float],
    *,
    seed: int = 0,
) -> dict[str, Judgement]:
    """Return for each of ``MEASURES`` whether chance explains it.

    Args:
        gram: Inner products of all updates, float64.
        steps: Step number of each.
        fitted: How many of them fits look at.
        laws: From ``path_laws``.
        observed: The measures of this Gram matrix.
        seed: Of the signs.
    """
    if not float(gram[-1, -1]) > 0:
        return {name: Judgement(float("nan"), "") for name in MEASURES}
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for law in laws:
        p: dict[str, float] = {}
        for draws in DRAWS:
            generator = np.random.default_rng((seed, draws))
            drawn = path_measures(_redrawn(gram, law.covariance, draws, generator), steps, fitted)
            p = {name: _two_sided(observed[name], drawn[name]) for name in MEASURES}
            if all(value > _CLEAR or np.isnan(value) for value in p.values()):
                break
        for name in MEASURES:
            found[name].append(p[name])
    judged = {}
    for name, values in found.items():
        worst = int(np.argmax(np.nan_to_num(values, nan=-1.0)))
        known = not np.isnan(values[worst])
        judged[name] = Judgement(values[worst], laws[worst].source if known else "")
    return judged


def path_measures(
    grams: Float[ndarray, "draws steps steps"], steps: Sequence[int | float], fitted: int
) -> dict[str, Float[ndarray, " draws"]]:
    """Return ``MEASURES`` of many Gram matrices at once, as ``fit_rank1`` and its like give them one by one."""
    inner = grams[:, :fitted, :fitted]
    vectors = np.repeat(np.arange(1.0, fitted + 1)[None], len(grams), axis=0)  # a path grows
    for _ in range(_ITERATIONS):
        vectors = np.einsum("dij,dj->di", inner, vectors)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    seen = np.einsum("dij,dj->di", grams[:, :, :fitted], vectors)
    squared = np.einsum("di,di->d", seen[:, :fitted], vectors)  # s_1^2
    coefficients = seen / np.sqrt(squared)[:, None]
    x = np.asarray(steps, dtype=float)
    run, levels = x[:fitted] - x[:fitted].mean(), coefficients[:, :fitted].mean(axis=1)
    rises = coefficients[:, :fitted] - levels[:, None]
    slopes = rises @ run / (run @ run)
    rests = rises - slopes[:, None] * run
    last, size = grams[:, -1, -1], levels + slopes * (x[-1] - x[:fitted].mean())
    # |delta_T - c v|^2 = |delta_T|^2 - 2 c <delta_T, v> + c^2
    error = np.sqrt(np.maximum(last - 2 * size * coefficients[:, -1] + size**2, 0.0) / last)
    difference = np.eye(len(x)) - np.eye(len(x), k=-1)
    between = difference @ grams @ difference.T
    norms = np.sqrt(np.maximum(np.diagonal(between, axis1=1, axis2=2), 0.0))
    beside = np.diagonal(between, offset=1, axis1=1, axis2=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = beside / (norms[:, 1:] * norms[:, :-1])
        linearity = 1 - (rests**2).sum(axis=1) / (rises**2).sum(axis=1)
    return {
        "explained_variance": squared / np.trace(inner, axis1=1, axis2=2),
        "linearity": linearity,
        "last_error": error,
        "increment_cosine": np.nanmean(np.where(np.isfinite(cosines), cosines, np.nan), axis=1),
    }


def _redrawn(
    gram: ndarray, covariance: ndarray, draws: int, generator: np.random.Generator
) -> Float[ndarray, "draws steps steps"]:
    """Return the Gram matrices of the path whose innovations have their signs redrawn."""
    root = np.linalg.cholesky(covariance)
    signs = generator.integers(0, 2, size=(draws, len(gram))) * 2.0 - 1.0
    turned = (root * signs[:, None, :]) @ np.linalg.inv(root)
    return turned @ gram @ turned.mT


def _two_sided(value: float, drawn: ndarray) -> float:
    """Return twice the smaller share of draws as far out, the value itself counted among them."""
    if np.isnan(value):
        return float("nan")
    # What the same pattern of signs gives again is as far out: rounding must not decide.
    slack = 1e-9 * max(abs(value), 1e-9)
    tails = (drawn >= value - slack).sum(), (drawn <= value + slack).sum()
    return min(1.0, 2 * (1 + int(min(tails))) / (1 + len(drawn)))
