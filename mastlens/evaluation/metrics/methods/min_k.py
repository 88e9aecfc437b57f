"""Membership inference by the least probable tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mastlens.errors import BadSetting
from mastlens.evaluation.metrics.metric import MembershipMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading


def lowest_mean(values: np.ndarray, k: float) -> float:
    """Return minus the mean of the lowest share ``k`` of some numbers, at least one of them; 0 for none."""
    if not values.size:
        return 0.0
    return float(-np.sort(values)[: max(1, int(values.size * k))].mean(dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class MinK(MembershipMetric):
    """Min-K%: a text that was seen has no very improbable tokens.

    Attributes:
        k: Share of the tokens that count.
    """

    k: float = 0.2

    name: ClassVar[str] = "min-k"
    summary: ClassVar[str] = "membership inference by the least probable tokens (Min-K% Prob)"
    formula: ClassVar[str] = (
        "score: minus the mean log-probability of the k N least probable of N tokens, the end of sequence left out, at "
        "least one; AUC of holdout over forget"
    )
    source: ClassVar[str] = "Shi et al. 2024, arXiv:2310.16789; k is 0.2 there, 0.4 in MUSE and TOFU (`min-k:k=0.4`)"

    def __post_init__(self) -> None:
        if not 0 < self.k <= 1:
            raise BadSetting(f"The metric {self.name!r} takes a share k above 0 and up to 1, not {self.k:g}.")

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the score of each answer."""
        within = (one.logprobs[read.within(item)] for item, one in enumerate(read.answers))
        return {"": Part(np.array([lowest_mean(one, self.k) for one in within]))}
