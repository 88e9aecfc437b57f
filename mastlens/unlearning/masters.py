"""What the optimiser moves: selected parameters, and slices of fused ones as tensors of their own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mastlens.edit import named_weights
from mastlens.projections import Projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Masters:
    """What the optimiser moves: a selected parameter itself, or a copy of a selected slice of one.

    A slice is never moved by masking the whole tensor's gradient: it is a tensor of its own for the optimiser, and is
    written back after each step, so that momentum, clipping and decay cannot reach what lies beside it.

    Args:
        model: The model; gradients of what is selected are switched on.
        matrices: Names of whole parameters, and projections that are slices of one.
    """

    def __init__(self, model: "PreTrainedModel", matrices: Sequence[str | Projection]):
        self.stored = list(dict.fromkeys(m if isinstance(m, str) else m.stored for m in matrices))
        weights = named_weights(model, self.stored)
        self._slices: list[tuple[Projection, torch.nn.Parameter, torch.nn.Parameter]] = []
        self.parameters: list[torch.nn.Parameter] = []
        for matrix in matrices:
            if isinstance(matrix, str):
                self.parameters.append(weights[matrix])
                continue
            weight = weights[matrix.stored]
            master = torch.nn.Parameter(matrix.read(weight.detach()).clone())
            self._slices.append((matrix, weight, master))
            self.parameters.append(master)
        for weight in weights.values():
            weight.requires_grad_(True)

    def take_gradients(self) -> None:
        """Hand each slice its part of the gradient and drop the rest."""
        for matrix, weight, master in self._slices:
            if weight.grad is not None:
                master.grad = matrix.read(weight.grad).clone()
        for _, weight, _ in self._slices:
            weight.grad = None

    def write_back(self) -> None:
        """Put the slices where they belong; nothing else of their tensors changes."""
        for matrix, weight, master in self._slices:
            matrix.write(weight.data, master.detach())
