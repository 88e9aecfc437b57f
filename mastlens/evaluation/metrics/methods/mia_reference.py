"""Membership inference by the loss less that of a reference model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.errors import BadSetting
from mastlens.evaluation.metrics.metric import MembershipMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading


@dataclass(frozen=True, kw_only=True)
class MiaReference(MembershipMetric):
    """Reference: the loss less what a model has that never saw the item."""

    name: ClassVar[str] = "mia-reference"
    summary: ClassVar[str] = "membership inference by the loss less a reference model's"
    formula: ClassVar[str] = (
        "score: NLL a token of the answer - the same under the reference model; AUC of holdout over forget"
    )
    source: ClassVar[str] = "Carlini et al. 2021, arXiv:2012.07805"

    @property
    def of_reference(self) -> str:
        """The losses of the same items."""
        return "its losses on the forget split and the holdout"

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the score of each answer."""
        import numpy as np

        if not read.reference_losses:
            raise BadSetting(
                f"The reference has no losses of the split {read.split!r}: evaluate it on that split, too."
            )
        return {"": Part(read.losses - np.array(read.reference_losses))}
