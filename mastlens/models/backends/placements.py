"""How an activation lies in a module's own tensor: read it in canonical shape, and write it back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mastlens.architectures.projections import Projection


@dataclass(frozen=True)
class Placement:
    """One activation inside a tensor that may hold more, or hold it in another order of axes.

    Attributes:
        read: The tensor -> the activation in canonical shape; a view wherever strides allow one.
        write: The tensor, a new value in canonical shape -> the tensor with that value in it (the old one stays).
    """

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, Tensor], Tensor]


WHOLE = Placement(lambda raw: raw, lambda raw, new: new)
"""The tensor is the activation."""

TRANSPOSED = Placement(lambda raw: raw.transpose(1, 2), lambda raw, new: new.transpose(1, 2))
"""[batch, heads, pos, head_dim], as attention functions take it."""


def split(heads: int) -> Placement:
    """[batch, pos, heads * head_dim]; without heads (0) the tensor is the activation."""
    if not heads:
        return WHOLE
    return Placement(lambda raw: raw.unflatten(-1, (heads, -1)), lambda raw, new: new.flatten(-2))


def keys(count: int) -> Placement:
    """[batch, heads, query, key], with columns behind the keys where a model has attention sinks."""
    return Placement(
        lambda raw: raw[..., :count],
        lambda raw, new: new if raw.shape[-1] == count else torch.cat([new, raw[..., count:]], dim=-1),
    )


def projected(projection: "Projection") -> Placement:
    """What the module of a projection puts out, where other projections' outputs may lie beside or between."""
    alone = split(projection.heads)
    if not projection.fused:
        return alone

    def write(raw: Tensor, new: Tensor) -> Tensor:
        other = raw.clone()
        projection.write_outputs(other, alone.write(raw, new))
        return other

    return Placement(lambda raw: alone.read(projection.outputs_of(raw)), write)


def normed(heads: int, raw: Tensor, given: Tensor) -> Placement:
    """What a norm of q or k puts out: some models norm before they swap heads and positions, others after.

    Args:
        heads: Number of heads.
        raw: The norm's output.
        given: The norm's input, whose strides tell the two apart where heads and positions are equally many.
    """
    if raw.dim() == 3:
        return split(heads)
    swapped = raw.shape[1] == heads and (raw.shape[2] != heads or given.stride(1) < given.stride(2))
    return TRANSPOSED if swapped else WHOLE
