"""Negative preference optimisation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import ForgetBatch, Needs, OutputObjective, Presets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NPO(OutputObjective):
    """The forget solutions as the rejected side of a preference, log-probabilities summed over each."""

    name = "npo"
    over = "sequences"
    summary = "negative preference, log-probabilities summed (arXiv:2404.05868)"
    source = "Zhang et al. 2024, arXiv:2404.05868, eq. 3"
    needs = Needs(reference=True)
    presets: ClassVar[Presets] = {
        "mast": {"beta": 0.5},
        "open-unlearning": {"beta": 0.1, "gamma": 1.0, "retain_weight": 1.0},
    }

    beta: float = coefficient("inverse temperature", 0.1, unit="1/nat", source="its paper", above=0)

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return -(2/beta) mean log sigmoid(-beta (log p - log p_ref)); token weights are rescaled to the length."""
        from mastlens.unlearning import losses

        assert batch.reference is not None
        sums = losses.weighted_sums(batch.solutions.logprobs, weights, rescaled=True)
        return losses.npo(sums, batch.reference, beta=self.beta)
