"""Weighted gradient ascent."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import ForgetBatch, OutputObjective, Presets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WeightedGradientAscent(OutputObjective):
    """Gradient ascent whose tokens weigh less the further they are forgotten."""

    name = "wga"
    over = "tokens"
    summary = "gradient ascent, tokens weighted by p^beta (arXiv:2502.19301)"
    source = "Wang et al. 2025, arXiv:2502.19301; with token weights ATWU's SatGA+ (arXiv:2606.06320)"
    presets: ClassVar[Presets] = {"open-unlearning": {"beta": 1.0, "gamma": 1.0, "retain_weight": 1.0}}

    beta: float = coefficient("exponent of p", 1.0, source="open-unlearning", least=0)

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return mean(g stop(p)^(beta g) log p)."""
        from mastlens.unlearning import losses

        return losses.wga(batch.solutions.logprobs.values, beta=self.beta, weights=weights)
