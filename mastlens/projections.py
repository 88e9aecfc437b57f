"""Where q, k, v and o live in each architecture: checkpoint names, heads and groups, as data."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mastlens.errors import MastlensError, unknown

if TYPE_CHECKING:
    from torch import Tensor

ORDER = ("q", "k", "v", "o")
"""The order of projections everywhere: in tables, figures and ties."""

# Architecture (model_type in config.json) -> projection -> checkpoint name with {layer}.
_SEPARATE = {p: f"model.layers.{{layer}}.self_attn.{p}_proj.weight" for p in ORDER}
ARCHITECTURES: dict[str, dict[str, str]] = {"qwen2": _SEPARATE, "qwen3": _SEPARATE, "llama": _SEPARATE}


@dataclass(frozen=True, order=True)
class Projection:
    """One attention projection of one layer, in checkpoint coordinates.

    Attributes:
        layer: Counted from 0.
        order: Position in q < k < v < o, so that projections sort as ties are broken.
        projection: ``q``, ``k``, ``v`` or ``o``.
        name: The parameter's name in the checkpoint.
        rows: Output size (matrices are taken as (out, in)).
        cols: Input size.
        heads: Query heads for q and o, key-value heads (groups) for k and v.
        head_dim: Size of one head.
    """

    layer: int
    order: int
    projection: str
    name: str
    rows: int
    cols: int
    heads: int
    head_dim: int

    @property
    def numel(self) -> int:
        """Number of entries."""
        return self.rows * self.cols

    @property
    def stored(self) -> str:
        """The name of the stored tensor: ``name`` without the ``#q`` of a tensor that holds several projections."""
        return self.name.partition("#")[0]

    def read(self, stored: "Tensor") -> "Tensor":
        """Return this projection's matrix (rows, cols) out of the stored tensor; it may share its memory."""
        return stored

    def write(self, stored: "Tensor", matrix: "Tensor") -> None:
        """Put ``matrix`` (rows, cols) into the stored tensor in place; nothing else of it changes."""
        stored.copy_(matrix)


def find_projections(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[Projection, ...]:
    """Return every attention projection, by layer, then q < k < v < o.

    Args:
        config: The parsed ``config.json``.
        shapes: Name to shape of every stored tensor.

    Raises:
        MastlensError: For an architecture that is not known, or a tensor that is missing or of another shape
            than the configuration says.
    """
    model_type = str(config.get("model_type", ""))
    if model_type not in ARCHITECTURES:
        found = [name for name in shapes if re.search(r"attn|attention", name)]
        error = unknown("known architecture", model_type, ARCHITECTURES)
        raise MastlensError(f"{error} Its attention tensors look like this: {', '.join(found[:6]) or 'none'}.")
    heads = int(config["num_attention_heads"])
    groups = int(config.get("num_key_value_heads") or heads)
    hidden = int(config["hidden_size"])
    head_dim = int(config.get("head_dim") or hidden // heads)
    sizes = {"q": heads * head_dim, "k": groups * head_dim, "v": groups * head_dim}
    projections = []
    for layer in range(int(config["num_hidden_layers"])):
        for order, projection in enumerate(ORDER):
            name = ARCHITECTURES[model_type][projection].format(layer=layer)
            expected = (hidden, sizes["q"]) if projection == "o" else (sizes[projection], hidden)
            if name not in shapes:
                raise MastlensError(f"The checkpoint has no tensor {name}, which its config.json promises.")
            if tuple(shapes[name]) != expected:
                raise MastlensError(f"{name} is {tuple(shapes[name])}, its config.json says {expected}.")
            projections.append(
                Projection(
                    layer=layer,
                    order=order,
                    projection=projection,
                    name=name,
                    rows=expected[0],
                    cols=expected[1],
                    heads=groups if projection in "kv" else heads,
                    head_dim=head_dim,
                )
            )
    return tuple(projections)


def match_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names in which the regular expression ``pattern`` is found, in their order.

    Raises:
        MastlensError: If the pattern is not a regular expression or matches nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise MastlensError(f"{pattern!r} is not a regular expression: {error}.") from error
    names = list(names)
    if not (matched := [name for name in names if expression.search(name)]):
        raise MastlensError(f"{pattern!r} matches no tensor. Names look like {', '.join(names[:3])}.")
    return matched
