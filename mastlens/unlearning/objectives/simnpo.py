"""Simple negative preference optimisation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import ForgetBatch, OutputObjective, Presets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SimNPO(OutputObjective):
    """Negative preference without a reference, by the mean over a solution's tokens."""

    name = "simnpo"
    over = "sequences"
    summary = "negative preference without a reference, per token (arXiv:2410.07163)"
    source = "Fan et al. 2024, arXiv:2410.07163; the margin inside beta, as open-unlearning has it"
    presets: ClassVar[Presets] = {
        "mast": {"beta": 2.5},
        "open-unlearning": {"beta": 4.5, "delta": 0.0, "gamma": 0.125, "retain_weight": 1.0},
    }

    beta: float = coefficient("inverse temperature", 4.5, unit="tokens/nat", source="open-unlearning", above=0)
    delta: float = coefficient(
        "margin, inside beta: the paper's divided by beta", 0.0, unit="nats a token", source="open-unlearning"
    )

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return -(2/beta) mean log sigmoid(beta (NLL / tokens - delta))."""
        from mastlens.unlearning import losses

        logprobs = batch.solutions.logprobs
        sums = losses.weighted_sums(logprobs, weights, rescaled=False)
        return losses.simnpo(sums, logprobs.counts, beta=self.beta, delta=self.delta)
