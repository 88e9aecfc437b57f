"""The scorer of token weights: one vector that is learnt beside the model."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.unlearning.token_weights import TokenWeights


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
        loss = forget_loss(weights) + self.settings.regulariser(weights, self.w)
        self.optimiser.zero_grad(set_to_none=True)
        (self.w.grad,) = torch.autograd.grad(loss, [self.w])
        self.optimiser.step()
