"""How much of an answer the model would write itself, were it told all that comes before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.evaluation.metrics.metric import MeanMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading


@dataclass(frozen=True, kw_only=True)
class ExactMemorisation(MeanMetric):
    """The share of an answer's tokens that are the most probable ones."""

    name: ClassVar[str] = "exact-memorisation"
    summary: ClassVar[str] = "share of the answer's tokens that the model finds likeliest, given those before"
    formula: ClassVar[str] = (
        "tokens that are the argmax / tokens, the end of sequence left out; then the mean over items"
    )
    range: ClassVar[str] = "0 to 1"
    direction: ClassVar[str] = "lower is forgotten"
    null: ClassVar[str] = "share of the commonest token among all answers of the split"
    source: ClassVar[str] = "Tirumala et al. 2022, arXiv:2205.10770; OpenUnlearning, arXiv:2506.12618"
    traps: ClassVar[tuple[str, ...]] = (
        "Most tokens of a sentence follow from those before it whoever wrote it: a model that never saw the answer is "
        "far above the null. Set a reference model beside it.",
    )
    differs: ClassVar[str] = "an answer without tokens has no number; there it is left out as well"

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the share of each answer."""
        import numpy as np

        hits = [one.hits[read.within(item)] for item, one in enumerate(read.answers)]
        return {"": Part(np.array([one.mean() if one.size else np.nan for one in hits]), read.commonest)}
