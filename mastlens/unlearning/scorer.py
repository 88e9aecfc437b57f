"""The scorer of token weights: one vector that is learnt beside the model."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mastlens.unlearning.token_weights import TokenWeights

if TYPE_CHECKING:
    from mastlens.models.likelihood import Reading

_MOMENTUM, _DECAY, _CLIP = 0.9, 1e-4, 1.0  # of the authors' SGD


class Scorer:
    """g_t = sigmoid(<w, h_t>): one vector, read against the state that each token is predicted from.

    Starts at w = 0, where every weight is a half. The scorer's step sees the model as a constant, the model's step
    the weights as constants. With the authors' preset h_t is the token's own state, and the last entry of w a bias.

    Args:
        hidden_size: Length of h.
        settings: How it learns.
        device: Where.
        factor: What the forget loss' weights are multiplied by; regularisers are not.
    """

    def __init__(self, hidden_size: int, settings: TokenWeights, device: torch.device, factor: float = 1.0):
        self.settings, self.factor = settings, factor
        self.w = torch.nn.Parameter(torch.zeros(hidden_size + settings.as_authors, device=device))
        self.optimiser: torch.optim.Optimizer
        if settings.as_authors:
            self.optimiser = torch.optim.SGD([self.w], lr=settings.lr, momentum=_MOMENTUM, weight_decay=_DECAY)
        else:
            self.optimiser = torch.optim.AdamW([self.w], lr=settings.lr, weight_decay=0.0)

    def states(self, reading: "Reading") -> Float[Tensor, "tokens hidden"]:
        """Return the states that are scored."""
        return reading.own if self.settings.as_authors and reading.own is not None else reading.hidden

    def weights(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, " tokens"]:
        """Return the weights, constants to the model's step."""
        return self._score(hidden).detach()

    def _score(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, " tokens"]:
        states = hidden.detach().float()
        if self.settings.as_authors:
            return torch.sigmoid(states @ self.w[:-1] + self.w[-1])
        return torch.sigmoid(states @ self.w)

    def learn(
        self,
        hidden: Float[Tensor, "tokens hidden"],
        forget_loss: Callable[[Float[Tensor, " tokens"]], Float[Tensor, ""]],
        rows: Int[Tensor, " tokens"] | None = None,
        rate: float = 1.0,
    ) -> None:
        """Take one step on the forget loss as a function of the weights, and the regulariser.

        Args:
            hidden: The states that are scored.
            forget_loss: Weights to gamma times the forget term, everything of the model a constant.
            rows: The text of each token.
            rate: Share of the learning rate.
        """
        weights = self._score(hidden)
        loss = forget_loss(self.factor * weights) + self.settings.regulariser(weights, self.w, rows)
        self.optimiser.zero_grad(set_to_none=True)
        (self.w.grad,) = torch.autograd.grad(loss, [self.w])
        if self.settings.as_authors:
            torch.nn.utils.clip_grad_norm_([self.w], _CLIP)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * self.settings.lr
        self.optimiser.step()
