"""Quantisation of weights, simulated: codes, scales, and the weights that they stand for, in float32 on any device.

What a weight becomes in int8, NF4 or round-to-nearest 4 bits is arithmetic, so it needs neither the packed format nor
a GPU: the dequantised weights go into the model, and everything after that is as usual.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mastlens.attacks.formats import Format
from mastlens.errors import BadFile, BadSetting


@dataclass(frozen=True)
class Scales:
    """The grid of each block: a code stands for ``(level + offset) * scale``.

    Attributes:
        scale: Size of the unit of ``Format.levels``, one a block; never 0.
        offset: What is added to the levels, one a block; 0 for a symmetric format.
    """

    scale: Float[Tensor, " blocks"]
    offset: Float[Tensor, " blocks"]


@dataclass(frozen=True)
class Quantised:
    """A weight in a format.

    Attributes:
        codes: The code of every entry, in the shape of the weight.
        weight: What the codes stand for, float32.
        widths: The width of every entry's bin: how far apart two values of this code can be, float32.
        scales: The grid of each block.
    """

    codes: Int[Tensor, "*shape"]
    weight: Float[Tensor, "*shape"]
    widths: Float[Tensor, "*shape"]
    scales: Scales


def quantise(weight: Tensor, format: Format, *, scales: Scales | None = None) -> Quantised:
    """Round every entry of a weight to the nearest level of its block.

    Args:
        weight: A tensor of at least two dimensions, outputs before inputs; computed in float32.
        format: The format.
        scales: Use these scales, e.g. those of another weight of this shape, instead of the weight's own; what lies
            beyond them becomes the outermost code.

    Raises:
        MastlensError: If the weight is no matrix or not finite.
    """
    if weight.ndim < 2:
        raise BadSetting(f"Matrices are quantised; this tensor has the shape {tuple(weight.shape)}.")
    values = weight.detach().float()
    if not bool(values.isfinite().all()):
        raise BadFile("A weight with NaN or infinite entries cannot be quantised.")
    blocks, restore = _cut(values, format)
    if scales is None:
        scales = _fit(blocks, format)
    levels = torch.tensor(format.levels, device=values.device)
    edges = (levels[1:] + levels[:-1]) / 2
    units = blocks / scales.scale[:, None] - scales.offset[:, None]
    codes = torch.bucketize(units, edges)
    bounds = torch.cat([levels[:1], edges, levels[-1:]])
    return Quantised(
        codes=restore(codes),
        weight=restore((levels[codes] + scales.offset[:, None]) * scales.scale[:, None]),
        widths=restore(bounds.diff()[codes] * scales.scale[:, None]),
        scales=scales,
    )


def _cut(values: Tensor, format: Format) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the entries as rows of one block each, and what puts such rows back into the tensor's shape."""
    rows = values.flatten(0, -2) if format.by_row else values.reshape(1, -1)
    length = rows.shape[1]
    size = length if format.block is None else min(format.block, length)
    # The last block of a row may be short. Zeros fill it: they move neither a largest magnitude nor, since zero is
    # always inside its range, an asymmetric grid.
    padded = torch.nn.functional.pad(rows, (0, -length % size))

    def restore(blocks: Tensor) -> Tensor:
        return blocks.reshape(padded.shape)[:, :length].reshape(values.shape)

    return padded.reshape(-1, size), restore


def _fit(blocks: Tensor, format: Format) -> Scales:
    if format.asymmetric:
        low, high = blocks.amin(1).clamp_max(0), blocks.amax(1).clamp_min(0)
        scale = _above_zero((high - low) / (len(format.levels) - 1))
        return Scales(scale, torch.round(low / scale))
    scale = _above_zero(blocks.abs().amax(1) / format.levels[-1])
    return Scales(scale, torch.zeros_like(scale))


def _above_zero(scale: Tensor) -> Tensor:
    # A block of zeros has any scale; a denormal one would overflow when divided by.
    return torch.where(scale > torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))
