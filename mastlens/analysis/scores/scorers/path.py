"""Scorer ``path``: integrated gradients along the line SFT -> RLVR of the solutions' log-probability a token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from mastlens.analysis.scores.line import Functional, shares_of_change
from mastlens.analysis.scores.scorer import Scorer, Scoring
from mastlens.models.gradients import mean_gradients
from mastlens.models.likelihood import sequence_logprobs


@dataclass(frozen=True)
class _Likelihood(Functional):
    """The log-probability of the solutions, summed; its size is their tokens."""

    scoring: Scoring

    def size(self, side: str, items: Sequence[int]) -> float:
        return float(sum(len(self.scoring.sides[side].encoded[item].solution) for item in items))

    def slope(self, side: str, items: Sequence[int], names: Sequence[str]) -> Mapping[str, Tensor]:
        part = [self.scoring.sides[side].encoded[item] for item in items]
        loss = mean_gradients(self.scoring.model, part, names, batch_size=self.scoring.settings.batch_size)
        return {name: gradient.mul_(-self.size(side, items)) for name, gradient in loss.items()}

    def value(self, side: str) -> tuple[float, float]:
        encoded = self.scoring.sides[side].encoded
        sums, counts = sequence_logprobs(self.scoring.model, encoded, batch_size=self.scoring.settings.batch_size)
        return float(sums.sum() / counts.sum()), 0.0


def path_shares(scoring: Scoring) -> pd.DataFrame:
    """Return every matrix's share of what RLVR did to the forget solutions, beyond what it did to the retain ones.

    In nats a token; parameter: ``points`` on the line. The columns are those of ``line.shares_of_change``.
    """
    return shares_of_change(scoring, _Likelihood(scoring), int(scoring.parameters["points"]), unit="path")


PATH = Scorer(
    "path",
    "its share of what RLVR did to log p of the forget solutions, less that of the retain ones, nats a token",
    "integrated gradients (arXiv:1703.01365) along SFT -> RLVR in the weights",
    path_shares,
    parameters={"points": 8.0},
)
