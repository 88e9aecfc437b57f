"""What a command tells."""

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
        """Return what a terminal shows, what it comes to first: with ``quiet`` only that, and what follows."""
        body = "" if quiet and self.conclusion else self.text.rstrip()
        parts = [self.conclusion, body, f"Next: {self.then}" if self.then else ""]
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
