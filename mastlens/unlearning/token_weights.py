"""Learnt weights of the forget tokens: alternating token-weighted unlearning (ATWU, arXiv:2606.06320)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.errors import BadSetting, unknown
from mastlens.unlearning.coefficient import coefficient

if TYPE_CHECKING:
    from torch import Tensor


PRESETS = ("paper", "authors")
_DOUBLED = ("simnpo", "wga")  # objectives to which the authors give twice the score


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
        preset: Where paper and code differ: ``paper`` or ``authors``. The numbers above are the same in both.
    """

    summary: ClassVar[str] = "learn which forget tokens to forget (ATWU, arXiv:2606.06320)"
    source: ClassVar[str] = "arXiv:2606.06320, section 4.2"

    budget: float = coefficient("mean weight to aim at (rho)", 0.2, source="ours; the paper does not state it")
    lr: float = coefficient("learning rate of the scorer", 0.05, above=0, source=source)
    every: int = coefficient("model steps between two steps of the scorer", 5, unit="steps", least=1, source=source)
    budget_weight: float = coefficient("weight of the budget (lambda_rho)", 15.0, source=source)
    entropy_weight: float = coefficient("weight of the entropy (lambda_H)", 1.0, source=source)
    decay: float = coefficient("weight of the scorer's squared length", 1.0, source=source)
    preset: str = coefficient(
        "paper: the state that predicts a token, AdamW, the mean weight; authors, as in their code: the token's own "
        "state and a bias, SGD by a line to 0, the share of weights above a half in each text, scores twice in simnpo "
        "and wga",
        PRESETS[0],
        choices=PRESETS,
        kind="preset of token weights",
        source="github.com/giorgosnikolaou/open-unlearning, commit d8eba634",
    )

    @property
    def as_authors(self) -> bool:
        """Whether the authors' code is followed, where it differs from the paper."""
        return self.preset == PRESETS[1]

    def factor(self, objective: str) -> float:
        """Return what an objective's weights are multiplied by."""
        return 2.0 if self.as_authors and objective in _DOUBLED else 1.0

    def learns_at(self, done: int) -> bool:
        """Return whether the scorer is stepped at the step that follows ``done`` others."""
        if self.as_authors:  # every fifth step, before the model's own
            return (done + 1) % self.every == 0
        return done > 0 and done % self.every == 0

    def rate_at(self, done: int, steps: int) -> float:
        """Return the share of the scorer's learning rate at that step, of so many in all."""
        if not self.as_authors:
            return 1.0
        return 1.0 - ((done + 1) // self.every - 1) / math.ceil(steps / self.every)

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise unknown("preset of token weights", self.preset, PRESETS)
        if not 0 < self.budget < 1:
            raise BadSetting(f"The budget of token weights is their mean, between 0 and 1; it is {self.budget}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise BadSetting(f"The scorer's learning rate must be above 0, it is {self.lr}.")
        if self.every < 1:
            raise BadSetting(f"The scorer is stepped every so many model steps, at least 1; it is {self.every}.")

    def regulariser(self, weights: "Tensor", scorer: "Tensor", rows: "Tensor | None" = None) -> "Tensor":
        """Return lambda_H mean H(g) + lambda_rho (mean g - rho)^2 + decay |w|^2.

        Section 4.2 of the paper has the entropy as a sum over tokens beside a mean for the budget; here both are means,
        so that nothing hangs on the length of a batch.

        Args:
            weights: g (tokens,).
            scorer: w (hidden,).
            rows: The text of each token: with the authors' preset the budget is the mean over texts of
                (share of g > 1/2 - rho)^2, whose gradient is that of the mean of g.
        """
        from mastlens.unlearning import losses

        if self.as_authors and rows is not None:
            chosen = (weights.detach() > 0.5).to(weights.dtype) + weights - weights.detach()
            budget = (losses.row_means(chosen, rows) - self.budget).square().mean()
        else:
            budget = (weights.mean() - self.budget) ** 2
        return (
            self.entropy_weight * losses.entropy(weights).mean()
            + self.budget_weight * budget
            + self.decay * scorer.square().sum()
        )
