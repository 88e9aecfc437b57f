"""What is left of everything that was to be kept, in one number with its nine parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mastlens.errors import BadSetting
from mastlens.evaluation.metrics.methods.probability import Probability
from mastlens.evaluation.metrics.methods.probability_with_options import ProbabilityWithOptions
from mastlens.evaluation.metrics.methods.rouge import Rouge
from mastlens.evaluation.metrics.methods.truth_ratio import TRUE, TruthRatio
from mastlens.evaluation.metrics.metric import REAL, RETAIN, WORLD, Aggregate, Metric, Scores, side_of
from mastlens.statistics import harmonic_mean

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.items import ItemSet

_NINE = 9


@dataclass(frozen=True, kw_only=True)
class ModelUtility(Metric):
    """TOFU's model utility."""

    name: ClassVar[str] = "model-utility"
    summary: ClassVar[str] = "harmonic mean of probability, ROUGE-L recall and truth ratio on what was to be kept"
    formula: ClassVar[str] = (
        "harmonic mean of nine: probability (of real authors and world facts: with options), ROUGE-L recall and truth "
        "ratio (true-better) of the splits named retain..., real... and world..."
    )
    range: ClassVar[str] = "0 to 1"
    direction: ClassVar[str] = "higher is kept"
    null: ClassVar[str] = "of each part its own; none of the harmonic mean: set the model before beside it"
    source: ClassVar[str] = "TOFU, arXiv:2401.06121"
    traps: ClassVar[tuple[str, ...]] = (
        "A harmonic mean is its smallest part: one near 0 hides eight others, so each is shown.",
        "Of fewer than nine parts it is another number than TOFU's; the note says of how many.",
    )

    @property
    def takes(self) -> tuple[Metric, ...]:
        """The metrics of its parts."""
        return (Probability(), ProbabilityWithOptions(), Rouge(), TruthRatio())

    def applies(self, splits: Sequence[str]) -> list[str]:
        """Return the splits that are to be kept."""
        found = [split for split in splits if side_of(split) in (RETAIN, REAL, WORLD)]
        if not found:
            raise BadSetting(
                f"The metric {self.name!r} is of what was to be kept: name splits so that they begin with 'retain', "
                f"'real' or 'world'. Given are {', '.join(splits)}."
            )
        return found

    def check(self, items: "ItemSet") -> None:
        """Raise unless every item has wrong answers."""
        items.check_perturbed(self.name)

    def aggregates(self, scores: Scores, reference: Scores | None) -> Iterator[Aggregate]:
        """Yield the parts, and their harmonic mean."""
        probability, options, rouge, ratio = self.takes
        parts, items = [], 0
        kept = self.applies(scores.splits(ratio))
        for split in kept:
            plain = side_of(split) == RETAIN
            chosen = ((probability if plain else options, "mean"), (rouge, "rougeL_recall"), (ratio, TRUE))
            for metric, aggregate in chosen:
                part = next(
                    one
                    for one in metric.aggregates(scores, reference)
                    if (one.split, one.aggregate) == (split, aggregate)
                )
                parts.append(part.number)
                items += part.n if metric is rouge else 0
                yield replace(part, aggregate=f"{metric.name} {aggregate}", repeated=True)
        note = "" if len(parts) == _NINE else f"of {len(parts)} parts, where TOFU's has {_NINE}"
        yield Aggregate(" + ".join(kept), "harmonic-mean", harmonic_mean(parts), items, note=note)
