"""Direct preference optimisation, a refusal preferred (IdkDPO)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import ForgetBatch, Needs, OutputObjective, Presets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class IdkDPO(OutputObjective):
    """A refusal is preferred to each forget solution; only the rejected side takes token weights."""

    name = "dpo"
    over = "sequences"
    summary = "a refusal preferred to the solution (IdkDPO, arXiv:2305.18290)"
    source = "Rafailov et al. 2023, arXiv:2305.18290, eq. 7; the factor 2/beta as in open-unlearning"
    needs = Needs(reference=True, alternatives=True)
    presets: ClassVar[Presets] = {"open-unlearning": {"beta": 0.1, "gamma": 1.0, "retain_weight": 1.0}}

    beta: float = coefficient("inverse temperature", 0.1, unit="1/nat", source="open-unlearning", above=0)

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return -(2/beta) mean log sigmoid(beta [log-ratio(refusal) - log-ratio(solution)])."""
        from mastlens.unlearning import losses

        assert batch.reference is not None
        assert batch.refusals is not None
        assert batch.refusals_reference is not None
        rejected = losses.weighted_sums(batch.solutions.logprobs, weights, rescaled=True)
        return losses.dpo(batch.refusals, batch.refusals_reference, rejected, batch.reference, beta=self.beta)
