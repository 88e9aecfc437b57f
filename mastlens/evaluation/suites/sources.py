"""Tables of a benchmark: files of a folder, laid out as its dataset on the hub is, or that dataset itself."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastlens.errors import BadFile, NotFound, NotSupported
from mastlens.evaluation.hub_rows import hub_rows
from mastlens.runs.reading import read_json, read_lines, read_parquet

ENDINGS = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        where: What to call it in a message: its file and line, or its place in a dataset.
        record: What it holds.
    """

    where: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a table is.

    Attributes:
        config: The dataset's configuration.
        split: Its split there.
        files: Names of its file in a folder, without ending, beside ``CONFIG/SPLIT`` and ``CONFIG``.
    """

    config: str
    split: str
    files: tuple[str, ...] = ()

    def candidates(self, folder: Path) -> Iterator[Path]:
        """Yield the files of a folder that hold this table, the likeliest first."""
        for stem in (*self.files, f"{self.config}/{self.split}", self.config):
            for ending in ENDINGS:
                yield folder / f"{stem}{ending}"
            yield from sorted((folder / stem).parent.glob(f"{Path(stem).name}-*-of-*.parquet"))


@dataclass(frozen=True)
class Source:
    """A folder or a dataset of the hub.

    Attributes:
        text: The folder, or ``OWNER/NAME[@REVISION]``.
    """

    text: str

    @classmethod
    def open(cls, text: str | os.PathLike[str]) -> "Source":
        """Return a source.

        Raises:
            MastlensError: If it is neither a folder nor a dataset's id.
        """
        given = os.fspath(text)
        if not Path(given).is_dir() and (given.count("/") != 1 or given.startswith((".", "/", "~"))):
            raise NotFound(
                f"There is no folder {given}, and it is not a dataset of the hub (OWNER/NAME[@REVISION]). Download its "
                "files and give their folder."
            )
        return cls(given)

    def folder(self, why: str) -> Path:
        """Return the folder.

        Args:
            why: Why it has to be one, for the message.

        Raises:
            MastlensError: If it is a dataset of the hub.
        """
        if not Path(self.text).is_dir():
            raise NotSupported(
                f"{self.text} is one dataset of the hub: {why}. Download them into one folder, and give that."
            )
        return Path(self.text)

    def table(self, place: Place) -> list[Row]:
        """Return a table.

        Raises:
            MastlensError: If it is not there, or holds no rows.
        """
        found = self.optional_table(place)
        if found is None:
            there = sorted(str(p.relative_to(self.text)) for p in Path(self.text).rglob("*") if p.suffix in ENDINGS)
            tried = ", ".join(dict.fromkeys(f"{stem}.json" for stem in (*place.files, f"{place.config}/{place.split}")))
            raise NotFound(
                f"{self.text} has no table {place.config!r}: looked for {tried} (.jsonl, .parquet too). It has "
                f"{', '.join(there[:12]) or 'no such file'}{', ...' if len(there) > 12 else ''}. Lay the folder out as "
                "the dataset on the hub is."
            )
        return found

    def optional_table(self, place: Place) -> list[Row] | None:
        """Return a table; None where a folder does not have it."""
        if not Path(self.text).is_dir():
            return _of_hub(self.text, place)
        path = next((path for path in place.candidates(Path(self.text)) if path.is_file()), None)
        if path is None:
            return None
        rows = list(_of_file(path))
        if not rows:
            raise BadFile(f"{path} holds no rows.")
        return rows


def _of_file(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        for number, record in enumerate(read_parquet(path).to_dict("records"), start=1):
            yield Row(f"{path}, row {number}", {str(key): _plain(value) for key, value in record.items()})
        return
    if path.suffix == ".json" and _is_list(path):
        values = [(f"{path}, entry {number}", value) for number, value in enumerate(read_json(path, "a list"), start=1)]
    else:  # as the hub's JSON files are: an object a line
        values = [(where, value) for where, _, value in read_lines(path)]
    for where, value in values:
        if not isinstance(value, Mapping):
            value = {"text": value}  # MUSE's own files are lists of texts
        yield Row(where, value)


def _is_list(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as stream:
        return next((char for char in iter(lambda: stream.read(1), "") if not char.isspace()), "") == "["


def _plain(value: Any) -> Any:
    """Return a parquet cell as JSON has it."""
    return value.tolist() if hasattr(value, "tolist") else value


def _of_hub(text: str, place: Place) -> list[Row]:
    name, _, revision = text.partition("@")
    instead = "Or download its files and give their folder."
    check = "Check the name, or download its files and give their folder."
    where = {"config": place.config, "split": place.split, "revision": revision}
    found = hub_rows(text, name, **where, check=check, instead=instead)
    return [Row(f"{text}, {place.config}, row {number}", row) for number, row in enumerate(found, start=1)]
