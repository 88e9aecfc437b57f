"""Imitation of the model before RLVR on what is to be forgotten."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import ForgetBatch, Needs, OutputObjective

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = ("nll", "forward_kl", "reverse_kl", "jensen_shannon")
"""How the SFT model is imitated: by its responses alone, or by its whole distributions at their tokens."""


@dataclass(frozen=True, kw_only=True)
class Rewind(OutputObjective):
    """Forget prompts get the SFT model's own sampled responses, retain prompts the source's own.

    What is wanted is not that the solutions become unlikely but that the model does what it did before it was rewarded.
    Relatives: imitation of an oracle that never learnt, the starting point of UNDO (arXiv:2506.06278), which found that
    it alone does not remove the latent capability; UNDIAL (arXiv:2402.10052) and RKLD (arXiv:2406.01983), whose teacher
    is made from the model itself.
    """

    name = "rewind"
    summary = "the SFT model's own responses on forget, the source's own on retain (needs --sft)"
    over = "tokens"
    source = "imitation of an oracle, arXiv:2506.06278"
    needs = Needs(own_responses=True)

    imitation: str = coefficient(
        "how the SFT model is imitated at the tokens of its responses", "nll", choices=LOSSES, kind="imitation"
    )

    @property
    def imitates_distributions(self) -> bool:
        """Whether it reads the SFT model's whole distributions."""
        return self.imitation != "nll"

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return the token mean of -log p(response), or of the divergence from the SFT model's distributions."""
        from mastlens.models import divergence

        if self.imitation == "nll":
            values = -batch.solutions.logprobs.values
        else:
            wanted, of_logits = batch.logits_wanted, getattr(divergence, self.imitation)
            assert wanted is not None
            values = batch.solutions.over_tokens(lambda logits, part: of_logits(logits, wanted(part)))
        return values.mean() if weights is None else (weights * values).mean()
