"""Every score that a map can show: in which table it stands, what chance gives, and how it is called."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mastlens.statistics import BELOW, Claim, beyond_chance, claim, lift

COLUMNS = ("layer", "projection", "name")
MOST_DOUBLINGS = 10.0
"""Where lifts end: a thousandfold."""


@dataclass(frozen=True)
class Score:
    """A number that every projection has.

    Attributes:
        key: Short name.
        label: What it is called, with its unit.
        table: The table it stands in (file name without ending).
        column: Its column there.
        chance: Column of what chance gives; empty where there is none.
        beyond: Column that says whether the value is beyond chance; ``interval`` for an interval that leaves 0 out;
            empty where nothing says it.
        signed: Whether 0 is the middle.
        rows: Which rows of the table: column to value.
        unit: The value is divided by this to be in the label's unit.
        floor: Column of the precision floor that the value itself has to be above; empty where there is none.
        doublings: Whether it is the lift of the column over ``chance``, in doublings: 0 is as chance. Of shares near 1
            it is that of what they leave, see ``statistics.lift``.
        family: Scores of one family have one range of colours, so that their maps can be compared.
    """

    key: str
    label: str
    table: str
    column: str
    chance: str = ""
    beyond: str = ""
    signed: bool = False
    rows: tuple[tuple[str, str | int], ...] = ()
    unit: float = 1.0
    floor: str = ""
    doublings: bool = False
    family: str = ""


def _geometry(key: str, label: str, increment: str, *, column: str = "", signed: bool = False) -> Score:
    column = column or key
    return Score(
        f"{key}_{increment}" if increment == "sft" else key,
        f"{label}, {increment.upper()} increment",
        "geometry",
        column,
        f"{column}_null",
        f"{column}_distinguishable",
        signed,
        (("increment", increment),),
        family=column,
    )


def _lift(increment: str) -> Score:
    return Score(
        "lift_sft" if increment == "sft" else "lift",
        f"energy inside the principal subspaces over chance, {increment.upper()} increment",
        "geometry",
        "off_principal",
        "off_principal_null",
        "off_principal_distinguishable",
        True,
        (("increment", increment),),
        doublings=True,
        family="lift",
    )


def _of_increment(increment: str) -> tuple[Score, ...]:
    suffix = "_sft" if increment == "sft" else ""
    rows = (("increment", increment),)
    name = increment.upper()
    return (
        _geometry("off_principal", "off-principal energy (share of |Δ|²)", increment),
        Score(
            f"off_principal_z{suffix}",
            f"off-principal energy, sd from chance, {name} increment",
            "geometry",
            "off_principal_z",
            "",
            "off_principal_distinguishable",
            True,
            rows,
            family="off_principal_z",
        ),
        Score(
            f"delta_norm{suffix}",
            f"|Δ| (Frobenius), {name} increment",
            "geometry",
            "delta_norm",
            rows=rows,
            floor="precision_floor",
            family="delta_norm",
        ),
        Score(
            f"relative_norm{suffix}",
            f"|Δ| / |W|, {name} increment",
            "geometry",
            "relative_norm",
            rows=rows,
            family="relative_norm",
        ),
        _geometry("stable_rank", "stable rank", increment),
        _geometry("spectral_shift", "normalised spectral shift", increment),
        _geometry("angle_left_max_deg", "largest left principal angle (degrees)", increment),
        _geometry("angle_right_max_deg", "largest right principal angle (degrees)", increment),
    )


def _effect(side: str, direction: str) -> Score:
    did = "SFT weights put back" if direction == "restore" else "RLVR weights put into SFT"
    return Score(
        f"{side}_effect" if direction == "restore" else f"{side}_effect_insert",
        f"{side} effect, {did} (10⁻³ nats per token)",
        "causal_map",
        f"{side}_effect",
        "",
        "interval",
        True,
        (("direction", direction), ("head", -1)),
        1e-3,
        family="effect",
    )


def _cosine(side: str) -> Score:
    label = f"cosine of {side} gradient and increment"
    told = f"{side}_above_chance"
    return Score(f"{side}_cosine", label, "coupling", f"{side}_cosine", "cosine_null", told, True, family="cosine")


SCORES: tuple[Score, ...] = (
    _lift("rlvr"),
    _effect("forget", "restore"),
    _effect("retain", "restore"),
    Score("score", "rank score of the selection rule", "ranking", "score"),
    *_of_increment("rlvr"),
    _cosine("forget"),
    _cosine("retain"),
    Score(
        "forget_retain_cosine", "cosine of forget and retain gradient", "coupling", "forget_retain_cosine", signed=True
    ),
    _effect("forget", "insert"),
    _effect("retain", "insert"),
    _lift("sft"),
    *_of_increment("sft"),
)
"""In the order in which they are offered; the first that a run has is shown first."""


def available_scores(tables: Mapping[str, pd.DataFrame]) -> dict[str, Score]:
    """Return key to score of every score that the tables hold."""
    return {score.key: score for score in SCORES if score.table in tables and len(_rows(tables, score))}


def score_table(tables: Mapping[str, pd.DataFrame], score: Score) -> pd.DataFrame:
    """Return one row a projection.

    Columns: ``layer``, ``projection``, ``name``, ``value``, ``chance``, ``beyond_chance``, ``below_floor`` and
    ``floor``. ``chance`` and ``floor`` are NaN and ``beyond_chance`` missing where nothing says it; of what lies below
    the precision floor nothing can be told. For effects there are ``low`` and ``high``, the ends of the 95 % interval,
    too.
    """
    rows = _rows(tables, score)
    table = rows[list(COLUMNS)].reset_index(drop=True)
    value, chance = (
        rows[column].to_numpy(float) / score.unit if column in rows else np.full(len(rows), np.nan)
        for column in (score.column, score.chance)
    )
    if score.doublings:
        with np.errstate(divide="ignore"):
            doublings = np.log2(lift(score.column, value, chance))
        # Beyond a thousandfold either way colours tell nothing more; no energy at all inside would be endless.
        value, chance = np.clip(doublings, -MOST_DOUBLINGS, MOST_DOUBLINGS), np.zeros(len(rows))
    table["value"], table["chance"] = value, chance
    table["floor"] = rows[score.floor].to_numpy(float) if score.floor in rows else np.nan
    table["below_floor"] = (rows["note"] == BELOW).to_numpy() if "note" in rows else False
    if score.floor in rows:
        table["below_floor"] |= value <= table["floor"].to_numpy(float)
    beyond: np.ndarray | None = None
    if score.beyond == "interval":
        low, high = (rows[f"{score.column}_{end}"].to_numpy(float) / score.unit for end in ("low", "high"))
        table["low"], table["high"] = low, high
        beyond = (low > 0) | (high < 0)
    elif score.beyond in rows:
        beyond = beyond_chance(rows, _judged(score))
    table["beyond_chance"] = pd.array([pd.NA] * len(table) if beyond is None else beyond, dtype="boolean")
    return table


def score_claim(tables: Mapping[str, pd.DataFrame], score: Score) -> Claim | None:
    """Return what the verdicts of a score add up to, or None where its table has none."""
    rows = _rows(tables, score)
    return claim(rows, _judged(score)) if score.beyond in rows else None


def score_range(tables: Mapping[str, pd.DataFrame], scores: Mapping[str, Score], score: Score) -> np.ndarray:
    """Return the values of all scores of a score's family: what its colours range over.

    Of lifts, those below the precision floor are left out: nothing can be told of them.
    """
    family = [one for one in scores.values() if one is score or (one.family and one.family == score.family)]
    found = [(one, score_table(tables, one)) for one in family]
    return np.concatenate([t.loc[~(t["below_floor"] & one.doublings), "value"].to_numpy(float) for one, t in found])


def _judged(score: Score) -> str:
    """Return the column that a score's verdict is about."""
    column, verdict, _ = score.beyond.partition("_distinguishable")
    return column if verdict else score.column


def _rows(tables: Mapping[str, pd.DataFrame], score: Score) -> pd.DataFrame:
    table = tables[score.table]
    if score.column not in table.columns:
        return table.iloc[:0]
    chosen = table[score.column].notna()
    if score.doublings:
        if score.chance not in table.columns:
            return table.iloc[:0]
        chosen &= table["delta_norm"] > 0  # a zero increment has no direction
    for column, value in score.rows:
        if column in table.columns:
            chosen &= table[column] == value
    return table[chosen]
