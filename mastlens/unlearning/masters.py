"""What the optimiser moves: selected parameters, and float32 masters of slices and of coarser weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mastlens.architectures.projections import Projection
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.models.weights import placed_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Originals(Mapping[str, Tensor]):
    """Stored tensors of a checkpoint, each read when it is asked for and kept by nobody.

    Args:
        checkpoint: The checkpoint.
        names: Of the tensors.
    """

    def __init__(self, checkpoint: Checkpoint, names: Sequence[str]):
        self.checkpoint, self.names = checkpoint, names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.checkpoint.tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Masters:
    """A selected parameter itself, or a float32 tensor in its place.

    A slice is never moved by masking the whole tensor's gradient: it is a tensor of its own for the optimiser, and is
    written back after each step, so that momentum, clipping and decay cannot reach what lies beside it. So is a
    parameter that is not float32: steps smaller than its spacing add up in the master.

    Args:
        model: The model; gradients of what is selected are switched on.
        matrices: Names of whole parameters, and projections that are slices of one.
        originals: Name to stored tensor, where the model holds it rounded to a coarser dtype: masters begin there.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        matrices: Sequence[str | Projection],
        originals: Mapping[str, Tensor] | None = None,
    ):
        self.stored = list(dict.fromkeys(m if isinstance(m, str) else m.stored for m in matrices))
        self._weights = placed_weights(model, self.stored)
        self._originals = dict(originals or {})
        moved: set[tuple[int, int | None, int | None]] = set()
        # Projection None: the whole stored tensor.
        self._copies: list[tuple[str, Projection | None, torch.nn.Parameter]] = []
        self._moved: list[tuple[str, Projection | None, torch.nn.Parameter]] = []
        for matrix in matrices:
            whole = isinstance(matrix, str)
            name = matrix if whole else matrix.stored
            weight, place = self._weights[name]
            if whole and self._spot(name) in moved:
                continue  # a tied parameter goes by two names
            moved.add(self._spot(name))
            if (
                whole
                and place.expert is None
                and isinstance(weight, torch.nn.Parameter)
                and weight.dtype == torch.float32
            ):
                self._moved.append((name, None, weight))
                continue
            start = self._start(name)
            part = start if whole else matrix.read(start)
            master = torch.nn.Parameter(part.to(torch.float32, copy=True))
            self._copies.append((name, None if whole else matrix, master))
            self._moved.append(self._copies[-1])
        for weight, _ in self._weights.values():
            weight.requires_grad_(True)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimiser moves, in the order of the selection."""
        return [parameter for _, _, parameter in self._moved]

    @property
    def names(self) -> list[str]:
        """What each of ``parameters`` is called; of a tied one, the first name that was selected."""
        return [name if matrix is None else matrix.name for name, matrix, _ in self._moved]

    def _spot(self, name: str) -> tuple[int, int | None, int | None]:
        """Return what two names share that are one tensor in the model."""
        weight, place = self._weights[name]
        return id(weight), place.expert, place.half

    def _start(self, name: str) -> Tensor:
        """Return the stored tensor as it was before, on the model's device."""
        weight, place = self._weights[name]
        return self._originals[name].to(weight.device) if name in self._originals else place.of(weight.detach())

    def drop_gradients(self) -> None:
        """Forget all gradients, also those that an interrupted step left."""
        for parameter in (*self.parameters, *(weight for weight, _ in self._weights.values())):
            parameter.grad = None

    def take_gradients(self) -> None:
        """Add to each master its part of the gradient, in float32, and drop the rest."""
        for name, matrix, master in self._copies:
            weight, place = self._weights[name]
            if weight.grad is None:
                continue
            stored = place.of(weight.grad)
            part = stored if matrix is None else matrix.read(stored)
            if master.grad is None:
                master.grad = part.to(torch.float32, copy=True)
            else:
                master.grad.add_(part)
        for name, _, _ in self._copies:
            self._weights[name][0].grad = None

    @torch.no_grad()
    def begin_at(self, values: Mapping[str, Tensor]) -> None:
        """Set the masters, and the model with them, to other values of what is selected.

        Args:
            values: Name to stored tensor; of one that is selected in part, only that part is taken.
        """
        for master, value in zip(self.parameters, self.read(values), strict=True):
            master.copy_(value)
        self.write_back()

    def read(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        """Return, for each of ``parameters``, its part of other values of what is selected, in float32.

        Args:
            values: Name to stored tensor.
        """
        found = [(values[name].to(master.device), matrix) for name, matrix, master in self._moved]
        return [(value if matrix is None else matrix.read(value)).to(torch.float32) for value, matrix in found]

    @property
    def finite(self) -> bool:
        """Whether every entry is a number."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters)

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the masters where they belong, rounded; nothing else of their tensors changes."""
        for name, matrix, master in self._copies:
            weight, place = self._weights[name]
            if matrix is None:
                place.of(weight.data).copy_(master)
            else:
                matrix.write(place.of(weight.data), master.detach())

    @torch.no_grad()
    def restore(self, values: Sequence[Tensor]) -> None:
        """Set the masters, and the model with them, to what ``[p.clone() for p in parameters]`` was."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
        self.write_back()

    def clip(self, most: float) -> float:
        """Scale the gradients down to a norm of ``most``; return their norm."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, most))

    def whole(self, name: str) -> Tensor | None:
        """Return a stored tensor as the masters have it, in float32; its own memory."""
        return self.tensors([name])[name]

    @torch.no_grad()
    def tensors(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return name to stored tensor as the masters have it, in float32; its own memory. None for all names."""
        found = {
            name: (self._start(name) if weight.dtype != torch.float32 else place.of(weight.detach())).to(
                torch.float32, copy=True
            )
            for name, (weight, place) in self._weights.items()
            if names is None or name in names
        }
        for name, matrix, master in self._copies:
            for other, stored in found.items():
                if self._spot(other) != self._spot(name):
                    continue
                if matrix is None:
                    stored.copy_(master)
                else:
                    matrix.write(stored, master)
        return found
