"""Every score that a map can show: in which table it stands, what chance gives, and how it is called."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mastlens.statistics import beyond_chance

COLUMNS = ("layer", "projection", "name")


@dataclass(frozen=True)
class Score:
    """A number that every projection has.

    Attributes:
        key: Short name.
        label: What it is called, with its unit.
        table: The table it stands in (file name without ending).
        column: Its column there.
        chance: Column of what chance gives; empty where there is none.
        beyond: Column that says whether the value is beyond chance; ``interval`` for an interval that leaves 0 out,
            ``floor`` for a value above what chance gives; empty where nothing says it.
        signed: Whether 0 is the middle.
        rows: Which rows of the table: column to value.
        unit: The value is divided by this to be in the label's unit.
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
        ),
        Score(
            f"delta_norm{suffix}",
            f"|Δ| (Frobenius), {name} increment",
            "geometry",
            "delta_norm",
            "precision_floor",
            "floor",
            rows=rows,
        ),
        Score(f"relative_norm{suffix}", f"|Δ| / |W|, {name} increment", "geometry", "relative_norm", rows=rows),
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
    )


def _cosine(side: str) -> Score:
    label = f"cosine of {side} gradient and increment"
    return Score(f"{side}_cosine", label, "coupling", f"{side}_cosine", "cosine_null", f"{side}_above_chance", True)


SCORES: tuple[Score, ...] = (
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
    *_of_increment("sft"),
)
"""In the order in which they are offered; the first that a run has is shown first."""


def available_scores(tables: Mapping[str, pd.DataFrame]) -> dict[str, Score]:
    """Return key to score of every score that the tables hold."""
    return {score.key: score for score in SCORES if score.table in tables and len(_rows(tables, score))}


def score_table(tables: Mapping[str, pd.DataFrame], score: Score) -> pd.DataFrame:
    """Return one row a projection: ``layer``, ``projection``, ``name``, ``value``, ``chance``, ``beyond_chance``.

    ``chance`` is NaN and ``beyond_chance`` missing where nothing says it. For effects there are ``low`` and ``high``,
    the ends of the 95 % interval, too.
    """
    rows = _rows(tables, score)
    table = rows[list(COLUMNS)].reset_index(drop=True)
    value = rows[score.column].to_numpy(float) / score.unit
    table["value"] = value
    table["chance"] = rows[score.chance].to_numpy(float) if score.chance in rows else np.nan
    beyond: np.ndarray | None = None
    if score.beyond == "interval":
        low, high = (rows[f"{score.column}_{end}"].to_numpy(float) / score.unit for end in ("low", "high"))
        table["low"], table["high"] = low, high
        beyond = (low > 0) | (high < 0)
    elif score.beyond == "floor":
        beyond = value > table["chance"].to_numpy(float)
    elif score.beyond in rows:
        column, verdict, _ = score.beyond.partition("_distinguishable")
        beyond = beyond_chance(rows, column if verdict else score.column)
    table["beyond_chance"] = pd.array([pd.NA] * len(table) if beyond is None else beyond, dtype="boolean")
    return table


def _rows(tables: Mapping[str, pd.DataFrame], score: Score) -> pd.DataFrame:
    table = tables[score.table]
    if score.column not in table.columns:
        return table.iloc[:0]
    chosen = table[score.column].notna()
    for column, value in score.rows:
        if column in table.columns:
            chosen &= table[column] == value
    return table[chosen]
