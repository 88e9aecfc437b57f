"""Membership inference by the size of the gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.evaluation.metrics.metric import GRADIENTS, MembershipMetric, Part

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.reading import SplitReading


@dataclass(frozen=True, kw_only=True)
class MiaGradnorm(MembershipMetric):
    """Gradient norm: what was seen moves the weights little."""

    name: ClassVar[str] = "mia-gradnorm"
    summary: ClassVar[str] = "membership inference by the norm of the gradient"
    formula: ClassVar[str] = (
        "score: mean over parameters of the Frobenius norm of the gradient of the mean loss of the answer's tokens, "
        "the end of sequence left out; AUC of holdout over forget"
    )
    source: ClassVar[str] = "arXiv:2402.17012"
    traps: ClassVar[tuple[str, ...]] = (
        *MembershipMetric.traps,
        "It takes a backward pass through all weights an item.",
    )
    differs: ClassVar[str] = "the model is in evaluation mode; there it is in training mode, with its dropout"
    needs: ClassVar[tuple[str, ...]] = (GRADIENTS,)

    def measure(self, read: "SplitReading") -> Mapping[str, Part]:
        """Return the norm of each answer."""
        import numpy as np

        return {"": Part(np.array(read.gradients))}
