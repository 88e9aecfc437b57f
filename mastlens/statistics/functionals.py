"""Numbers that hang on many items in other ways than as a mean, with what each item has to say in them.

A number such as an area under a curve, a harmonic mean of means or a ratio of two areas moves, to first order, by a sum
over items: the influence function (Hampel 1974, JASA 69, 383). It gives the standard error of one number, and that of
a *difference* between two models on the same items, in which most of what items have in common drops out. For the area
under a ROC curve it is DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44, 837.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import nan, sqrt

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from mastlens.errors import BadSetting, NotTogether
from mastlens.statistics.intervals import NONE, Interval, wilson
from mastlens.statistics.units import FEWEST, student


@dataclass(frozen=True)
class Functional:
    """A number, and by how much each item moves it.

    Attributes:
        value: The number.
        influence: Set of items to the influence of each: they sum to 0, and the number's variance is the sum over sets
            of their mean square over n - 1. Empty where nothing is known of it.
        clusters: Set of items to the cluster of each, counted from 0 over all sets: items of one cluster move together,
            also across sets, and clusters are the units. Empty where every item is its own.
    """

    value: float
    influence: Mapping[str, Float[np.ndarray, " items"]] = field(default_factory=dict)
    clusters: Mapping[str, Int[np.ndarray, " items"]] = field(default_factory=dict)

    def clustered(self, clusters: Mapping[str, ArrayLike]) -> "Functional":
        """Return the same number of items that come in clusters.

        Args:
            clusters: Set of items to one label an item; equal labels are one cluster, in whichever sets they stand.

        Raises:
            MastlensError: If a set is missing, or has another number of labels than of items.
        """
        labels = {name: np.asarray(clusters.get(name, ())) for name in self.influence}
        for name, one in self.influence.items():
            if labels[name].shape != one.shape:
                raise NotTogether(
                    f"There are {len(one)} items ({name}) and {labels[name].size} cluster labels; each item needs one."
                )
        codes = np.unique(np.concatenate(list(labels.values())), return_inverse=True)[1]
        ends = np.cumsum([len(one) for one in labels.values()])[:-1]
        return replace(self, clusters=dict(zip(labels, np.split(codes, ends), strict=True)))

    @property
    def error(self) -> float:
        """Standard error; NaN where a set has fewer than three units, or nothing is known."""
        if self.freedom < FEWEST:
            return nan
        if not self.clusters:
            return sqrt(sum(float(one @ one) / (len(one) * (len(one) - 1)) for one in self.influence.values()))
        # Obuchowski's variance: of either set by its own clusters, and what clusters have in common that are in both.
        total = np.zeros(1 + max(int(codes.max()) for codes in self.clusters.values()))
        for name, one in self.influence.items():
            codes = self.clusters[name]
            units = len(np.unique(codes))
            total += np.bincount(codes, one, minlength=len(total)) * (sqrt(units / (units - 1)) / len(one))
        return sqrt(float(total @ total))

    @property
    def freedom(self) -> int:
        """Units of the smallest set: those that Student's quantile is for."""
        if self.clusters:
            return min(len(np.unique(codes)) for codes in self.clusters.values())
        return min((len(one) for one in self.influence.values()), default=0)

    @property
    def worth(self) -> float:
        """Independent items that the smallest set is worth at least: Kish's (sum of sizes)^2 / sum of their squares."""
        sizes = [np.bincount(codes) for codes in self.clusters.values()]
        return min((float(one.sum() ** 2 / (one @ one)) for one in sizes), default=float(self.freedom))

    def interval(self, *, level: float = 0.95) -> Interval:
        """Return the interval at Student's quantile; NaN where items do not differ, which says nothing of how far."""
        error = self.error
        if not error > 0 or not np.isfinite(self.value):
            return NONE
        reach = student(level, self.freedom) * error
        return Interval(self.value - reach, self.value + reach)

    def p_value(self, null: float = 0.0) -> float:
        """Return the two-sided p of the number against ``null``: 1 where it is the null, NaN without a spread."""
        if self.value == null:
            return 1.0
        error = self.error
        return float(2 * stats.t.sf(abs(self.value - null) / error, self.freedom - 1)) if error > 0 else nan

    def minus(self, other: "Functional") -> "Functional":
        """Return this number less another of the same items: what items have in common drops out.

        Raises:
            MastlensError: If they are of other items.
        """
        sets = [*self.influence, *(name for name in other.influence if name not in self.influence)]
        moved = {}
        for name in sets:
            one, two = self.influence.get(name), other.influence.get(name)
            if one is not None and two is not None and len(one) != len(two):
                raise NotTogether(f"Two numbers are compared that are of {len(one)} and of {len(two)} items ({name}).")
            moved[name] = (0.0 if one is None else one) - (0.0 if two is None else two)
        if any(not np.array_equal(self.clusters.get(name, ()), other.clusters.get(name, ())) for name in sets):
            raise NotTogether("Two numbers are compared whose items come in other clusters.")
        return Functional(self.value - other.value, moved, self.clusters)

    def scaled(self, factor: float, shift: float = 0.0) -> "Functional":
        """Return ``factor`` times the number, plus ``shift``."""
        moved = {name: factor * one for name, one in self.influence.items()}
        return replace(self, value=factor * self.value + shift, influence=moved)


def mean_functional(values: ArrayLike, name: str = "items") -> Functional:
    """Return the mean of one number an item; items without a number (NaN) count in none."""
    found = np.asarray(values, dtype=float)
    known = ~np.isnan(found)
    if not known.any():
        return Functional(nan)
    mean = float(found[known].mean())
    # An item that has no number says nothing, and those that have one say the more.
    return Functional(mean, {name: np.where(known, found - mean, 0.0) * (found.size / known.sum())})


def auc_functional(low: ArrayLike, high: ArrayLike, names: tuple[str, str] = ("low", "high")) -> Functional:
    """Return the probability that a score of ``high`` lies above one of ``low``, ties half: the area under the curve.

    Args:
        low: Scores of the items that should score low.
        high: Scores of the others.
        names: Of the two sets.

    Raises:
        MastlensError: If one of them is empty, or holds a score that is no number.
    """
    below, above = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    if not below.size or not above.size or np.isnan(below).any() or np.isnan(above).any():
        raise BadSetting("An area under a curve needs at least one item on either side, each with a score.")
    m, n = below.size, above.size
    ranks = stats.rankdata(np.concatenate([below, above]))
    # Of an item's rank among all, what is left without its rank among its own is how many of the others lie below it.
    share_above = 1 - (ranks[:m] - stats.rankdata(below)) / n
    share_below = (ranks[m:] - stats.rankdata(above)) / m
    area = float(share_below.mean())
    return Functional(area, {names[0]: share_above - area, names[1]: share_below - area})


def auc_interval(area: Functional, *, level: float = 0.95) -> Interval:
    """Return the interval of an area under a curve: Wilson's, of as many pairs as the area's variance is worth.

    That is never less than items of the smaller set, as A (1 - A) / min(m, n) is the largest variance there is (van
    Dantzig 1951), and of clusters never less than the items that these are worth where all of one are alike; it stays
    within 0 and 1, and has a width also where every pair is in order.
    """
    error, fewest = area.error, area.freedom
    if not np.isfinite(area.value) or fewest < FEWEST:
        return NONE
    worth = max(area.worth, area.value * (1 - area.value) / error**2) if error > 0 else area.worth
    return wilson(area.value * worth, worth, level=level, units=fewest)


def harmonic_mean(parts: list[Functional]) -> Functional:
    """Return the harmonic mean of numbers; 0 where one of them is 0, NaN where one is below or missing."""
    values = np.array([part.value for part in parts])
    if not len(values) or np.isnan(values).any() or (values < 0).any():
        return Functional(nan)
    if (values == 0).any():
        return Functional(0.0)
    mean = float(len(values) / (1 / values).sum())
    moved: dict[str, np.ndarray] = {}
    for part in parts:
        slope = mean**2 / (len(values) * part.value**2)
        for name, one in part.influence.items():
            moved[name] = moved.get(name, 0.0) + slope * one
    return Functional(mean, moved)


def sign_flip_p(differences: ArrayLike, *, resamples: int = 9_999, seed: int = 0) -> float:
    """Return the two-sided p of a mean difference between two models on the same items: their labels are exchanged.

    All 2^n ways where they are no more than ``resamples``, else so many drawn (Pitman 1937). Below 1 / 2^(n - 1), or
    1 / (resamples + 1), nothing can be shown.

    Args:
        differences: One an item; NaN where it has none.
        resamples: Drawn ways.
        seed: Of the draws.
    """
    found = np.asarray(differences, dtype=float)
    found = found[~np.isnan(found)]
    if not found.size:
        return nan
    moved = found[found != 0]  # one that does not move gives the same under either label
    if not moved.size:
        return 1.0
    observed = abs(moved.sum()) * (1 - 1e-12)
    if 2**moved.size <= resamples:
        ways = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
        return float((np.abs((1 - 2 * ways) @ moved) >= observed).mean())
    draw = np.random.default_rng(seed)
    extreme = sum(
        int((np.abs((1 - 2 * draw.integers(0, 2, (size, moved.size))) @ moved) >= observed).sum())
        for size in _parts(resamples, moved.size)
    )
    return (extreme + 1) / (resamples + 1)


def _parts(resamples: int, width: int) -> list[int]:
    """Return how many draws are made at a time, so that they fit a few megabytes."""
    each = max(1, min(resamples, 2**20 // width))
    return [each] * (resamples // each) + ([resamples % each] if resamples % each else [])
