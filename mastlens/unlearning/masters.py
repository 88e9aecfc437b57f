"""What the optimiser moves: selected parameters, and float32 masters of slices and of coarser weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mastlens.edit import named_weights
from mastlens.projections import Projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Masters:
    """A selected parameter itself, or a float32 tensor in its place.

    A slice is never moved by masking the whole tensor's gradient: it is a tensor of its own for the optimiser, and is
    written back after each step, so that momentum, clipping and decay cannot reach what lies beside it. So is a
    parameter that is not float32: steps smaller than its spacing add up in the master.

    Args:
        model: The model; gradients of what is selected are switched on.
        matrices: Names of whole parameters, and projections that are slices of one.
    """

    def __init__(self, model: "PreTrainedModel", matrices: Sequence[str | Projection]):
        self.stored = list(dict.fromkeys(m if isinstance(m, str) else m.stored for m in matrices))
        self._weights = named_weights(model, self.stored)
        # Projection None: the whole parameter.
        self._copies: list[tuple[Projection | None, torch.nn.Parameter, torch.nn.Parameter]] = []
        self.parameters: list[torch.nn.Parameter] = []
        for matrix in matrices:
            whole = isinstance(matrix, str)
            weight = self._weights[matrix if whole else matrix.stored]
            if whole and weight.dtype == torch.float32:
                self.parameters.append(weight)
                continue
            part = weight.detach() if whole else matrix.read(weight.detach())
            master = torch.nn.Parameter(part.to(torch.float32, copy=True))
            self._copies.append((None if whole else matrix, weight, master))
            self.parameters.append(master)
        for weight in self._weights.values():
            weight.requires_grad_(True)

    def take_gradients(self) -> None:
        """Hand each master its part of the gradient and drop the rest."""
        for matrix, weight, master in self._copies:
            if weight.grad is not None:
                part = weight.grad if matrix is None else matrix.read(weight.grad)
                master.grad = part.to(torch.float32, copy=True)
        for _, weight, _ in self._copies:
            weight.grad = None

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the masters where they belong, rounded; nothing else of their tensors changes."""
        for matrix, weight, master in self._copies:
            if matrix is None:
                weight.copy_(master)
            else:
                matrix.write(weight.data, master.detach())

    @torch.no_grad()
    def restore(self, values: Sequence[Tensor]) -> None:
        """Set the masters, and the model with them, to what ``[p.clone() for p in parameters]`` was."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
        self.write_back()

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """Return name to stored tensor as the masters have it, in float32; its own memory."""
        found = {name: weight.detach().to(torch.float32, copy=True) for name, weight in self._weights.items()}
        names = {id(weight): name for name, weight in self._weights.items()}
        for matrix, weight, master in self._copies:
            stored = found[names[id(weight)]]
            if matrix is None:
                stored.copy_(master)
            else:
                matrix.write(stored, master)
        return found
