"""Sums over tokens of what one pass over the texts measures: their size does not depend on how many texts there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mastlens.models.backends.recording import Point

ALL = -1
"""The position of a row that is about all tokens."""
BEFORE = -1
"""The model that the others are held against."""
SAMPLE = 256
"""Tokens of a split, spread evenly, that CKA looks at: it compares tokens in pairs."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch that are looked at, in reading order.

    Attributes:
        position: Each one's place in its solution, from 0.
        place: Each one's place among all tokens of the split, from 0.
        item: The text that each belongs to.
        target: Its id.
    """

    position: np.ndarray
    place: np.ndarray
    item: np.ndarray
    target: np.ndarray


@dataclass
class Tally:
    """Sums of measures over the tokens of a split, model by model.

    Attributes:
        models: The RLVR model, and the random changes.
        positions: First tokens of the solutions that are told apart.
        total: Tokens of the split.
        sums: (measure, point) to the sums, [models, 1 + positions]; the first is over all tokens.
        counts: Tokens behind each, [1 + positions].
        sampled: (model, point) to the vectors of the tokens that CKA looks at, [sample, width], float32; also
            of the model ``BEFORE``.
    """

    models: int
    positions: int
    total: int
    sums: dict[tuple[str, Point], np.ndarray] = field(default_factory=dict)
    counts: np.ndarray = field(init=False)
    sampled: dict[tuple[int, Point], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = np.zeros(1 + self.positions, dtype=np.int64)
        chosen = np.unique(np.linspace(0, self.total - 1, min(SAMPLE, self.total)).round().astype(int))
        self._slots = np.full(self.total, -1)
        self._slots[chosen] = np.arange(len(chosen))
        self._size = len(chosen)

    def count(self, tokens: Tokens) -> None:
        """Count the tokens of a batch."""
        self.counts += self._by_position(np.ones(len(tokens.position), dtype=np.int64), tokens)

    def add(self, model: int, values: Mapping[tuple[str, Point], Tensor], tokens: Tokens) -> None:
        """Add what a model gave at the tokens of a batch, a number each."""
        for key, of_tokens in values.items():
            row = self._by_position(of_tokens.double().cpu().numpy(), tokens)
            self.sums.setdefault(key, np.zeros((self.models, 1 + self.positions)))[model] += row

    def sample(self, model: int, vectors: Mapping[Point, Tensor], tokens: Tokens) -> None:
        """Keep the vectors of those tokens that CKA looks at."""
        slots = self._slots[tokens.place]
        here = torch.from_numpy(np.flatnonzero(slots >= 0))
        for point, value in vectors.items():
            if (model, point) not in self.sampled:
                self.sampled[model, point] = torch.zeros(self._size, value.shape[1])
            self.sampled[model, point][slots[slots >= 0]] = value[here.to(value.device)].float().cpu()

    def means(self, measure: str, point: Point) -> np.ndarray:
        """Return the means over tokens, [models, 1 + positions]; NaN where there is no token."""
        with np.errstate(invalid="ignore"):
            return self.sums[measure, point] / np.where(self.counts, self.counts, np.nan)

    def _by_position(self, values: np.ndarray, tokens: Tokens) -> np.ndarray:
        first = np.bincount(np.minimum(tokens.position, self.positions), weights=values, minlength=1 + self.positions)[
            : self.positions
        ]
        return np.concatenate([[values.sum()], first]).astype(values.dtype)
