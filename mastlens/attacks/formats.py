"""Formats of quantised weights: their levels, and which entries share a scale."""

from dataclasses import dataclass

from mastlens.errors import unknown

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


def find_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        MastlensError: If there is none of that name.
    """
    if name not in FORMATS:
        raise unknown("format of quantised weights", name, FORMATS)
    return FORMATS[name]
