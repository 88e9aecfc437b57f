"""What a benchmark of unlearning is to this package: where its tables lie, and what problem files they become."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mastlens.errors import BadFile
from mastlens.evaluation.suites.sources import Row, Source

Record = Mapping[str, Any]
"""One line of a file that is written."""


@dataclass(frozen=True)
class SplitFile:
    """One file that a benchmark becomes.

    Attributes:
        name: Its name without an ending; what a split is for is told by how it begins.
        records: Its lines.
        option: The option of ``evaluate`` (or ``choices``) that takes it.
    """

    name: str
    records: Sequence[Record]
    option: str = "--split"


@dataclass(frozen=True, kw_only=True)
class Suite(ABC):
    """A benchmark of unlearning.

    Attributes:
        name: As ``mastlens benchmarks convert`` takes it.
        summary: What it is, in one line.
        hub: Ids of its datasets on the hub.
        licence: Of its data, as its card says.
        size: How large it is.
        asks: The metrics that its paper reports, as ``--metrics`` takes them.
        parts: Parts of which one is taken, the first by default; none where it has one.
        source: Where it is from.
        note: What is to be known of it; empty where nothing is.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    hub: ClassVar[tuple[str, ...]]
    licence: ClassVar[str]
    size: ClassVar[str]
    asks: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str]
    note: ClassVar[str] = ""

    @abstractmethod
    def read(self, source: Source, part: str) -> Iterator[SplitFile]:
        """Yield the files that it becomes; a table that is not needed everywhere may be missing.

        Args:
            source: Where its tables are.
            part: One of ``parts``; empty where there are none.
        """


def text_of(row: Row, key: str) -> str:
    """Return a text of a row.

    Raises:
        MastlensError: If there is none, or it is blank.
    """
    value = row.record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadFile(f"{row.where}: no text under {key!r}. It has {', '.join(map(str, row.record)) or 'nothing'}.")
    return value


def texts_of(row: Row, key: str, *, least: int = 1) -> list[str]:
    """Return a list of texts of a row.

    Raises:
        MastlensError: If there is none, there are too few, or one is blank.
    """
    found = row.record.get(key)
    values = [found] if isinstance(found, str) else list(found) if isinstance(found, Sequence) else None
    if values is None or len(values) < least or not all(isinstance(one, str) and one.strip() for one in values):
        raise BadFile(
            f"{row.where}: {key!r} must be a list of {least} or more texts, none of them blank. It has "
            f"{', '.join(map(str, row.record)) or 'nothing'}."
        )
    return values


def right_of(row: Row) -> tuple[list[str], int]:
    """Return the options of a question and the index of the right one.

    Raises:
        MastlensError: If there are fewer than two options, or none of them is named as the right one.
    """
    options, answer = texts_of(row, "choices", least=2), row.record.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(options):
        raise BadFile(f"{row.where}: 'answer' must be the index of one of the {len(options)} choices, not {answer!r}.")
    return options, answer


def choice_of(row: Row, **more: str) -> dict[str, Any]:
    """Return a question with options as ``mastlens choices`` reads it, with its subject and person where it has them.

    Raises:
        MastlensError: As ``right_of``, or if nothing is asked.
    """
    options, answer = right_of(row)
    named = {key: str(row.record[key]) for key in ("subject", "person") if row.record.get(key)}
    return {"question": text_of(row, "question"), "choices": options, "answer": answer, **named, **more}
