"""Self-distillation from adjusted logits."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import ForgetBatch, Needs, OutputObjective, Presets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class UNDIAL(OutputObjective):
    """The model before unlearning, its memorised tokens turned down, is the teacher."""

    name = "undial"
    over = "tokens"
    summary = "self-distillation with the memorised token turned down (arXiv:2402.10052)"
    source = "Dong et al. 2025, arXiv:2402.10052"
    needs = Needs(before=True)
    presets: ClassVar[Presets] = {"open-unlearning": {"beta": 10.0, "gamma": 1.0, "retain_weight": 0.0}}

    beta: float = coefficient(
        "how far the memorised logit is turned down", 10.0, unit="logits", source="open-unlearning", above=0
    )

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return the mean cross-entropy to softmax(z_before - beta onehot(token))."""
        from mastlens.unlearning import losses

        before, targets = batch.logits_before, batch.solutions.targets
        assert before is not None
        values = batch.solutions.over_tokens(
            lambda logits, part: losses.undial(logits, before(part), targets[part], beta=self.beta)
        )
        return values.mean() if weights is None else (weights * values).mean()
