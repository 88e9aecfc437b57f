"""What a table's verdict columns add up to: how many rows are beyond chance, how many chance alone gives, and how far.

Whoever says at first glance what a table holds (a figure's title, the report's verdict, a card, the last line of a
command) says it through ``claim``. A row counts where its own verdict says so *and* it does not lie below the precision
floor. Of many rows, some are beyond chance by chance: the level of the whole table is Holm's, where rows have p-values;
what is judged over its table from the start (cosines, coefficients) keeps that level, Bonferroni's.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mastlens.statistics.intervals import NONE, Interval
from mastlens.statistics.means import mean_interval
from mastlens.statistics.significance import holm

BELOW = "below the precision floor"
"""What a table's ``note`` says of an increment that is not larger than what rounding alone gives."""
ZERO = "zero increment"
"""What a table's ``note`` says of an increment that is zero."""

LEVEL = 0.001
"""Two-sided p below which one row counts as beyond chance: a tenth of a false alarm among 112."""
TABLE_LEVEL = 0.05
"""Chance that a table in which there is nothing to be found is said to hold something."""
SMALLEST_LIFT = 1.1
"""Smallest ratio to what chance gives that is of interest, either way; nearer to 1 is too small to matter."""
SMALLEST_DIFFERENCE = 0.02
"""Smallest difference of two shares that is of interest: two items of a hundred."""
HOLM, BONFERRONI, NUMBER = "Holm, 5 %", "Bonferroni, 5 %", "by their number, 5 %"
"""How rows are judged together: ``Claim.level``."""
_NEAR_ONE = ("off_principal", "explained_variance", "linearity")


@dataclass(frozen=True)
class Claim:
    """What a column's verdicts add up to.

    Attributes:
        of: Rows that could have been beyond chance: measured, and not below the floor.
        floor: Rows below the precision floor, of which nothing can be told.
        above: Rows beyond chance and above it.
        below: Rows beyond chance and below it.
        together: Rows that hold together at ``TABLE_LEVEL``.
        level: How that was judged: ``HOLM``; ``BONFERRONI`` where verdicts are over their table already; ``NUMBER``
            without p-values: all or none of them, by how seldom chance alone gives as many (Poisson).
        by_chance: Rows that chance alone gives on average.
        small: Rows beyond chance whose lift is too small to matter; 0 where no lift is known.
        lift: Geometric mean of the lift over all rows that could have been beyond chance; NaN where none is known.
        lift_interval: 95 % interval of it over these rows.
        smallest: Smallest lift of interest, either way.
    """

    of: int
    floor: int
    above: int
    below: int
    together: int
    level: str
    by_chance: float
    small: int
    lift: float
    lift_interval: Interval
    smallest: float

    @property
    def beyond(self) -> int:
        """Rows beyond chance."""
        return self.above + self.below

    @property
    def holds(self) -> bool:
        """Whether the table as a whole says more than chance does."""
        return self.together > 0

    @property
    def matters(self) -> bool:
        """Whether any row is beyond chance by as much as is of interest."""
        return self.holds and self.small < self.beyond

    def sentence(self, noun: str) -> str:
        """Return it in words, without a full stop: what a headline may say.

        Args:
            noun: What a row is, in the singular.
        """
        if not self.of:
            return f"no {noun} can be told from rounding" if self.floor else f"no {noun} was measured"
        rows = f"{self.of:,} {noun}" + "s" * (self.of != 1)
        if not self.beyond:
            return f"none of {rows} is beyond chance"
        alone = f"chance alone gives about {self.by_chance:.1g}"
        if not self.holds:
            return f"none of {rows} is beyond chance over the table ({self.level}): {self.beyond} by itself, {alone}"
        said = f"{self.beyond:,} of {rows} {'is' if self.beyond == 1 else 'are'} beyond chance ({alone}"
        said += ")" if self.together >= self.beyond else f"; {self.together:,} at 5 % over the table, Holm)"
        if self.small == self.beyond:
            return said + f", and too small to matter (within {self.smallest:g} times of it)"
        return said + (f", {self.small:,} of them too small to matter" if self.small else "")


def equivalence(interval: Interval, inner: Interval, smallest: float) -> str:
    """Return what a difference with its interval amounts to, beside the smallest one of interest.

    Two one-sided tests at 5 % each: a difference is told to be too small to matter where its 90 % interval lies within
    +-``smallest`` (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15, 657).

    Args:
        interval: Of the difference, at 95 %.
        inner: Of the same, at 90 %.
        smallest: Smallest difference of interest.

    Returns:
        ``changed``; ``changed, too little to matter``; ``no change that matters``; ``undecided``: too few items to tell
        a change from none, or none from one that matters. Empty where there is no interval.
    """
    if math.isnan(interval.low):
        return ""
    apart, within = interval.low > 0 or interval.high < 0, -smallest < inner.low and inner.high < smallest
    if apart:
        return "changed, too little to matter" if within else "changed"
    return "no change that matters" if within else "undecided"


def verdict_columns(column: str, columns: pd.Index | list[str]) -> list[str]:
    """Return the columns of a table that ``beyond_chance`` and ``claim`` read beside ``column``."""
    named = _Names.of(column, columns)
    return [name for name in (named.told, *named.p, named.null, "note") if name in set(columns)]


def beyond_chance(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return which rows are beyond chance by their own verdict: none below the precision floor, none not measured.

    Args:
        table: Has ``X_distinguishable`` (of a cosine ``SIDE_above_chance``, of a spectrum's coefficient
            ``above_chance``, of a Jaccard overlap ``distinguishable``), and ``note`` where there is a floor.
        column: X.
    """
    told = table[_Names.of(column, table.columns).told].fillna(False).to_numpy(dtype=bool)
    return told & ~_floor(table) & table[column].notna().to_numpy()


def claim(table: pd.DataFrame, column: str, *, smallest: float = SMALLEST_LIFT) -> Claim:
    """Return what the verdicts of one column add up to.

    Args:
        table: As ``beyond_chance`` takes it; with ``X_p`` the level over the table is Holm's, with ``X_null`` the lift
            is known.
        column: X, e.g. ``off_principal``, ``forget_cosine``.
        smallest: Smallest lift of interest, either way.
    """
    floor, beyond = _floor(table), beyond_chance(table, column)
    open_to = ~floor & table[column].notna().to_numpy()
    of, named = int(open_to.sum()), _Names.of(column, table.columns)
    nowhere = pd.Series(0.0 if named.over_table else np.nan, index=table.index)
    null = table.get(named.null, nowhere).to_numpy(dtype=float)
    value = table[column].to_numpy(dtype=float)
    above = beyond & ~(value < null)
    by_chance = TABLE_LEVEL if named.over_table else of * LEVEL
    if named.over_table:
        together, level = int(beyond.sum()), BONFERRONI
    elif named.p and set(named.p) <= set(table):
        p = table.loc[open_to, list(named.p)].dropna().max(axis=1).to_numpy(dtype=float)  # beyond every null
        together, level = int((holm(p) <= TABLE_LEVEL).sum()), HOLM
    else:
        seldom = float(stats.poisson.sf(int(beyond.sum()) - 1, by_chance))
        together, level = int(beyond.sum()) if seldom <= TABLE_LEVEL else 0, NUMBER
    lifts = lift(column, value, null)
    logs = np.log(np.where(np.isfinite(lifts) & (lifts > 0), lifts, np.nan))
    known = logs[open_to & ~np.isnan(logs)]
    ends = mean_interval(known) if known.size else NONE
    return Claim(
        of=of,
        floor=int(floor.sum()),
        above=int(above.sum()),
        below=int((beyond & ~above).sum()),
        together=min(together, int(beyond.sum())),
        level=level,
        by_chance=by_chance,
        small=int((np.abs(logs[beyond]) < math.log(smallest)).sum()),
        lift=float(np.exp(known.mean())) if known.size else math.nan,
        lift_interval=Interval(float(np.exp(ends.low)), float(np.exp(ends.high))),
        smallest=smallest,
    )


def lift(column: str, value: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return how many times what chance gives a reading is; of shares near 1, what they leave.

    ``off_principal`` lies near 1 whatever happens, so what is compared is the energy inside; what one direction in time
    explains of a run lies there, too, and so does R² of its line.

    Args:
        column: What was read.
        value: The readings.
        null: What chance gives for each.
    """
    outside = column.startswith(_NEAR_ONE)
    value, null = (np.asarray(x, dtype=float) for x in (value, null))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (1 - value) / (1 - null) if outside else value / null


@dataclass(frozen=True)
class _Names:
    """Where a table says what chance says of a column.

    Attributes:
        told: Its verdict.
        p: The p-values beside every null; a row is as far out as the largest says.
        null: What chance gives; empty for 0.
        over_table: Whether verdicts allow for all rows of the table already.
    """

    told: str
    p: tuple[str, ...]
    null: str
    over_table: bool = False

    @classmethod
    def of(cls, column: str, columns: pd.Index | list[str]) -> "_Names":
        told = f"{column}_distinguishable"
        if column == "coefficient":
            return cls("above_chance", ("p",), "", True)
        if column.endswith("_cosine") and told not in set(columns):
            return cls(f"{column.removesuffix('_cosine')}_above_chance", (f"{column}_p",), "", True)
        if column == "jaccard":
            return cls("distinguishable", ("p", "p_matched"), "jaccard_matched_null")
        null = next((f"{column}_{end}" for end in ("null", "adamw") if f"{column}_{end}" in set(columns)), "")
        return cls(told, (f"{column}_p",), null)


def _floor(table: pd.DataFrame) -> np.ndarray:
    return (table["note"] == BELOW).to_numpy() if "note" in table else np.zeros(len(table), dtype=bool)
