"""Membership inference by the loss alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.evaluation.metrics.metric import MembershipMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading


@dataclass(frozen=True, kw_only=True)
class MiaLoss(MembershipMetric):
    """LOSS: what was seen has a lower loss."""

    name: ClassVar[str] = "mia-loss"
    summary: ClassVar[str] = "membership inference by the loss (LOSS)"
    formula: ClassVar[str] = "score: NLL a token of the answer, its end counted; AUC of holdout over forget"
    source: ClassVar[str] = "Yeom et al. 2018, arXiv:1709.01604"

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the loss of each answer."""
        return {"": Part(read.losses)}
