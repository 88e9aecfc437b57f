"""Verdicts of cards out of a table's verdict columns: only what is beyond its null and above the floor counts."""

import pandas as pd

NOTE = "below the precision floor"


def below_floor(table: pd.DataFrame) -> pd.Series:
    """Return which rows lie below the precision floor."""
    if "note" not in table:
        return pd.Series(False, index=table.index)
    return table["note"].fillna("").astype(str).str.contains(NOTE, regex=False)


def is_beyond(table: pd.DataFrame, column: str) -> pd.Series:
    """Return in which rows chance is ruled out for a column."""
    flag = f"{column}_distinguishable"
    if flag not in table:
        return pd.Series(False, index=table.index)
    return table[flag].fillna(False).astype(bool) & ~below_floor(table)


def beyond_in(table: pd.DataFrame, column: str, noun: str) -> str:
    """Return in how many rows chance is ruled out, the floor first."""
    below, count = int(below_floor(table).sum()), int(is_beyond(table, column).sum())
    floor = f"{below} of {len(table)} lie below the precision floor: nothing about them can be told from rounding. "
    which = f"Chance is ruled out in {count} of {len(table)} {noun}." if count else "Chance is ruled out in none."
    return (floor if below else "") + which


def median_of(table: pd.DataFrame, column: str, what: str) -> str:
    """Return the median beside the median of its null."""
    if not len(table):
        return ""
    return f"{table[column].median():.3f} {what} (median); chance puts {table[f'{column}_null'].median():.3f} there."


def counted(number: int, noun: str) -> str:
    """Return ``1 tensor`` or ``12 tensors``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
