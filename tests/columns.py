"""Compares the columns of written tables with what is declared of them."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import pyarrow.parquet as pq

from mastlens.columns import TABLES, Table
from mastlens.columns.column import SPLIT
from mastlens.columns.unlearning import NEEDED

PROBES = "--probe-forget --probe-retain"
"""On which the probes' columns hang."""


def declared(file: str, command: str = "") -> Table:
    """Return the declaration of a file; ``command`` tells two of one name apart."""
    found = [table for table in TABLES if table.file == file and command in table.command]
    assert len(found) == 1, f"{file} is declared {len(found)} times for {command!r}"
    return found[0]


def undeclared(columns: Iterable[str], table: Table) -> list[str]:
    """Return the columns that the table's declaration does not have."""
    names = [column.name for column in table.columns]
    pattern = "|".join(re.escape(name).replace(re.escape(SPLIT), r"\w[\w-]*") for name in names if name != NEEDED)
    others = {column.name for one in TABLES for column in one.columns} if NEEDED in names else set()
    return [name for name in columns if not re.fullmatch(pattern, name) and name not in others]


def unwritten(columns: Collection[str], table: Table, *, without: Collection[str] = ()) -> list[str]:
    """Return the declared columns that are missing; those that hang on an option in ``without`` may be."""
    missing = []
    for column in table.columns:
        pattern = re.escape(column.name).replace(re.escape(SPLIT), r"\w[\w-]*")
        if column.name != NEEDED and column.when not in without and not any(re.fullmatch(pattern, c) for c in columns):
            missing.append(column.name)
    return missing


def check_table(path: Path, command: str, *, without: Collection[str] = ()) -> None:
    """Assert that a file has the declared columns and no others."""
    columns, table = pq.read_schema(path).names, declared(path.name, command)
    assert undeclared(columns, table) == []
    assert unwritten(columns, table, without=without) == []
