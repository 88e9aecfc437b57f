"""Cross-entropy unlearning."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.unlearning.objectives.objective import ForgetBatch, OutputObjective, Presets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CrossEntropyUnlearning(OutputObjective):
    """The model's own distribution without the token, a constant, is the teacher."""

    name = "ce-u"
    over = "later tokens"
    summary = "cross-entropy to the model's own distribution without the token (arXiv:2503.01224)"
    source = "Yang 2025, arXiv:2503.01224"
    presets: ClassVar[Presets] = {"open-unlearning": {}}

    def forget_loss(self, batch: ForgetBatch, weights: "Tensor | None" = None) -> "Tensor":
        """Return the mean cross-entropy over all tokens but the first of each solution."""
        import torch

        from mastlens.unlearning import losses

        solutions = batch.solutions
        values = solutions.over_tokens(lambda logits, part: losses.ce_u(logits, solutions.targets[part]))
        counted = losses.after_first(solutions.rows)  # as its code, which leaves the first token of an answer alone
        if not bool(counted.any()):
            counted = torch.ones_like(counted)
        return (values if weights is None else weights * values)[counted].mean()
