"""Negative preference per token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import ForgetBatch, Needs, OutputObjective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TokenNPO(OutputObjective):
    """NPO with log-ratios divided by the length: the sigmoid does not saturate on long traces."""

    name = "npo-token"
    over = "sequences"
    summary = "negative preference per token: long traces do not saturate it"
    source = "NPO (arXiv:2404.05868), divided by the length"
    needs = Needs(reference=True)

    beta: float = coefficient("inverse temperature", 1.0, unit="tokens/nat", source="ours", above=0)

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return -(2/beta) mean log sigmoid(-beta (log p - log p_ref) / tokens)."""
        from mastlens.unlearning import losses

        assert batch.reference is not None
        logprobs = batch.solutions.logprobs
        sums = losses.weighted_sums(logprobs, weights, rescaled=True)
        return losses.npo(sums, batch.reference, beta=self.beta, counts=logprobs.counts)
