"""Whether truth ratios of the forget set are those of a model that never saw it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.errors import BadSetting
from mastlens.evaluation.metrics.methods.truth_ratio import TruthRatio
from mastlens.evaluation.metrics.metric import FORGET, Aggregate, Metric, Scores, side_of
from mastlens.statistics import Functional

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.items import ItemSet


@dataclass(frozen=True, kw_only=True)
class ForgetQuality(Metric):
    """TOFU's forget quality: a Kolmogorov-Smirnov test against a model that was trained without the forget set."""

    name: ClassVar[str] = "forget-quality"
    summary: ClassVar[str] = "whether the forget set's truth ratios are those of a model that never saw it"
    formula: ClassVar[str] = (
        "two-sample Kolmogorov-Smirnov test of the truth ratios r of the model's items and the reference model's: "
        "p-value, its logarithm to base 10, and the statistic, the largest distance between both distributions"
    )
    range: ClassVar[str] = "p 0 to 1, log10 p up to 0, statistic 0 to 1"
    direction: ClassVar[str] = "p higher (statistic lower) is nearer to the reference model"
    null: ClassVar[str] = "p of two samples of one law: uniform, its median 0.5"
    source: ClassVar[str] = "TOFU, arXiv:2401.06121"
    traps: ClassVar[tuple[str, ...]] = (
        "It is a p-value and no quality: 1e-200 is not worse than 1e-20 by any measure, and with few items every model "
        "passes. Order by the statistic, and read log10 p.",
        "The reference must be trained without the forget set and read the same items by the same tokenizer: a log of "
        "another model's retain run gives a number, too. Here items and tokens are compared.",
        "A broken model can pass: its truth ratios are near 1 as well.",
    )

    @property
    def takes(self) -> tuple[TruthRatio, ...]:
        """Truth ratios."""
        return (TruthRatio(),)

    @property
    def of_reference(self) -> str:
        """The truth ratios of the same items."""
        return "its truth ratios on the forget split (--metrics truth-ratio)"

    def applies(self, splits: Sequence[str]) -> list[str]:
        """Return the forget splits."""
        found = [split for split in splits if side_of(split) == FORGET]
        if not found:
            raise BadSetting(
                f"The metric {self.name!r} is of what was to be forgotten: name a split so that it begins with "
                f"'forget'. Given are {', '.join(splits)}."
            )
        return found

    def check(self, items: "ItemSet") -> None:
        """Raise unless every item has wrong answers."""
        items.check_perturbed(self.name)

    def aggregates(self, scores: Scores, reference: Scores | None) -> Iterator[Aggregate]:
        """Yield p, its logarithm and the statistic for every forget split."""
        from mastlens.statistics.ranks import kolmogorov_smirnov

        (source,) = self.takes
        if reference is None:
            raise BadSetting(f"The metric {self.name!r} needs a reference model's items: give --metrics-reference DIR.")
        for split in self.applies(scores.splits(source)):
            if split not in reference.splits(source):
                raise BadSetting(
                    f"The reference has no truth ratios of the split {split!r}: evaluate it with --metrics truth-ratio."
                )
            ours, theirs = scores.of(source, split, "ratio").values, reference.of(source, split, "ratio").values
            found = kolmogorov_smirnov(ours, theirs)
            said = "a p-value is no quality: order by ks-statistic"
            for aggregate, value, null in (
                ("ks-p", found.p, 0.5),
                ("ks-log10-p", found.log10_p, -0.30103),
                ("ks-statistic", found.statistic, found.median_statistic),
            ):
                yield Aggregate(split, aggregate, Functional(value), len(ours), null, note=said)
