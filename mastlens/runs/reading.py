"""Reading what others wrote: bounded in size and depth, and wrong in one way only, with the file and the line.

Files come from strangers. What is damaged, of another form, nested without end or larger than can sensibly be ends in
``BadFile``; nothing that is read here is ever executed.
"""

import errno
import functools
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.columns import TABLES
from mastlens.errors import BadFile, NotFound

if TYPE_CHECKING:
    import pandas as pd
    import torch

DEEPEST = 64
"""Levels of lists and objects in each other: real files have fewer than ten."""

LARGEST_JSON = 32 * 2**20
"""Bytes of a JSON file: the index of the largest open model has 15 million; parsed, ``{}`` takes 24 times its text."""

LARGEST_TEXT = 2**30
"""Bytes of a file of JSON lines, CSV or plain text, which is read whole."""

LARGEST_TOML = 2**18
"""Bytes of a study."""

MOST_CELLS = 10**8
"""Rows times columns of a table; runs of equal values let a file of a kilobyte claim billions."""

_CHUNK = 2**20
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DOTTED = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{DEEPEST}}}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_EXPECTED = {"text": "text", "whole": "whole numbers", "number": "numbers", "truth": "true and false"}


def is_there(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to something; a name that no path can have, such as one too long, leads nowhere."""
    try:
        return Path(path).exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to a folder (see ``is_there``)."""
    return is_there(path) and Path(path).is_dir()


def is_plain_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to a file, no pipe and no device (see ``is_there``)."""
    return is_there(path) and Path(path).is_file()


def read_text(path: str | os.PathLike[str], *, limit: int = LARGEST_TEXT, what: str = "Text") -> str:
    """Return a file's text, decoded as UTF-8 with or without a byte order mark.

    Args:
        path: The file.
        limit: Bytes that it may have.
        what: What should be in it, for the message.

    Raises:
        MastlensError: If it is missing, no plain file, too large, unreadable or not UTF-8.
    """
    path = Path(path)
    if not path.is_file():  # a pipe or a device would be read without end
        raise NotFound(f"There is no file {path}.")
    try:
        with path.open("rb") as stream:  # not all at once: a buffer of the whole limit would be made first
            parts, size = [], 0
            while size <= limit and (part := stream.read(_CHUNK)):
                parts.append(part)
                size += len(part)
            data = b"".join(parts)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}. {what} is expected.") from error
    if len(data) > limit:
        raise BadFile(f"{path} has more than {limit:,} bytes. {what} is expected, and none that large is known.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadFile(f"{path}, line {line}, is not UTF-8 text ({error.reason}). {what} is expected.") from error


def parse_json(text: str, where: str, what: str = "a JSON object") -> Any:
    """Return what a JSON text says.

    Args:
        text: The text.
        where: What to call it in a message, e.g. a file and a line.
        what: What is expected.

    Raises:
        MastlensError: If it is no JSON, nested more than ``DEEPEST`` deep, or holds half of a surrogate pair, which
            no tokenizer and no file takes.
    """
    if too_deep(text):
        raise BadFile(f"{where}: not {what}, it is nested more than {DEEPEST} deep.")
    try:
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadFile(
            f"{where}: \\u{ord(error.object[error.start]):04x} is half of a character (a lone surrogate), which is no "
            "text. Write the whole pair, or leave it out."
        ) from error
    except ValueError as error:  # JSONDecodeError, and numbers of too many digits
        raise BadFile(f"{where}: not {what} ({error}).") from error
    return value


def too_deep(text: str) -> bool:
    """Return whether the brackets of a JSON text are nested more than ``DEEPEST`` deep."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    depth = 0
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token in "[{":
            depth += 1
            if depth > DEEPEST:
                return True
        elif token in "]}":
            depth -= 1
    return False


def read_json(path: str | os.PathLike[str], what: str = "a JSON object") -> Any:
    """Return what a JSON file says.

    Raises:
        MastlensError: As ``read_text`` and ``parse_json``.
    """
    return parse_json(read_text(path, limit=LARGEST_JSON, what=what[:1].upper() + what[1:]), str(path), what)


def read_object(path: str | os.PathLike[str], what: str = "a JSON object") -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        MastlensError: As ``read_json``, or if it is a list, a text or a number.
    """
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise BadFile(f"{path} is not {what}, it holds a {type(value).__name__}.")
    return value


def read_lines(path: str | os.PathLike[str], what: str = "a JSON object") -> Iterator[tuple[str, int, Any]]:
    """Yield place (file and line), number from 1 and value of every line of a JSON-lines file that is not blank.

    Lines end at a newline only: ``str.splitlines`` would also cut at the separators that JSON allows in strings.

    Raises:
        MastlensError: As ``read_text`` and ``parse_json``.
    """
    text = read_text(path, what=f"{what[:1].upper()}{what[1:]} a line")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, number, parse_json(line, where, what)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises:
        MastlensError: As ``read_text``, or if it is no TOML.
    """
    text = read_text(path, limit=LARGEST_TOML, what="TOML")
    if _DOTTED.search(text):  # tomllib takes minutes over a key of 50,000 parts
        raise BadFile(f"{path} is no TOML file: a key has more than {DEEPEST} parts.")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise BadFile(f"{path} is no TOML file: it is nested too deep.") from error
    except ValueError as error:
        raise BadFile(f"{path} is no TOML file: {error}.") from error


def read_table(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, *, maker: str = ""
) -> "pd.DataFrame":
    """Return a table of ours: its columns hold what columns of these names hold in every table.

    Args:
        path: The file.
        columns: Columns that it cannot do without; by default those that ``contract`` names for a file of this name.
        maker: The command that writes it, for the message.

    Raises:
        MastlensError: As ``read_parquet``, or if it lacks a column or a column holds another kind.
    """
    path = Path(path)
    table = read_parquet(path, maker=maker)
    kinds, needed = contract(path.name)
    if missing := [column for column in (needed if columns is None else columns) if column not in table]:
        shown = ", ".join(map(str, list(table)[:12])) or "none"
        raise BadFile(
            f"{path} is another table: it has no column {', '.join(missing)}; it has {shown}. {_advice(maker)}"
        )
    for column, kind in kinds.items():
        if column in table and len(table) and not _holds(table[column], kind):
            raise BadFile(
                f"{path}: the column {column!r} should hold {_EXPECTED[kind]}, and does not. {_advice(maker)}"
            )
    return table


@functools.cache
def contract(file: str) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Return what columns of a table hold, and those that it cannot do without, as ``mastlens.columns`` declares them.

    What is of one kind wherever it is declared is so in a file of any other name, too.

    Args:
        file: The table's file name, e.g. ``"geometry.parquet"``.
    """
    declared: dict[str, set[str]] = {}
    for column in (column for table in TABLES for column in table.columns):
        declared.setdefault(column.name, set()).add(column.kind)
    kinds = {name: next(iter(found)) for name, found in declared.items() if len(found) == 1}
    tables = [table for table in TABLES if table.file == file]
    kinds |= {column.name: column.kind for table in tables for column in table.columns if column.kind}
    always = [{c.name for c in table.columns if c.kind and c.needed and not c.when} for table in tables]
    needed = tuple(name for name in kinds if always and all(name in names for names in always))
    return {name: kind for name, kind in kinds.items() if kind}, needed


def read_parquet(path: str | os.PathLike[str], *, maker: str = "") -> "pd.DataFrame":
    """Return a parquet table, whatever its columns.

    Args:
        path: The file.
        maker: The command that writes it, for the message.

    Raises:
        MastlensError: If it is missing, damaged, larger than ``MOST_CELLS``, or two columns have the same name.
    """
    import pandas as pd
    from pyarrow import parquet

    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no table {path}." + (f" {maker} writes one." if maker else ""))
    try:
        size = parquet.read_metadata(path)
        large = size.num_rows * max(size.num_columns, 1) > MOST_CELLS
        table = pd.DataFrame() if large else pd.read_parquet(path)
    except Exception as error:  # pyarrow and pandas raise a dozen classes for one and the same: a damaged file
        reason = (str(error).splitlines() or [""])[0][:200]
        raise BadFile(
            f"{path} cannot be read as a table ({reason or type(error).__name__}). {_advice(maker)}"
        ) from error
    if large:
        raise BadFile(f"{path} claims {size.num_rows:,} rows of {size.num_columns:,} columns, too large to be a table.")
    if len({str(column) for column in table}) < len(table.columns):
        raise BadFile(f"{path} has two columns of the same name. {_advice(maker)}")
    return table


def read_tensors(path: str | os.PathLike[str], what: str = "Tensors in safetensors") -> "dict[str, torch.Tensor]":
    """Return name to tensor of a safetensors file, in a copy that does not hang on the file.

    Args:
        path: The file.
        what: What should be in it, for the message.

    Raises:
        MastlensError: If it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not is_plain_file(path):
        raise NotFound(f"There is no file {path}. {what} are expected.")
    try:
        with safe_open(path, framework="pt", backend="pread") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadFile(f"{path} cannot be read ({error}). {what} are expected.") from error


def _advice(maker: str) -> str:
    return f"{maker} writes one." if maker else "Make it again with --overwrite, or remove it."


def _holds(values: "pd.Series", kind: str) -> bool:
    from pandas.api import types

    if kind == "text":
        return all(isinstance(value, str) for value in values)
    if kind == "truth":
        return types.is_bool_dtype(values) and bool(values.notna().all())
    if kind == "whole":
        return types.is_integer_dtype(values) and bool(values.notna().all())
    return types.is_numeric_dtype(values) and not types.is_complex_dtype(values)
