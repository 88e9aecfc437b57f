"""What a command tells, and how tables are shown on a terminal."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a command tells.

    Attributes:
        text: To people.
        summary: To machines.
        conclusion: What it comes to, in a sentence or two; empty where the text is that already.
        then: The command to type next; empty where nothing follows.
        failed: What could not be had though all else is there: told as a user's mistake is, which the exit status says
            too; empty where nothing is missing.
    """

    text: str
    summary: dict[str, Any]
    conclusion: str = ""
    then: str = ""
    failed: str = ""

    def told(self, *, quiet: bool = False) -> str:
        """Return what a terminal shows: with ``quiet`` only what it comes to and what follows."""
        body = "" if quiet and self.conclusion else self.text.rstrip()
        parts = [body, self.conclusion, f"Next: {self.then}" if self.then else ""]
        return "\n\n".join(part for part in parts if part)

    @property
    def machine(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        more = {"conclusion": self.conclusion, "next": self.then}
        return {**self.summary, **{key: value for key, value in more.items() if value and key not in self.summary}}


def finite(value: Any) -> Any:
    """Return the value with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def some_rows(table, count: int = 10):
    """Return so many rows of a table at even distances, the first and the last among them."""
    return (
        table.iloc[sorted({round(i * (len(table) - 1) / (count - 1)) for i in range(count)})] if len(table) else table
    )


def show(table, columns: list[str] | None = None, rows: int = 40) -> str:
    """Return a table as text, its first rows and the columns that it has of those named."""
    shown = table if columns is None else table[[c for c in columns if c in table]]
    text = shown.head(rows).to_string(index=False, float_format=lambda x: f"{x:.6g}")
    return text + (f"\n... {len(shown) - rows} more rows" if len(shown) > rows else "")
