"""Membership inference by the tokens that are least probable for where they stand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mastlens.evaluation.metrics.methods.min_k import MinK, lowest_mean
from mastlens.evaluation.metrics.metric import Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading

_LEAST = 1e-6  # variance: where the model is sure of a token, nothing is divided by 0


@dataclass(frozen=True, kw_only=True)
class MinKPlusPlus(MinK):
    """Min-K%++: each log-probability is standardised by mean and spread over the vocabulary."""

    name: ClassVar[str] = "min-k++"
    summary: ClassVar[str] = "membership inference by the least probable tokens, standardised (Min-K%++)"
    formula: ClassVar[str] = (
        "score: minus the mean of (log p - mean) / deviation over the k N tokens where it is least, mean and deviation "
        "of log p over the vocabulary in that place (variance at least 1e-6); AUC of holdout over forget"
    )
    source: ClassVar[str] = "Zhang et al. 2024, arXiv:2404.02936; k as of `min-k`"

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the score of each answer."""
        scores = []
        for item, one in enumerate(read.answers):
            place = read.within(item)
            spread = np.sqrt(np.maximum(one.variances[place], _LEAST))
            scores.append(lowest_mean((one.logprobs[place] - one.means[place]) / spread, self.k))
        return {"": Part(np.array(scores))}
