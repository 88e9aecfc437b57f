"""Tables on a terminal: as wide as it is, without columns that say nothing."""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

_DIGITS = (6, 4, 3)  # significant ones, tried in turn
_TEXT = 16  # characters that a text keeps where there is no room for all of it
_GAP = 1  # spaces between columns, as pandas puts them


def terminal_width() -> int | None:
    """Return the characters of a line: $COLUMNS, else those of the terminal; None where output goes elsewhere."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def show(table: Any, columns: Sequence[str] | None = None, rows: int = 40, *, width: int | None = None) -> str:
    """Return a table as text: its first rows, and of the columns named those that it has and that say something.

    Where it would be wider than a terminal, numbers lose digits, then texts their middle, then the last columns give
    way; how many, and which, is said below.

    Args:
        table: A pandas table.
        columns: Those to show; all by default.
        rows: How many rows at most.
        width: Characters of a line; by default those of the terminal, if there is one.
    """
    shown = table if columns is None else table[[c for c in columns if c in table]]
    head = shown.head(rows)
    says = [not len(head) or any(value != "" and not _missing(value) for value in head[c].tolist()) for c in head]
    head = head.loc[:, says]
    width = terminal_width() if width is None else width
    notes = [f"... {len(shown) - rows} more rows"] if len(shown) > rows else []
    written = _written(head, _DIGITS[0], None)
    if width is None:
        return "\n".join([written.to_string(index=False), *notes])
    for digits, text in (*((digits, None) for digits in _DIGITS[1:]), (_DIGITS[-1], _TEXT)):
        if _wide(written) <= width:
            break
        written = _written(head, digits, text)
    kept = len(written.columns)
    while kept > 1 and _wide(written.iloc[:, :kept]) > width:
        kept -= 1
    if left := [str(name) for name in written.columns[kept:]]:
        notes += _wrapped(f"... {len(left)} more column{'s' * (len(left) != 1)}: {', '.join(left)}", width)
        written = written.iloc[:, :kept]
    return "\n".join([written.to_string(index=False), *notes])


def _written(head: Any, digits: int, text: int | None) -> Any:
    """Return the cells as they are to be shown."""
    out = head.copy().astype(object)
    for name in head.columns:
        out[name] = [_cell(value, digits, text) for value in head[name].tolist()]
    return out


def _cell(value: Any, digits: int, text: int | None) -> str:
    if _missing(value):
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    said = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())  # nothing a terminal would obey
    if text is not None and isinstance(value, str) and len(said) > text:
        half = (text - 1) // 2
        return f"{said[:half]}…{said[-(text - 1 - half) :]}"
    return said


def _missing(value: Any) -> bool:
    return value is None or str(value) in ("nan", "<NA>", "NaT")


def _wide(written: Any) -> int:
    # pandas puts a space before every column but the first.
    widths = [max([len(str(name)), *map(len, written[name])], default=0) for name in written.columns]
    return sum(widths) + _GAP * max(0, len(widths) - 1)


def _wrapped(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            lines, line = [*lines, line], "    "
        line = f"{line} {word}" if line.strip() else line + word
    return [*lines, line]
