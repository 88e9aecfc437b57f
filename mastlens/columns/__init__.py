"""Every column of every table that a command writes, declared once: meaning, unit, null, source.

The documentation's page of columns is written from here, ``describe_columns`` returns it, and a test compares it with
what the commands write.
"""

from typing import TYPE_CHECKING

from mastlens.columns import (
    attacks,
    depth,
    evaluation,
    increments,
    inside,
    mechanism,
    metrics,
    organisms,
    studies,
    unlearning,
)
from mastlens.columns.column import Column, Table
from mastlens.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLES", "Column", "Table", "describe_columns"]

TABLES: tuple[Table, ...] = tuple(
    table
    for part in (increments, mechanism, inside, unlearning, evaluation, metrics, depth, attacks, studies, organisms)
    for table in part.TABLES
)  # fmt: skip
"""Every table, in the order of the method."""


def describe_columns(file: str | None = None) -> "pd.DataFrame":
    """Return every column of a table, or of all: ``table``, ``column``, ``meaning``, ``unit``, ``null``, ``source``.

    ``when`` is the option without which a column is not written; empty where it always is.

    Args:
        file: A table's file name, with or without its ending, e.g. ``"geometry"``; None for all tables.

    Raises:
        UnknownName: If no command writes such a table.
    """
    import pandas as pd

    names = list(dict.fromkeys(table.file.removesuffix(".parquet") or "compare" for table in TABLES))
    wanted = None if file is None else str(file).removesuffix(".parquet")
    if wanted is not None and wanted not in names:
        raise unknown("table", wanted, names)
    rows = [
        {
            "table": table.file or "compare",
            "command": table.command,
            "column": column.name,
            "meaning": column.meaning,
            "unit": column.unit,
            "null": column.null,
            "source": column.source,
            "when": " ".join(filter(None, [table.when, column.when])),
        }
        for table in TABLES
        for column in table.columns
        if wanted in (None, table.file.removesuffix(".parquet") or "compare")
    ]
    return pd.DataFrame(rows)
