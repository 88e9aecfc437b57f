"""Verdicts of cards out of a table's verdict columns: only what is beyond its null and above the floor counts."""

import pandas as pd

from mastlens.statistics import BELOW, beyond_chance, claim, verdict_columns


def below_floor(table: pd.DataFrame) -> pd.Series:
    """Return which rows lie below the precision floor."""
    return table["note"] == BELOW if "note" in table else pd.Series(False, index=table.index)


def is_beyond(table: pd.DataFrame, column: str) -> pd.Series:
    """Return in which rows chance is ruled out for a column; in none where the table has no verdict of it."""
    if not _judged(table, column):
        return pd.Series(False, index=table.index)
    return pd.Series(beyond_chance(table, column), index=table.index)


def _judged(table: pd.DataFrame, column: str) -> bool:
    ends = ("distinguishable", "above_chance")
    return any(name.endswith(ends) for name in verdict_columns(column, table.columns))


def beyond_in(table: pd.DataFrame, column: str, noun: str) -> str:
    """Return in how many rows chance is ruled out, the floor first.

    Args:
        table: Has the column's verdict.
        column: The column.
        noun: What a row is, in the singular.
    """
    below = int(below_floor(table).sum())
    floor = f"{below} of {len(table)} lie below the precision floor: nothing about them can be told from rounding. "
    said = claim(table, column).sentence(noun) if _judged(table, column) else "chance is not known"
    return (floor if below else "") + f"{said[0].upper()}{said[1:]}."


def median_of(table: pd.DataFrame, column: str, what: str) -> str:
    """Return the median beside the median of its null."""
    if not len(table):
        return ""
    return f"{table[column].median():.3f} {what} (median); chance puts {table[f'{column}_null'].median():.3f} there."


def counted(number: int, noun: str) -> str:
    """Return ``1 tensor`` or ``12 tensors``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
