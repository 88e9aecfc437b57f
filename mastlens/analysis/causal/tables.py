"""The tables of a causal map, and how far a score agrees with them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mastlens.analysis.causal.measuring import Measured
from mastlens.analysis.causal.patching import WHOLE, Readings
from mastlens.analysis.causal.settings import DIRECTIONS
from mastlens.errors import NotFound, NotTogether, unknown
from mastlens.statistics import ratio_intervals, spearman


def patch_table(direction: str, measured: Measured, opposite: Measured) -> pd.DataFrame:
    """Return one row a patch of a direction; ``opposite`` is the model that the weights were taken from."""
    """Return one row a patch of a direction; ``opposite`` is the model that the weights were taken from."""
    first = next(iter(measured.predictions.values()))
    table = pd.DataFrame(
        {
            "direction": direction,
            "layer": [patch.projection.layer for patch in measured.patches],
            "projection": [patch.projection.projection for patch in measured.patches],
            "name": [patch.projection.name for patch in measured.patches],
            "head": [patch.head for patch in measured.patches],
            "delta_norm": first["delta_norm"],
        }
    )
    for side, readings in measured.readings.items():
        columns = _effects(side, readings)
        prediction = {f"{side}_{column}": measured.predictions[side][column] for column in ("first_order", "null_sd")}
        table = table.assign(**columns, **prediction, **_baseline(side, readings, opposite))
        if side in measured.correct:
            changes = measured.correct[side][1:] - measured.correct[side][0]
            low, high = ratio_intervals(changes, np.ones(changes.shape[1]))
            table[f"{side}_accuracy_change"] = changes.mean(axis=1)
            table[f"{side}_accuracy_change_low"], table[f"{side}_accuracy_change_high"] = low, high
    return table


def group_table(direction: str, measured: Measured, opposite: Measured) -> pd.DataFrame:
    """Return one row a group of parameters, all put in together, and one for the whole model."""
    """Return one row a group of parameters, all put in together, and one for the whole model."""
    table = pd.DataFrame({"direction": direction, "group": [*measured.groups, "all"]})
    for side, alone in measured.readings.items():
        with_group = [*(found[side] for found in measured.groups.values()), opposite.readings[side]]
        readings = Readings(
            unpatched=alone.unpatched,
            patched=np.stack([found.unpatched for found in with_group]),
            exact=alone.exact,
            patched_exact=np.stack([found.exact for found in with_group]),
            counts=alone.counts,
        )
        columns = _effects(side, readings)
        table = table.assign(**columns, **_baseline(side, alone, opposite))
    return table


def _effects(side: str, readings: Readings) -> dict[str, np.ndarray]:
    low, high = ratio_intervals(readings.differences, readings.counts)
    return {
        f"{side}_effect": readings.differences.sum(axis=1) / readings.counts.sum(),
        f"{side}_effect_low": low,
        f"{side}_effect_high": high,
        f"{side}_exact_change": (readings.patched_exact - readings.exact).mean(axis=1),
    }


def _baseline(side: str, readings: Readings, opposite: Measured) -> dict[str, float]:
    tokens = readings.counts.sum()
    return {
        f"{side}_unpatched": float(readings.unpatched.sum() / tokens),
        f"{side}_total": float((opposite.readings[side].unpatched - readings.unpatched).sum() / tokens),
    }


def rows_of(table: pd.DataFrame, direction: str, part: str) -> pd.DataFrame:
    """Return the rows of a direction and a part: whole projections, or heads."""
    """Return the rows of a direction and a part: whole projections, or heads."""
    whole = table["head"] == WHOLE
    return table[(table["direction"] == direction) & (whole if part == "projection" else ~whole)]


def rank_agreement(
    causal: pd.DataFrame,
    scores: "pd.DataFrame | Mapping[str, float]",
    *,
    direction: str = "restore",
    effect: str = "forget_effect",
    absolute: bool = True,
    seed: int = 0,
) -> dict[str, int | float]:
    """Return how far a score puts the projections in the order of their measured effects.

    Args:
        causal: ``causal_map.parquet``; its rows of whole projections are used.
        scores: Name to score; or a table with ``name`` and ``score``, such as ``ranking.parquet``.
        direction: ``restore`` or ``insert``.
        effect: The column to compare with.
        absolute: Whether the size of the effect counts and not its sign; a score says how much, not which way.
        seed: Of the permutations.

    Returns:
        ``n``, ``spearman`` and its two-sided permutation ``p_value``.

    Raises:
        MastlensError: If a score is missing, or the column or direction is not there.
    """
    if direction not in DIRECTIONS:
        raise unknown("direction", direction, DIRECTIONS)
    if effect not in causal:
        raise unknown("column in the causal map", effect, [str(column) for column in causal.columns])
    if isinstance(scores, pd.DataFrame):
        scores = dict(zip(scores["name"], scores["score"], strict=True))
    rows = rows_of(causal, direction, "projection")
    if rows.empty:
        raise NotFound(f"The causal map has no rows of the direction '{direction}'.")
    if missing := [name for name in rows["name"] if name not in scores]:
        raise NotTogether(
            f"There is no score for {missing[0]} ({len(missing)} of {len(rows)} are missing). Causal map and "
            "scores must be about the same model."
        )
    effects = rows[effect].to_numpy()
    return spearman(np.abs(effects) if absolute else effects, np.array([scores[n] for n in rows["name"]]), seed=seed)
