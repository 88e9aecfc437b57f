"""How far the membership of forget items is from what it is under a model that never saw them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mastlens.evaluation.metrics.methods.min_k import MinK
from mastlens.evaluation.metrics.metric import TINY, Aggregate, MembershipMetric, Scores
from mastlens.statistics import Functional


@dataclass(frozen=True, kw_only=True)
class Privleak(MembershipMetric):
    """MUSE's PrivLeak, of the area under Min-K%'s curve.

    Attributes:
        k: Share of the tokens that count.
    """

    k: float = 0.4

    bounds: ClassVar[tuple[float, float]] = (-100.0, float("inf"))
    name: ClassVar[str] = "privleak"
    summary: ClassVar[str] = "how far Min-K% tells forget items from a holdout, beside a reference model"
    formula: ClassVar[str] = (
        "100 * ((1 - AUC) - (1 - AUC_ref)) / (1 - AUC_ref + 1e-10), AUC of `min-k` at k = 0.4, AUC_ref that of the "
        "reference model on the same items, 0.5 without one"
    )
    range: ClassVar[str] = "-100 upwards"
    direction: ClassVar[str] = "towards 0: below it too little was forgotten, above it so much that it shows"
    null: ClassVar[str] = "0"
    source: ClassVar[str] = "MUSE, arXiv:2407.06460"
    traps: ClassVar[tuple[str, ...]] = (
        *MembershipMetric.traps,
        "Without a reference, AUC_ref is taken to be 0.5, which is right only where the holdout matches.",
        "It divides by 1 - AUC_ref: near 1 it says nothing.",
    )

    @property
    def takes(self) -> tuple[MinK, ...]:
        """The items of Min-K% at the same share."""
        return (MinK(k=self.k),)

    def aggregates(self, scores: Scores, reference: Scores | None) -> Iterator[Aggregate]:
        """Yield it for every forget split."""
        (source,) = self.takes
        for split, holdout in source.pairs(scores):
            area = source.area(scores, split, holdout)
            known = reference is not None and {split, holdout} <= set(reference.splits(source))
            without = source.area(reference, split, holdout) if known and reference is not None else Functional(0.5)
            yield Aggregate(
                f"{split} / {holdout}",
                "percent",
                _relative(area, without),
                len(scores.of(source, split).values),
                0.0,
                note="" if known else "no reference model: its AUC is taken to be 0.5",
            )


def _relative(area: Functional, without: Functional) -> Functional:
    """Return 100 times the relative difference of what is left of 1."""
    left, rest = 1 - area.value, 1 - without.value + TINY
    # d of left / rest: minus d area / rest, plus left / rest^2 d without.
    moved = area.scaled(-100 / rest).minus(without.scaled(-100 * left / rest**2))
    return Functional(100 * (left - (1 - without.value)) / rest, moved.influence)
