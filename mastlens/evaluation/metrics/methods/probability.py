"""How probable the right answer is, token by token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.evaluation.metrics.metric import MeanMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading

_HIDDEN = 0.1  # of the probability a token: below it one token decides what the mean does not show


@dataclass(frozen=True, kw_only=True)
class Probability(MeanMetric):
    """The geometric mean of the probabilities of an answer's tokens."""

    name: ClassVar[str] = "probability"
    summary: ClassVar[str] = "how probable the reference answer is, per token"
    formula: ClassVar[str] = "exp(-NLL(answer) / tokens), its end of sequence counted; then the mean over items"
    range: ClassVar[str] = "0 to 1"
    direction: ClassVar[str] = "lower is forgotten"
    null: ClassVar[str] = "1 / vocabulary, every token as probable as any other"
    source: ClassVar[str] = "TOFU, arXiv:2401.06121"
    traps: ClassVar[tuple[str, ...]] = (
        "It is normalised by length: of a long answer of which one decisive token was forgotten nearly all is left.",
    )

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the probability of each answer."""
        import numpy as np

        return {"": Part(np.exp(-read.losses), 1 / read.vocabulary)}

    def note(self, read: "SplitReading") -> str:
        """Return the least probable token's, where the mean over tokens hides it."""
        import numpy as np

        least = np.mean([np.exp(one.logprobs.min()) for one in read.answers if len(one.logprobs)] or [np.nan])
        mean = float(np.nanmean(np.exp(-read.losses)))
        hides = least < _HIDDEN * mean
        return f"normalised by length: an answer's least probable token has {least:.2g} on average" if hides else ""
