"""Gradient ascent."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.unlearning.objectives.objective import ForgetBatch, OutputObjective, Presets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GradientAscent(OutputObjective):
    """The token-mean log-likelihood of the forget solutions; without a retain term the model falls apart."""

    name = "ga"
    over = "tokens"
    summary = "gradient ascent on the forget solutions"
    source = "MAST 1.3"
    presets: ClassVar[Presets] = {"mast": {}, "open-unlearning": {}}

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return sum(g log p) / tokens."""
        from mastlens.unlearning import losses

        logprobs = batch.solutions.logprobs
        return losses.gradient_ascent(losses.weighted_sums(logprobs, weights, rescaled=False), logprobs.counts)
