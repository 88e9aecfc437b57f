"""A run's folder as the report reads it: its record, its tables, and what a chapter says of them."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mastlens.plots.page import Section
from mastlens.runs.reading import read_table
from mastlens.runs.stages import RECORD, read_record
from mastlens.statistics import SMALLEST_LIFT


@dataclass(frozen=True)
class Findings:
    """What one chapter makes of a folder.

    Attributes:
        section: Its part of the page.
        finding: One sentence or two with the numbers, for the verdict; empty where it only shows.
        limits: What its numbers do not say, for the section on limits.
    """

    section: Section
    finding: str = ""
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunFolder:
    """An output folder: its record and its tables.

    Attributes:
        path: The folder.
        before: The evaluation that this folder's is to be compared with; None for no comparison.
        smallest_lift: Smallest ratio to what chance gives that is of interest, either way.
    """

    path: Path
    before: Path | None = None
    smallest_lift: float = SMALLEST_LIFT
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    def table(self, name: str) -> pd.DataFrame | None:
        """Return a table of the folder, or None where there is none or it has no rows.

        Raises:
            MastlensError: If the file cannot be read.
        """
        if name not in self._tables:
            path = self.path / name
            if not path.is_file():
                return None
            self._tables[name] = read_table(path)
        table = self._tables[name]
        return table if len(table) else None

    @cached_property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        return read_record(self.path)

    def stage(self, name: str) -> dict[str, Any]:
        """Return what the record says of a stage; nothing where it has not run."""
        return self.record["stages"].get(name, {})

    def settings(self, name: str) -> dict[str, Any]:
        """Return the settings of a stage; nothing where it has not run."""
        return self.stage(name).get("settings", {})

    @cached_property
    def lineage(self) -> dict[str, str]:
        """Role of every checkpoint that any stage read, and its fingerprint."""
        fingerprints: dict[str, str] = {}
        for stage in self.record["stages"].values():
            fingerprints |= stage.get("lineage", {})
        return fingerprints

    @cached_property
    def subtitle(self) -> str:
        """The checkpoints in short, for under a figure's title."""
        return ", ".join(f"{role} {fingerprint[:8]}" for role, fingerprint in self.lineage.items())

    @cached_property
    def within(self) -> tuple["RunFolder", ...]:
        """The runs in folders directly in this one, such as the attacks on an edit, by name."""
        return tuple(RunFolder(path.parent) for path in sorted(self.path.glob(f"*/{RECORD}")))
