"""Where in a Hugging Face model each activation passes by: module, and side of it."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mastlens.architectures.projections import find_projections
from mastlens.errors import NotSupported
from mastlens.models.backends import placements
from mastlens.models.backends.placements import Placement
from mastlens.models.backends.recording import Point
from mastlens.models.backends.stream import OF_MODEL, OUTSIDE, Block, Passages, find_passages

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
        path: The module's path in the model; empty for the model itself.
        side: ``input``, ``output``, ``inside`` (of the attention function that the module calls), or ``stream``: the
            input, which the code that calls the module goes on with.
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
    """The layers of a model that have attention: their projections, modules and activations, and those outside.

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

    @cached_property
    def blocks(self) -> dict[int, Block]:
        """Layer to the block around its attention."""
        found = {layer: Block.around(self.model, self.attention_path(layer)) for layer in self.layers}
        return {layer: block for layer, block in found.items() if block is not None}

    @cached_property
    def passages(self) -> Passages:
        """Where the residual stream passes between attention and MLP, and the final norm."""
        return find_passages(self.model, self.blocks)

    def names(self, layer: int) -> tuple[str, ...]:
        """Return the activations that a layer has, about in the order in which they arise."""
        if layer == OUTSIDE:
            return tuple(name for name in OF_MODEL if name != "ln_final" or self.passages.final)
        given = [p for (_, at), p in self.projections.items() if at == layer and p.projection != "o"]
        normed = [f"{p.projection}{_NORMED}" for p in given if p.norm]
        attention = self.model.get_submodule(self.attention_path(layer))
        inside = INSIDE if attention_function(attention) else ()
        own = ("x", *(p.projection for p in given), *normed, *inside, "z", "out")
        if layer not in self.blocks:
            return own
        block = self.blocks[layer]
        of_mlp = ("mlp_in", *(("mlp_hidden",) if block.down else ()), "mlp_out") if block.mlp else ()
        between = ("resid_mid",) if layer in self.passages.between else ()
        return ("resid_pre", *own, *between, *of_mlp, "resid_post")

    def sites(self, points: Iterable[Point]) -> list[Site]:
        """Return where the points pass by, one site a module and side."""
        sites: dict[tuple[str, str], Site] = {}
        for name, layer in points:
            site = self._site(name, layer)
            key = (site.path, site.side)
            sites[key] = replace(
                site, placements={**sites[key].placements, **site.placements} if key in sites else site.placements
            )
        # The stream first: where the same tensor is also a module's input, that comes after it.
        return sorted(sites.values(), key=lambda site: site.side != "stream")

    def _site(self, name: str, layer: int) -> Site:
        point = (name, layer)
        if layer == OUTSIDE:
            return Site(self._outside(name), "output", {point: placements.WHOLE})
        o, block = self.projections["o", layer], self.blocks.get(layer, Block("", ""))
        match name:
            case "resid_pre":
                return Site(block.path, "input", {point: placements.WHOLE})
            case "resid_mid":
                return Site(self.passages.between[layer], "stream", {point: placements.WHOLE})
            case "resid_post":
                return Site(block.path, "output", {point: placements.WHOLE})
            case "mlp_in":
                return Site(block.mlp, "input", {point: placements.WHOLE})
            case "mlp_hidden":
                return Site(block.down, "input", {point: placements.WHOLE})
            case "mlp_out":
                return Site(block.mlp, "output", {point: placements.WHOLE})
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

    def _outside(self, name: str) -> str:
        """Return the path of the module that gives an activation outside of the blocks."""
        if name == "logits":
            return ""
        if name == "ln_final":
            return self.passages.final
        embedding = self.model.get_input_embeddings()
        return next(path for path, module in self.model.named_modules() if module is embedding)


def opened(output: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return the states in what a module gives, and what to give with others in their place.

    A block may give more beside them, and the model gives its logits among other things.
    """
    if isinstance(output, Tensor):
        return output, lambda new: new
    if isinstance(output, tuple):
        return output[0], lambda new: (new, *output[1:])

    def written(new: Tensor) -> Any:
        output["logits"] = new
        return output

    return output["logits"], written


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
        raise NotSupported(f"{path} was called without hidden states, so its input cannot be watched.")
    return value
