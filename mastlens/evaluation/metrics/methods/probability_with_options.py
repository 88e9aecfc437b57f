"""How probable the right answer is among answers of the same form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.evaluation.metrics.metric import OPTIONS, TINY, MeanMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading


@dataclass(frozen=True, kw_only=True)
class ProbabilityWithOptions(MeanMetric):
    """The right answer's share of the probabilities of all answers."""

    name: ClassVar[str] = "probability-with-options"
    summary: ClassVar[str] = "the right answer's share of the probability of it and the wrong ones"
    formula: ClassVar[str] = (
        "p(right) / (p(right) + sum of p(wrong) + 1e-10), each p as of `probability`; then the mean"
    )
    range: ClassVar[str] = "0 to 1"
    direction: ClassVar[str] = "towards 1 / options is forgotten"
    null: ClassVar[str] = "1 / (1 + wrong answers)"
    source: ClassVar[str] = "TOFU, arXiv:2401.06121"
    traps: ClassVar[tuple[str, ...]] = (
        "Near chance can mean that a form was broken and not that knowledge went, as with the letters of multiple "
        "choice: set ROUGE of what the model writes beside it, or `choices --ask text`.",
    )
    needs: ClassVar[tuple[str, ...]] = (OPTIONS,)

    def note(self, read: "SplitReading") -> str:
        """Return that it is near chance, where it is not told from it."""
        from mastlens.statistics import mean_interval

        part = self.measure(read)[""]
        apart = mean_interval(part.values - part.null)
        near = apart.low <= 0 <= apart.high
        return (
            "not told from chance: a form may be broken and not the knowledge gone, read ROUGE beside it"
            if near
            else ""
        )

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the share of each item's answer."""
        import numpy as np

        right = np.exp(-read.losses)
        wrong = np.array([np.exp(-losses).sum() for losses in read.wrong_losses])
        chance = np.array([1 / (1 + len(losses)) for losses in read.wrong_losses])
        return {"": Part(right / (right + wrong + TINY), chance)}
