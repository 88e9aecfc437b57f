"""Where in a Hugging Face model each activation passes by: module, and side of it."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mastlens.architectures.projections import find_projections
from mastlens.errors import NotSupported
from mastlens.models.backends import placements
from mastlens.models.backends.placements import Placement
from mastlens.models.backends.recording import Point

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mastlens.architectures.projections import Projection

_NORMED = "_normed"
INSIDE = ("q_rot", "k_rot", "scores", "pattern")
"""The activations that exist only inside the attention function."""


@dataclass(frozen=True)
class Site:
    """A place where activations pass by.

    Attributes:
        path: The module's path in the model.
        side: ``input``, ``output``, or ``inside`` (of the attention function that the module calls).
        placements: The activations in the tensor there and how they lie in it.
        normed: For the output of a q or k norm, its number of heads: how it lies shows only when it is there.
    """

    path: str
    side: str
    placements: Mapping[Point, Placement]
    normed: int | None = None

    def lie(self, raw: Tensor, given: Tensor) -> Mapping[Point, Placement]:
        """Return the placements, given the tensor and the module's input."""
        if self.normed is None:
            return self.placements
        placement = placements.normed(self.normed, raw, given)
        return dict.fromkeys(self.placements, placement)


class Anatomy:
    """The attention layers of a model: their projections, modules and activations.

    Args:
        model: A causal language model of transformers. Only its structure is looked at.
    """

    def __init__(self, model: "PreTrainedModel"):
        self.model = model
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self.projections: dict[Point, Projection] = {
            (p.projection, p.layer): p for p in find_projections(model.config.to_dict(), shapes)
        }

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers that have attention, in order."""
        return tuple(sorted({layer for _, layer in self.projections}))

    def weight(self, name: str, layer: int) -> nn.Parameter:
        """Return the stored parameter that holds a projection."""
        return self.model.get_parameter(self.projections[name, layer].stored)

    def attention_path(self, layer: int) -> str:
        """Return the path of a layer's attention module."""
        return self.projections["o", layer].module.rpartition(".")[0]

    def names(self, layer: int) -> tuple[str, ...]:
        """Return the activations that a layer has, about in the order in which they arise."""
        given = [p for (_, at), p in self.projections.items() if at == layer and p.projection != "o"]
        normed = [f"{p.projection}{_NORMED}" for p in given if p.norm]
        attention = self.model.get_submodule(self.attention_path(layer))
        inside = INSIDE if attention_function(attention) else ()
        return ("x", *(p.projection for p in given), *normed, *inside, "z", "out")

    def sites(self, points: Iterable[Point]) -> list[Site]:
        """Return where the points pass by, one site a module and side."""
        sites: dict[tuple[str, str], Site] = {}
        for name, layer in points:
            site = self._site(name, layer)
            key = (site.path, site.side)
            sites[key] = replace(
                site, placements={**sites[key].placements, **site.placements} if key in sites else site.placements
            )
        return list(sites.values())

    def _site(self, name: str, layer: int) -> Site:
        point, o = (name, layer), self.projections["o", layer]
        match name:
            case "x":
                return Site(self.attention_path(layer), "input", {point: placements.WHOLE})
            case "z":
                return Site(o.module, "input", {point: placements.split(o.heads)})
            case "out":
                return Site(o.module, "output", {point: placements.WHOLE})
        if name in INSIDE:
            return Site(self.attention_path(layer), "inside", {point: placements.TRANSPOSED})
        projection = self.projections[name.removesuffix(_NORMED), layer]
        if name.endswith(_NORMED) and projection.norm:
            norm = projection.norm.removesuffix(".weight")
            return Site(norm, "output", {point: placements.WHOLE}, projection.heads)
        return Site(projection.module, "output", {point: placements.projected(projection)})


def attention_function(attention: nn.Module) -> tuple[Any, Any] | None:
    """Return the attention functions and the eager one that a module's own file chooses from, if it does."""
    for cls in type(attention).__mro__:
        file = vars(sys.modules[cls.__module__])
        if "eager_attention_forward" in file and "ALL_ATTENTION_FUNCTIONS" in file:
            return file["ALL_ATTENTION_FUNCTIONS"], file["eager_attention_forward"]
    return None


def first_argument(args: tuple, kwargs: Mapping[str, Any], path: str) -> Tensor:
    """Return the hidden states that a module was called with."""
    value = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(value, Tensor):
        raise NotSupported(f"{path} was called without hidden states, so its input x cannot be watched.")
    return value
