"""What is to be watched, and what was seen: the part that all backends share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from mastlens.errors import BadSetting
from mastlens.models.backends.placements import WHOLE, Placement

Point = tuple[str, int]
"""An activation's name and its layer."""


@dataclass(frozen=True)
class Seen:
    """An activation as it passed by.

    Attributes:
        raw: The tensor that holds it.
        placement: How it lies there.
        gradient: The gradient of ``raw`` that the last backward pass brought, once there is one.
    """

    raw: Tensor
    placement: Placement
    gradient: list[Tensor]

    @property
    def value(self) -> Tensor:
        """The activation in canonical shape."""
        return self.placement.read(self.raw)


@dataclass
class Recorder:
    """Takes in activations as they are computed.

    Attributes:
        points: What to record.
        gradients: Whether the recorded tensors are nodes of the graph, so that gradients reach them.
        replacements: Point to function; what it makes of the activation takes the activation's place.
        seen: What passed by, in the last forward pass.
    """

    points: tuple[Point, ...]
    gradients: bool
    replacements: Mapping[Point, Callable[[Tensor], Tensor]]
    seen: dict[Point, Seen] = field(default_factory=dict)

    @property
    def wanted(self) -> frozenset[Point]:
        """Every point that must pass through ``take``."""
        return frozenset(self.points) | frozenset(self.replacements)

    def take(self, raw: Tensor, placements: Mapping[Point, Placement]) -> Tensor:
        """Record what lies in ``raw`` and return the tensor that the model is to go on with.

        With gradients that is an alias: a node that only this place in the model uses, so that its gradient is
        that of the activation *here* even where the same tensor also runs on elsewhere (in a model whose attention
        reads the residual stream itself). Where no parameter below is trainable the alias starts the graph; no
        parameter is touched for that.
        """
        value, gradient = raw, []
        for point, placement in placements.items():
            if point in self.replacements:
                value = placement.write(value, self._replaced(point, placement.read(value)))
        if self.gradients:
            self._check_gradients()
            if not value.requires_grad:
                value = value.view_as(value).requires_grad_()
            value = value.view_as(value)
            # Not retain_grad, which keeps a copy of every gradient; and a hook that knows the recorder, or the value,
            # would be a cycle that keeps the whole graph alive until the garbage collector comes by.
            value.register_hook(partial(_keep, gradient))
        for point, placement in placements.items():
            if point in self.points:
                self.seen[point] = Seen(value if self.gradients else value.detach(), placement, gradient)
        return value

    def take_in_place(self, raw: Tensor, point: Point) -> Tensor:
        """Record a tensor that the model's own code holds on to, and change it where it lies.

        The stream between attention and MLP is read by a norm and added to what the MLP makes of it: another tensor
        for the norm would leave the sum as it was. So the tensor stays, with another content; its gradient is the one
        that both ways bring.
        """
        gradient: list[Tensor] = []
        if point in self.replacements:
            raw.copy_(self._replaced(point, raw.clone()))  # what the replacement remembers must not change under it
        if self.gradients:
            self._check_gradients()
            if not raw.requires_grad:
                raw.requires_grad_()
            raw.register_hook(partial(_keep, gradient))
        if point in self.points:
            self.seen[point] = Seen(raw if self.gradients else raw.detach(), WHOLE, gradient)
        return raw

    def _check_gradients(self) -> None:
        if not torch.is_grad_enabled():
            raise BadSetting(
                "gradients=True needs a forward pass with gradients on, and this one ran under torch.no_grad(). "
                "Take it out of that block, or watch without gradients."
            )

    def _replaced(self, point: Point, old: Tensor) -> Tensor:
        new = self.replacements[point](old)
        if not isinstance(new, Tensor) or new.shape != old.shape:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise BadSetting(
                f"The replacement for {point[0]} of layer {point[1]} must return a tensor of shape "
                f"{tuple(old.shape)}, as it was given; it returned {got}."
            )
        return new.to(old.dtype)


def _keep(kept: list[Tensor], gradient: Tensor) -> None:
    kept[:] = [gradient]
