"""The forget step made orthogonal to what the retain side would undo: geometric disentanglement.

To first order the retain loss does not change along a direction that is orthogonal to its gradient. So of the forget
gradient only the part outside of the span of the latest retain gradients is taken (Geometric-disentanglement
Unlearning, 2025; orthogonal gradient descent, arXiv:1910.07104). The gradient is; AdamW scales its coordinates, so that
the step is only nearly so.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mastlens.models.memory import float64_device

_LEAST = 1e-10  # of the largest eigenvalue of the Gram matrix: gradients that are others' sums are no new direction


class RetainSubspace:
    """The latest retain gradients of all selected tensors together, and what of the forget gradient lies outside.

    Args:
        count: How many gradients are kept: as many copies of what is selected, in float32.
    """

    def __init__(self, count: int):
        self.count = count
        self.kept: list[list[Tensor]] = []
        """Gradients, the latest first, each a tensor a parameter."""

    @torch.no_grad()
    def outside(self, forget: Sequence[Tensor], retain: Sequence[Tensor]) -> list[Tensor]:
        """Take this step's retain gradient in, and return the forget gradient without its part in their span.

        Args:
            forget: A gradient a parameter.
            retain: The same of the retain term.
        """
        self.kept = [[each.clone() for each in retain], *self.kept][: self.count]
        gram = torch.tensor([[_inner(a, b) for b in self.kept] for a in self.kept], dtype=torch.float64)
        values, vectors = torch.linalg.eigh(gram)
        held = values > _LEAST * values.max().clamp_min(torch.finfo(torch.float64).tiny)
        within = torch.tensor([_inner(each, forget) for each in self.kept], dtype=torch.float64)
        shares = vectors[:, held] @ ((vectors[:, held].T @ within) / values[held])
        found = [each.clone() for each in forget]
        for share, gradient in zip(shares.tolist(), self.kept, strict=True):
            for into, part in zip(found, gradient, strict=True):
                into.sub_(part, alpha=share)
        return found

    def join(self, parameters: Sequence[Tensor], forget: Sequence[Tensor]) -> None:
        """Leave each parameter with the retain gradient and the forget gradient's part outside.

        Args:
            parameters: Their gradients are those of both terms together.
            forget: What of it the forget term gave.
        """
        retain = [whole - part for whole, part in zip(gradients_of(parameters), forget, strict=True)]
        for parameter, kept, part in zip(parameters, retain, self.outside(forget, retain), strict=True):
            parameter.grad = part.add_(kept)

    def state(self) -> dict[str, Tensor]:
        """Return what is kept, as named tensors."""
        return {
            f"retain.{place}.{number}": each
            for place, gradient in enumerate(self.kept)
            for number, each in enumerate(gradient)
        }

    def load_state(self, state: Mapping[str, Tensor], parameters: int, device: torch.device) -> None:
        """Take back what ``state`` returned, of so many parameters."""
        places = range(sum(name.startswith("retain.") and name.endswith(".0") for name in state))
        self.kept = [[state[f"retain.{place}.{n}"].to(device) for n in range(parameters)] for place in places]


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return a copy of the gradient of each parameter; zeros where it has none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in parameters]


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    device = float64_device(a[0].device)
    pairs = zip(a, b, strict=True)
    return sum(float(torch.vdot(*(each.to(device).double().reshape(-1) for each in pair))) for pair in pairs)
