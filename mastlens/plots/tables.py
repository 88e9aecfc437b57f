"""Tables in and out of figures: checked, read with plain types, and kept in the figure.

pandas says of almost nothing whether it is a table, a column or a number; the small readers here do, so that
the figures can be checked by a type checker.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.errors import BadSetting, NotFound, NotTogether

if TYPE_CHECKING:
    import plotly.graph_objects as go


class NothingToDraw(NotFound):
    """A table is what it should be, and has nothing in it.

    Attributes:
        why: What is missing, in a few words.
    """

    def __init__(self, why: str, message: str):
        super().__init__(message)
        self.why = why


def need(table: pd.DataFrame, columns: Iterable[str], *, figure: str, writer: str) -> None:
    """Refuse a table that a figure cannot draw.

    Args:
        table: The table that was handed in.
        columns: The columns the figure cannot do without.
        figure: The figure function's name, for the message.
        writer: What writes such a table, e.g. ``"mastlens geometry"``.

    Raises:
        NothingToDraw: When it has no rows, or no value in any of the columns of numbers.
        MastlensError: When it is not a table, or lacks a column.
    """
    columns = list(columns)
    wanted = ", ".join(columns)
    if not isinstance(table, pd.DataFrame):
        raise BadSetting(
            f"{figure} takes a pandas DataFrame, not {type(table).__name__}. It needs the columns {wanted}; "
            f"{writer} writes such a table."
        )
    missing = [column for column in columns if column not in table.columns]
    if missing:
        have = ", ".join(map(str, table.columns)) or "none at all"
        raise NotFound(
            f"{figure} needs the column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}, which "
            f"this table does not have. It needs: {wanted}. The table has: {have}. "
            f"{writer} writes such a table."
        )
    if table.empty:
        raise NothingToDraw(
            "the table has no rows",
            f"{figure} was given a table without rows, so there is nothing to draw. It needs the columns "
            f"{wanted}; {writer} writes such a table.",
        )
    measured = [column for column in columns if pd.api.types.is_float_dtype(table[column].dtype)]
    if measured and not any(table[column].notna().any() for column in measured):
        raise NothingToDraw(
            "every value is missing",
            f"{figure} was given a table in which {', '.join(measured)} are missing in all of {len(table):,} rows.",
        )


def need_unique(table: pd.DataFrame, keys: list[str], *, figure: str) -> None:
    """Refuse a table with several rows for one key: one would silently hide the other."""
    twice = table.duplicated(keys)
    if twice.any():
        second = where(table, twice)
        place = ", ".join(f"{key} {words(second, key)[0]}" for key in keys)
        raise NotTogether(f"{figure} takes one row for each {' and '.join(keys)}, but has several for {place}.")


def take(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return a copy with these columns, each once."""
    return pd.DataFrame(table[list(dict.fromkeys(columns))]).reset_index(drop=True)


def where(table: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """Return the rows that the mask chooses."""
    return pd.DataFrame(table[np.asarray(mask, dtype=bool)])


def rows_with(table: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """Return the rows that have this text in a column."""
    return where(table, [found == value for found in words(table, column)])


def ordered(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows in the order of these columns; equal rows keep theirs."""
    return table.sort_values(by=list(columns), kind="stable", ignore_index=True)


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as floats; what is missing is NaN."""
    return np.asarray(pd.to_numeric(pd.Series(table[column])), dtype=float)


def every_few(rows: int, most: int) -> int:
    """Return the step at which so many rows have to be taken for at most ``most`` of them to be drawn; 1 for all."""
    return max(1, -(-rows // most))


def flags(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as booleans."""
    return np.asarray(table[column], dtype=bool)


def told_from_zero(table: pd.DataFrame) -> pd.Series:
    """Return whether the interval of a score leaves out zero, row by row; of scores without one nothing is told."""
    if not {"score_low", "score_high"} <= set(table):
        return pd.Series(False, index=table.index)
    return (table["score_low"] > 0) | (table["score_high"] < 0)


def words(table: pd.DataFrame, column: str) -> list[str]:
    """Return a column as strings."""
    return [str(value) for value in table[column].tolist()]


def distinct(table: pd.DataFrame, column: str) -> list[str]:
    """Return a column's different values as strings, in order of appearance."""
    return list(dict.fromkeys(words(table, column)))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dictionary a row."""
    columns = [str(column) for column in table.columns]
    cells = [table[column].tolist() for column in table.columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]


def layout_of(fig: "go.Figure") -> Any:
    """Return the layout; plotly builds its attributes at run time, so no type describes them."""
    return fig.layout


def _safe(value: Any) -> Any:
    """Return the value as JSON can hold it; NaN, infinity and missing values become None."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return None if value is None or value is pd.NA or value is pd.NaT else str(value)


def packed(table: pd.DataFrame) -> dict[str, Any]:
    """Return the table as JSON can hold it."""
    # Column by column, not row by row: a spectrum has thousands of rows, and records repeat every name.
    return {
        "columns": [str(column) for column in table.columns],
        "dtypes": [str(table[column].dtype) for column in table.columns],
        "values": [[_safe(value) for value in table[column].tolist()] for column in table.columns],
    }


def figure_table(fig: "go.Figure") -> pd.DataFrame:
    """Return the tidy table that a figure of this package was drawn from.

    Args:
        fig: A figure that one of the ``plot_`` functions made, or one read back from its JSON.

    Returns:
        A new table, computed columns included. Infinite values come back as missing.
    """
    meta = layout_of(fig).meta
    if not isinstance(meta, dict) or "table" not in meta:
        raise BadSetting("This figure carries no table: only figures made by the plot_ functions of mastlens do.")
    kept = meta["table"]
    table = pd.DataFrame(dict(zip(kept["columns"], kept["values"], strict=True)))
    for column, dtype in zip(kept["columns"], kept["dtypes"], strict=True):
        if dtype.startswith(("float", "bool", "int", "uint")):
            table[column] = table[column].astype(dtype)
    return table
