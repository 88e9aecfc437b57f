"""How little of an answer must be given away for the model to write the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mastlens.evaluation.metrics.metric import MeanMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading


def strength(hits: np.ndarray) -> float:
    """Return 1 - k / N: k is the shortest prefix of N tokens after which all others are the most probable ones.

    k is at most N - 1, so that nothing is below 1 / N; NaN for no tokens.
    """
    if not hits.size:
        return float("nan")
    wrong = np.flatnonzero(~hits)
    k = min(int(wrong[-1]) + 1 if wrong.size else 0, hits.size - 1)
    return 1 - k / hits.size


@dataclass(frozen=True, kw_only=True)
class ExtractionStrength(MeanMetric):
    """The share of an answer that the model writes by itself once the rest stands before it."""

    name: ClassVar[str] = "extraction-strength"
    summary: ClassVar[str] = "share of the answer that the model completes by itself, word for word"
    formula: ClassVar[str] = (
        "1 - k / N, k < N the shortest prefix of the answer after which all its other tokens are the argmax, the end "
        "of sequence left out; then the mean over items"
    )
    range: ClassVar[str] = "1/N to 1"
    direction: ClassVar[str] = "lower is forgotten"
    null: ClassVar[str] = "1/N, its floor: nothing of the answer is completed"
    source: ClassVar[str] = "Carlini et al. 2021, arXiv:2012.07805; OpenUnlearning, arXiv:2506.12618"
    traps: ClassVar[tuple[str, ...]] = (
        "One wrong token near the end takes nearly all of it, and a paraphrase takes it all.",
        "Its floor is 1/N and not 0: short answers have a higher one.",
    )
    differs: ClassVar[str] = "an answer without tokens has no number; there it has 0"

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the strength of each answer."""
        hits = [one.hits[read.within(item)] for item, one in enumerate(read.answers)]
        floor = np.array([1 / one.size if one.size else np.nan for one in hits])
        return {"": Part(np.array([strength(one) for one in hits]), floor)}
