"""Saturation and importance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import ForgetBatch, OutputObjective, Presets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SatImp(OutputObjective):
    """Gradient ascent, tokens weighted by how far they are from forgotten and by how much they carry."""

    name = "satimp"
    over = "tokens"
    summary = "tokens weighted by saturation and importance (arXiv:2505.11953)"
    source = "Yang et al. 2025, arXiv:2505.11953"
    presets: ClassVar[Presets] = {"open-unlearning": {"beta": 5.0, "beta2": 1.0, "gamma": 0.1, "retain_weight": 1.0}}

    beta: float = coefficient("exponent of p (saturation)", 5.0, source="open-unlearning", least=0)
    beta2: float = coefficient("exponent of 1 - p (importance)", 1.0, source="open-unlearning", least=0)

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return mean(stop(p^beta (1 - p)^beta2) log p)."""
        from mastlens.unlearning import losses

        values = batch.solutions.logprobs.values
        return losses.satimp(values, beta1=self.beta, beta2=self.beta2, weights=weights)
