"""Several seeds of the same unlearning run: an interval over seeds, and what the spread is made of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mastlens.errors import BadSetting
from mastlens.statistics.intervals import Interval


@dataclass(frozen=True)
class SeedSpread:
    """Where the spread of a mean over seeds and items comes from. Variances are of single outcomes.

    Attributes:
        mean: Over all seeds and items.
        interval: t-interval over the seeds' means: what another seed on *these* items would give.
        seeds: Number of seeds.
        items: Number of items.
        between_seeds: Variance component of seeds; 0 where their means differ by less than chance makes them.
        between_items: Variance component of items: some are harder, whatever the seed.
        residual: Variance that neither explains.
        standard_error: Of the mean, were seeds *and* items drawn anew.
    """

    mean: float
    interval: Interval
    seeds: int
    items: int
    between_seeds: float
    between_items: float
    residual: float
    standard_error: float


def seed_interval(means: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return Student's t-interval of the mean of one value a seed; it needs at least two seeds."""
    values = np.asarray(means, dtype=float)
    if values.ndim != 1 or values.size < 2:
        raise BadSetting("An interval over seeds needs at least two seeds: one says nothing of their spread.")
    reach = stats.t.ppf((1 + level) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return Interval(float(values.mean() - reach), float(values.mean() + reach))


def seed_spread(outcomes: ArrayLike, *, level: float = 0.95) -> SeedSpread:
    """Split the spread of outcomes into seeds, items and the rest (two-way random effects, by mean squares).

    Args:
        outcomes: Array (seeds, items): every seed's outcome on the same items, e.g. whether each was lost.
        level: Confidence level of the interval over seeds.

    Raises:
        MastlensError: If there are fewer than two seeds or two items.
    """
    y = np.asarray(outcomes, dtype=float)
    if y.ndim != 2 or min(y.shape) < 2:
        raise BadSetting(
            f"Outcomes are an array (seeds, items) with at least two of each; this one is {y.shape}. A single run "
            "says nothing of the spread between runs."
        )
    seeds, items = y.shape
    of_seed, of_item, mean = y.mean(axis=1), y.mean(axis=0), float(y.mean())
    rest = y - of_seed[:, None] - of_item[None, :] + mean
    square_seeds = items * of_seed.var(ddof=1)
    square_items = seeds * of_item.var(ddof=1)
    square_rest = float((rest**2).sum() / ((seeds - 1) * (items - 1)))
    between_seeds = max(0.0, float(square_seeds - square_rest) / items)
    between_items = max(0.0, float(square_items - square_rest) / seeds)
    variance = between_seeds / seeds + between_items / items + square_rest / (seeds * items)
    return SeedSpread(
        mean=mean,
        interval=seed_interval(of_seed, level=level),
        seeds=seeds,
        items=items,
        between_seeds=between_seeds,
        between_items=between_items,
        residual=square_rest,
        standard_error=float(np.sqrt(variance)),
    )
