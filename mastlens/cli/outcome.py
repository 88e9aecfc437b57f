"""What a command tells, and how tables are shown on a terminal."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a command tells: ``text`` to people, ``summary`` to machines."""

    text: str
    summary: dict[str, Any]


def finite(value: Any) -> Any:
    """Return the value with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(table, columns: list[str] | None = None, rows: int = 40) -> str:
    """Return a table as text, its first rows and the columns that it has of those named."""
    shown = table if columns is None else table[[c for c in columns if c in table]]
    text = shown.head(rows).to_string(index=False, float_format=lambda x: f"{x:.6g}")
    return text + (f"\n... {len(shown) - rows} more rows" if len(shown) > rows else "")
