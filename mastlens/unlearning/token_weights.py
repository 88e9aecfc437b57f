"""Learnt weights of the forget tokens: alternating token-weighted unlearning (ATWU, arXiv:2606.06320)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.errors import BadSetting

_EDGE = 1e-6  # the entropy's slope is infinite at 0 and 1


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

    budget: float = 0.2
    lr: float = 0.05
    every: int = 5
    budget_weight: float = 15.0
    entropy_weight: float = 1.0
    decay: float = 1.0

    def __post_init__(self):
        if not 0 < self.budget < 1:
            raise BadSetting(f"The budget of token weights is their mean, between 0 and 1; it is {self.budget}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise BadSetting(f"The scorer's learning rate must be above 0, it is {self.lr}.")
        if self.every < 1:
            raise BadSetting(f"The scorer is stepped every so many model steps, at least 1; it is {self.every}.")


def entropy(weights: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return H(g) = -g log g - (1 - g) log(1 - g), in nats."""
    g = weights.clamp(_EDGE, 1 - _EDGE)
    return -g * g.log() - (1 - g) * (1 - g).log()


def regulariser(
    weights: Float[Tensor, " tokens"], scorer: Float[Tensor, " hidden"], settings: TokenWeights
) -> Float[Tensor, ""]:
    """Return lambda_H mean H(g) + lambda_rho (mean g - rho)^2 + decay |w|^2.

    Section 4.2 of the paper has the entropy as a sum over tokens beside a mean for the budget; here both are means, so
    that nothing hangs on the length of a batch.
    """
    return (
        settings.entropy_weight * entropy(weights).mean()
        + settings.budget_weight * (weights.mean() - settings.budget) ** 2
        + settings.decay * scorer.square().sum()
    )


class Scorer:
    """g_t = sigmoid(<w, h_t>): one vector, read against the state that each token is predicted from.

    Starts at w = 0, where every weight is a half. The scorer's step sees the model as a constant, the model's step
    the weights as constants.

    Args:
        hidden_size: Length of w.
        settings: How it learns.
        device: Where.
    """

    def __init__(self, hidden_size: int, settings: TokenWeights, device: torch.device):
        self.settings = settings
        self.w = torch.nn.Parameter(torch.zeros(hidden_size, device=device))
        self.optimiser = torch.optim.AdamW([self.w], lr=settings.lr, weight_decay=0.0)

    def weights(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, " tokens"]:
        """Return the weights, constants to the model's step."""
        return self._score(hidden).detach()

    def _score(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, " tokens"]:
        return torch.sigmoid(hidden.detach().float() @ self.w)

    def learn(
        self,
        hidden: Float[Tensor, "tokens hidden"],
        forget_loss: Callable[[Float[Tensor, " tokens"]], Float[Tensor, ""]],
    ) -> None:
        """Take one step on the forget loss as a function of the weights, and the regulariser.

        Args:
            hidden: The state that each token is predicted from.
            forget_loss: Weights to gamma times the forget term, everything of the model a constant.
        """
        weights = self._score(hidden)
        loss = forget_loss(weights) + regulariser(weights, self.w, self.settings)
        self.optimiser.zero_grad(set_to_none=True)
        (self.w.grad,) = torch.autograd.grad(loss, [self.w])
        self.optimiser.step()
