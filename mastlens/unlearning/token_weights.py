"""Learnt weights of the forget tokens: alternating token-weighted unlearning (ATWU, arXiv:2606.06320)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.errors import BadSetting
from mastlens.unlearning.coefficient import coefficient

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenWeights:
    """How token weights are learnt; the defaults are the paper's where it states one.

    Attributes:
        budget: rho, the mean weight to aim at. The paper does not state it; 0.1 to 0.3 is where to look.
        lr: Learning rate of the scorer (AdamW).
        every: Model steps between two steps of the scorer (n_s).
        budget_weight: lambda_rho.
        entropy_weight: lambda_H: drives each weight to 0 or 1.
        decay: lambda of the squared length of w.
    """

    summary: ClassVar[str] = "learn which forget tokens to forget (ATWU, arXiv:2606.06320)"
    source: ClassVar[str] = "arXiv:2606.06320, section 4.2"

    budget: float = coefficient("mean weight to aim at (rho)", 0.2, source="ours; the paper does not state it")
    lr: float = coefficient("learning rate of the scorer", 0.05, above=0, source=source)
    every: int = coefficient("model steps between two steps of the scorer", 5, unit="steps", least=1, source=source)
    budget_weight: float = coefficient("weight of the budget (lambda_rho)", 15.0, source=source)
    entropy_weight: float = coefficient("weight of the entropy (lambda_H)", 1.0, source=source)
    decay: float = coefficient("weight of the scorer's squared length", 1.0, source=source)

    def __post_init__(self):
        if not 0 < self.budget < 1:
            raise BadSetting(f"The budget of token weights is their mean, between 0 and 1; it is {self.budget}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise BadSetting(f"The scorer's learning rate must be above 0, it is {self.lr}.")
        if self.every < 1:
            raise BadSetting(f"The scorer is stepped every so many model steps, at least 1; it is {self.every}.")

    def regulariser(self, weights: "Tensor", scorer: "Tensor") -> "Tensor":
        """Return lambda_H mean H(g) + lambda_rho (mean g - rho)^2 + decay |w|^2.

        Section 4.2 of the paper has the entropy as a sum over tokens beside a mean for the budget; here both are means,
        so that nothing hangs on the length of a batch.

        Args:
            weights: g (tokens,).
            scorer: w (hidden,).
        """
        from mastlens.unlearning import losses

        return (
            self.entropy_weight * losses.entropy(weights).mean()
            + self.budget_weight * (weights.mean() - self.budget) ** 2
            + self.decay * scorer.square().sum()
        )
