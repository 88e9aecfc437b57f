"""What a declared column is, and what stands beside one: its null, its interval, its twin of the other side."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

SPLIT = "{split}"
"""In a column's name: any split's name stands there."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name; ``{split}`` in it stands for a split's.
        meaning: What it holds, in one sentence.
        unit: Its unit; empty for counts, shares and text.
        null: What chance gives, or the column that says it.
        source: Where the measure is from.
        when: The option without which it is not written; empty where it always is.
        kind: What it holds, as ``runs.reading`` checks it: ``text``, ``whole``, ``number`` or ``truth``; empty where
            that is not checked.
        needed: Whether a table without it is refused as another one, where it has a kind and is always written.
    """

    name: str
    meaning: str
    unit: str = ""
    null: str = ""
    source: str = ""
    when: str = ""
    kind: str = ""
    needed: bool = True


@dataclass(frozen=True)
class Table:
    """A table that a command writes.

    Attributes:
        file: Its name in an output folder.
        command: What writes it.
        rows: What one row is.
        columns: Its columns, in the order in which they are read best.
        when: The option without which it is not written.
    """

    file: str
    command: str
    rows: str
    columns: tuple[Column, ...]
    when: str = ""

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        assert len(set(names)) == len(names), f"{self.file} declares a column twice"


def measured(column: Column, null: str, stored: str = "") -> tuple[Column, ...]:
    """Return a measure with its null or nulls, the distance from each, and whether chance is ruled out.

    Args:
        column: The measure.
        null: What chance gives.
        stored: What chance gives that went through the same storage, where that is another null.
    """
    name, when = column.name, column.when
    sds = "standard deviations of the null"
    second = (
        Column(f"{name}_null_stored", f"what chance gives, storage and all: {stored}", column.unit, when=when),
        Column(f"{name}_z_stored", f"the distance of `{name}` from that", sds, when=when),
    )
    return (
        replace(column, null=f"`{name}_null`" + f", `{name}_null_stored`" * bool(stored)),
        Column(f"{name}_null", f"what chance gives: {null}", column.unit, when=when, kind=column.kind),
        Column(f"{name}_z", "its distance from chance", sds, when=when),
        *(second if stored else ()),
        *judged(name, when),
    )


def judged(name: str, when: str = "") -> tuple[Column, ...]:
    """Return the columns that say whether chance is ruled out, and by which null."""
    return (
        Column(f"{name}_p", "two-sided p, the largest over the nulls; NaN below the precision floor", when=when),
        Column(f"{name}_judged_by", "the null that this p is of: the one that explains the value best", when=when),
        Column(f"{name}_distinguishable", "beyond every null, p < 0.001; never below the floor", when=when),
    )


def with_interval(column: Column, kind: str, low: str = "", high: str = "") -> tuple[Column, ...]:
    """Return a value with both ends of its 95 % interval, by default ``NAME_low`` and ``NAME_high``."""
    low, high = low or f"{column.name}_low", high or f"{column.name}_high"
    said = f"95 % interval of `{column.name}`, {kind}"
    ends = (Column(low, f"lower end of the {said}", column.unit), Column(high, f"upper end of the {said}", column.unit))
    return (column, *(replace(end, when=column.when) for end in ends))


def when(option: str, columns: Iterable[Column]) -> tuple[Column, ...]:
    """Return the columns as written only with an option."""
    return tuple(replace(column, when=column.when or option) for column in columns)


def both_sides(columns: Iterable[Column], option: str = "--retain") -> tuple[Column, ...]:
    """Return columns of the forget side, and the same of the retain side, written only with an option."""
    forget = tuple(columns)

    def of_retain(text: str) -> str:
        return text.replace("forget", "retain")

    retain = (replace(one, name=of_retain(one.name), meaning=of_retain(one.meaning)) for one in forget)
    retain = (replace(one, null=of_retain(one.null)) for one in retain)
    return (*forget, *when(option, retain))


LAYER = Column("layer", "from 0; -1 outside the blocks", kind="whole")
PROJECTION = Column(
    "projection", "`q`, `k`, `v`, `o` (more with latent attention); empty for another matrix", kind="text"
)
NAME = Column(
    "name", "the checkpoint's parameter name; `#q` behind it where a tensor holds several projections", kind="text"
)
PLACE = (LAYER, PROJECTION, NAME)
"""Where a matrix stands."""

SHAPE = (Column("rows", "outputs of the matrix", kind="whole"), Column("cols", "inputs of the matrix", kind="whole"))
HEAD = Column("head", "from 0; of k and v a head is a key-value group")
SPLIT_NAME = Column("split", "the split's name, as `--split` gives it", kind="text")
ITEM = Column("item", "from 0 in its file", kind="whole")
