"""Whether a model still prefers what is true to what is false, whatever it writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.evaluation.metrics.metric import FORGET, OPTIONS, TINY, MeanMetric, Part, side_of

if TYPE_CHECKING:
    import numpy as np

    from mastlens.evaluation.metrics.reading import SplitReading

_APART = 0.005  # definitions of which closer-to-1 differs by less say the same
CLOSER, TRUE, SHARE = "closer-to-1", "true-better", "prob-mean"


@dataclass(frozen=True, kw_only=True)
class TruthRatio(MeanMetric):
    """The probability of wrong answers over that of the right one, and its three aggregators."""

    name: ClassVar[str] = "truth-ratio"
    summary: ClassVar[str] = "the probability of wrong answers over that of the right one"
    formula: ClassVar[str] = (
        "r = exp(-mean NLL of wrong answers) / (exp(-NLL of the paraphrased answer, or the answer itself) + 1e-10), "
        "each NLL a token. closer-to-1: mean of min(r, 1/r); true-better: mean of max(0, 1 - r); prob-mean: mean of "
        "right / (right + wrong)"
    )
    range: ClassVar[str] = "r from 0; aggregates 0 to 1"
    direction: ClassVar[str] = (
        "closer-to-1 (forget sets): higher is forgotten; true-better and prob-mean (all others): higher is known"
    )
    null: ClassVar[str] = (
        "0.5 of prob-mean, no preference; of closer-to-1 (1) and true-better (0) it is the end of their range, which "
        "any spread of r leaves: set a reference model beside them"
    )
    source: ClassVar[str] = "TOFU, arXiv:2401.06121; prob-mean: OpenUnlearning, arXiv:2506.12618"
    traps: ClassVar[tuple[str, ...]] = (
        "Three definitions are called by this name. TOFU's paper averages the wrong answers' probabilities, its "
        "successor open-unlearning their losses (a geometric mean), as here; prob-mean came in with its correction "
        "(locuslab/open-unlearning #163, d3d7cf9, 24 December 2025): logs from before it have no such number.",
        "closer-to-1 is high for a model that was broken, too: it prefers nothing.",
    )
    needs: ClassVar[tuple[str, ...]] = (OPTIONS,)

    def means(self, split: str) -> Mapping[str, str]:
        """Return the three aggregators, that of the split's side first."""
        order = (CLOSER, TRUE) if side_of(split) == FORGET else (TRUE, CLOSER)
        return {**dict.fromkeys(order, "ratio"), SHARE: "share"}

    def taken(self, part: str, aggregate: str, values: "np.ndarray") -> "np.ndarray":
        """Return what the aggregator averages."""
        import numpy as np

        if aggregate == CLOSER:
            return np.minimum(values, 1 / (values + TINY))
        return np.maximum(0, 1 - values) if aggregate == TRUE else values

    def note(self, read: "SplitReading") -> str:
        """Return what it is by the definition of TOFU's paper, where that differs."""
        import numpy as np

        wrong = np.array([np.exp(-losses).mean() for losses in read.wrong_losses])
        told = [
            self.taken("ratio", CLOSER, each / (np.exp(-read.right_losses) + TINY)).mean()
            for each in (np.exp([-losses.mean() for losses in read.wrong_losses]), wrong)
        ]
        if abs(told[1] - told[0]) < _APART:
            return ""
        return f"wrong answers' probabilities averaged, as TOFU's paper has it, closer-to-1 is {told[1]:.3g}"

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the ratio of each item, and the right answer's share."""
        import numpy as np

        right = np.exp(-read.right_losses)
        wrong = np.exp([-losses.mean() for losses in read.wrong_losses])
        return {"ratio": Part(wrong / (right + TINY)), "share": Part(right / (right + wrong + TINY), 0.5)}
