"""Numbers in sentences: with their intervals, and plainly where they cannot be told from chance."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from mastlens.statistics import claim


def points(difference: float, low: float, high: float) -> str:
    """Return a difference of fractions in percentage points with its interval: ``−3.1 [−5.0, −1.2] points``."""
    return f"{signed(100 * difference, 1)} {interval(100 * low, 100 * high, 1)} points"


def share(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """Return a fraction as a percentage, with its interval where there is one: ``41.0 % [33.1, 49.2]``."""
    ends = f" [{plain(100 * low, 1)}, {plain(100 * high, 1)}]" if low == low and high == high else ""
    return f"{plain(100 * value, 1)} %{ends}"


def interval(low: float, high: float, digits: int) -> str:
    """Return an interval of signed numbers."""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def signed(value: float, digits: int) -> str:
    """Return a number with its sign; what rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def plain(value: float, digits: int) -> str:
    """Return a number with a real minus."""
    return f"{value:.{digits}f}".replace("-", "−")


def p_value(p: float) -> str:
    """Return a p-value for a sentence: ``p = 0.031``, ``p < 0.0001``."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def listed(names: Iterable[object], joint: str = "and") -> str:
    """Return names as one reads them: ``a``, ``a and b``, ``a, b and c``."""
    *first, last = [*map(str, names)] or [""]
    return f"{', '.join(first)} {joint} {last}" if first else last


def out_of(count: int, of: int, noun: str) -> str:
    """Return ``none of 32 projections``, ``all 32 projections`` or ``5 of 32 projections``."""
    if of == 1:
        return f"{'the only' if count else 'not the only'} {noun}"
    return {0: f"none of {of:,} {noun}s", of: f"all {of:,} {noun}s"}.get(count, f"{count:,} of {of:,} {noun}s")


def beside_null(table: pd.DataFrame, measures: Sequence[tuple[str, str]], keys: Sequence[str] = ()) -> pd.DataFrame:
    """Return every measure beside its null: medians, and in how many rows chance is ruled out, and which way.

    Args:
        table: Has for a measure X the columns ``X``, ``X_null`` and ``X_distinguishable``; what it lacks is left out.
        measures: Column and what to call it.
        keys: Columns to group by, such as ``increment``.

    Returns:
        The keys, ``measure``, ``median``, ``chance`` (the median null), ``n``, ``above chance``, ``below chance``; how
        many both have ``by chance alone``, how many hold together ``at 5 % (Holm)``, the geometric mean of the ``lift``
        over chance with its 95 % interval over rows, and the rows ``below the floor``.
    """
    rows = []
    groups = table.groupby(list(keys), sort=False) if keys else [((), table)]
    for values, group in groups:
        for column, label in measures:
            if not {column, f"{column}_null", f"{column}_distinguishable"} <= set(group):
                continue
            known = group[group[column].notna() & group[f"{column}_null"].notna()]
            if known.empty:
                continue
            found = claim(known, column)
            rows.append(
                {
                    **dict(zip(keys, values, strict=True)),
                    "measure": label,
                    "median": float(known[column].median()),
                    "chance": float(known[f"{column}_null"].median()),
                    "n": len(known),
                    "above chance": found.above,
                    "below chance": found.below,
                    "by chance alone": found.by_chance,
                    "at 5 % (Holm)": found.together,
                    "lift": found.lift,
                    "lift low": found.lift_interval.low,
                    "lift high": found.lift_interval.high,
                    "below the floor": found.floor,
                }
            )
    return pd.DataFrame(rows)
