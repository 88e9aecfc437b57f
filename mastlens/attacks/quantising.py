"""Quantisation of weights, simulated: codes, scales, and the weights that they stand for, in float32 on any device.

What a weight becomes in int8, NF4 or round-to-nearest 4 bits is arithmetic, so it needs neither the packed format nor
a GPU: the dequantised weights go into the model, and everything after that is as usual.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mastlens.errors import BadFile, MastlensError, unknown

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The levels of NormalFloat 4 (Dettmers et al. 2023, arXiv:2305.14314, appendix E), in units of a block's largest."""


@dataclass(frozen=True)
class Format:
    """A format of quantised weights.

    Attributes:
        name: What it is called.
        levels: What the codes 0, 1, ... stand for, ascending, in units of the block's scale.
        block: Entries that share a scale; None for a whole row (one output channel).
        by_row: Whether blocks begin anew with every row; else they run through the tensor as it is stored.
        asymmetric: Whether the levels are moved, by a whole number of bins, to where the block's values lie.
    """

    name: str
    levels: tuple[float, ...]
    block: int | None = None
    by_row: bool = True
    asymmetric: bool = False


def _integers(low: int, high: int) -> tuple[float, ...]:
    return tuple(map(float, range(low, high + 1)))


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format("int8", _integers(-127, 127)),
        Format("nf4", NF4, block=64, by_row=False),
        Format("rtn4-32", _integers(-7, 7), block=32),
        Format("rtn4-128", _integers(-7, 7), block=128),
        Format("rtn4-128-asymmetric", _integers(0, 15), block=128, asymmetric=True),
    )
}
"""``int8``: a scale for each output channel, largest magnitude = 127. ``nf4``: as bitsandbytes, blocks of 64 in storage
order. ``rtn4-N``: round to nearest in groups of N along the input, largest magnitude = 7; ``-asymmetric``: from the
group's smallest to its largest value, zero included, in 15 bins."""

DEFAULT_FORMATS = ("int8", "nf4", "rtn4-32", "rtn4-128")


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


def find_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        MastlensError: If there is none of that name.
    """
    if name not in FORMATS:
        raise unknown("format of quantised weights", name, FORMATS)
    return FORMATS[name]


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
        raise MastlensError(f"Matrices are quantised; this tensor has the shape {tuple(weight.shape)}.")
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
