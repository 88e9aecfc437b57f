"""Integrated gradients in the weights: what each matrix has of a change along the straight line SFT -> RLVR.

With W(a) = SFT + a D, D the increment, and f anything that the model's weights decide (Sundararajan et al.,
arXiv:1703.01365),

    f(RLVR) - f(SFT) = sum over tensors of the integral over a in [0, 1] of <df/dW(a), D>,

so that every tensor has its share of the whole change, and what the shares lack of it is known. The integral is taken
by Gauss and Legendre's rule.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from mastlens.analysis.scores.scorer import Scoring, increments, inner
from mastlens.errors import BadSetting
from mastlens.models.weights import write_weights

BLOCKS = 10
"""Parts of a problem set whose shares are told apart, for the standard error."""


class Functional(ABC):
    """What is asked of the model on the line: f is a sum over the problems of a side, divided by ``size``.

    Attributes:
        estimated: Whether f is only known with an error.
    """

    estimated: ClassVar[bool] = False

    @abstractmethod
    def size(self, side: str, items: Sequence[int]) -> float:
        """Return what the sum over these problems is divided by."""

    def move(self, place: int) -> None:
        """Be told that the model now stands at another place on the line: 0, 1, ..., in order."""
        return

    @abstractmethod
    def slope(self, side: str, items: Sequence[int], names: Sequence[str]) -> Mapping[str, Tensor]:
        """Return name to the gradient of the sum over these problems; where all are zero, they may be left out."""

    @abstractmethod
    def value(self, side: str) -> tuple[float, float]:
        """Return f, and its standard error (0 where it is known), with the model where it stands."""


@dataclass(frozen=True)
class _Side:
    blocks: list[list[int]]
    sizes: np.ndarray
    shares: np.ndarray

    def taken(self) -> np.ndarray:
        return self.shares.sum(axis=0) / self.sizes.sum()


def shares_of_change(scoring: Scoring, functional: Functional, points: int, *, unit: str) -> pd.DataFrame:
    """Return every matrix's share of the change of f on the forget side, beyond that on the retain side.

    Columns: ``score`` = ``forget_UNIT`` - retain weight * ``retain_UNIT``; ``standard_error`` of the score over
    problems (blocks of them, a ratio of sums), and its 95 % interval ``score_low`` and ``score_high`` by Student's t
    with the degrees of freedom of the fewer blocks; ``change``, the whole change of the same, and
    ``completeness_error``, what the shares of all tensors, norms and biases included, lack of it or have too much, as
    a share of it; where f is estimated, ``change_error``, the standard error of the change.

    Args:
        scoring: What is scored.
        functional: What f is.
        points: Places on the line at which gradients are taken.
        unit: Of the two columns of sides.
    """
    found = increments(scoring)
    before = {name: start for name, (start, _) in found.items()}
    delta = {name: change for name, (_, change) in found.items()}
    moved = [name for name, change in delta.items() if bool(change.any())]
    if points < 1:
        raise BadSetting(f"Gradients are taken at 1 point (--parameter points=1) or more, not {points}.")
    nodes, weights = np.polynomial.legendre.leggauss(points)
    sides = {}
    for side, problems in scoring.sides.items():
        blocks = _blocks(len(problems.encoded))
        sizes = np.array([functional.size(side, items) for items in blocks])
        sides[side] = _Side(blocks, sizes, np.zeros((len(blocks), len(scoring.chosen))))
    whole = dict.fromkeys(sides, 0.0)

    def stand(at: float) -> None:
        write_weights(scoring.model, {name: before[name] + at * delta[name] for name in moved})

    passes = list(product(range(points), sides))
    standing = -1
    for turn in scoring.steps(len(passes)):
        place, side = passes[turn]
        if place != standing:
            standing = place
            stand(float(nodes[place] + 1) / 2)
            functional.move(place)
        weight = float(weights[place]) / 2
        for row, items in enumerate(sides[side].blocks):
            slope = functional.slope(side, items, moved)
            whole[side] += weight * sum(inner(slope[name], delta[name]) for name in moved if name in slope)
            for column, matrix in enumerate(scoring.chosen):
                if matrix.stored in slope:
                    pair = matrix.read(slope[matrix.stored]), matrix.read(delta[matrix.stored])
                    sides[side].shares[row, column] += weight * inner(*pair)
    values = []
    for place, at in enumerate((0.0, 1.0), start=points):
        stand(at)
        functional.move(place)
        values.append({side: functional.value(side) for side in sides})
    signs = {"forget": 1.0, "retain": -scoring.settings.retain_weight}
    change = sum(signs[side] * (values[1][side][0] - values[0][side][0]) for side in sides)
    unsure = np.sqrt(sum((signs[side] * end[side][1]) ** 2 for side in sides for end in values))
    errors = [signs[side] * standard_error(one.shares, one.sizes) for side, one in sides.items()]
    covered = sum(signs[side] * whole[side] / one.sizes.sum() for side, one in sides.items())
    taken = {side: one.taken() for side, one in sides.items()}
    score, error = sum(signs[side] * taken[side] for side in sides), np.sqrt(sum(each**2 for each in errors))
    wide = error * quantile(min(len(one.blocks) for one in sides.values()))
    return pd.DataFrame(
        {
            "score": score,
            "standard_error": error,
            "score_low": score - wide,
            "score_high": score + wide,
            **{f"{side}_{unit}": taken[side] for side in sides},
            "change": change,
            **({"change_error": unsure} if functional.estimated else {}),
            "completeness_error": (covered - change) / abs(change) if change else np.nan,
        }
    )


def _blocks(count: int) -> list[list[int]]:
    """Return the places of so many problems in at most ``BLOCKS`` parts, dealt in turn."""
    parts = min(BLOCKS, count)
    return [list(range(start, count, parts)) for start in range(parts)]


def standard_error(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the standard error of a ratio of sums over blocks (rows), column by column; NaN of one block."""
    count = len(sizes)
    if count < 2:
        return np.full(sums.shape[1], np.nan)
    left = sums - np.outer(sizes, sums.sum(axis=0) / sizes.sum())
    return np.sqrt(count / (count - 1) * (left**2).sum(axis=0)) / sizes.sum()


def quantile(count: int) -> float:
    """Return how many standard errors a 95 % interval reaches where these come from so many blocks; NaN of one."""
    return float(stats.t.ppf(0.975, count - 1)) if count > 1 else float("nan")
