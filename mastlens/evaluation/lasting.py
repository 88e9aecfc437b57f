"""Does forgetting stay? Each attack on an edit in one row, and a sentence on the edit that counts only what is told.

A reading is one attack at one variant and step. What it brought back counts beyond what the same attack taught a model
that has nothing to come back: the reference, retrained without it, or else a control without the skill.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mastlens.evaluation.aftermath import GIVEN_SOURCE, attack_files
from mastlens.runs.reading import read_table
from mastlens.statistics import Interval, paired_interval, ratio_interval, recovered_share

EDITED, SOURCE, CONTROL, REFERENCE = "edited", "source", "control", "reference"
COLUMNS = (
    *("arm", "attack", "variant", "step", "readings", "null", "n", "forgotten", "forgotten_low", "forgotten_high"),
    *("retain_kept", "retain_kept_low", "retain_kept_high", "came_back", "came_back_low", "came_back_high"),
    *("beyond_chance", "first_step"),
)


@dataclass(frozen=True)
class Lasting:
    """What attacks on an edit found.

    Attributes:
        rows: One row for the edit as it is, and one an attack, at the reading that brought most back (``COLUMNS``).
        verdict: What that comes to, in one sentence.
    """

    rows: list[dict[str, Any]]
    verdict: str


def lasting(
    arm: str, folder: Path, source: pd.DataFrame, edited: pd.DataFrame, sides: Mapping[str, Sequence[str]]
) -> Lasting:
    """Read the attacks in an edit's folder.

    Something came back where the interval of its share of what was forgotten, at a level corrected for the number of
    readings (Bonferroni), lies above 0.

    Args:
        arm: The edit's label.
        folder: Its evaluation folder, with attacks in it or in folders of it.
        source: The source's items: ``split`` (the side), ``item``, ``correct``.
        edited: The same of the edit.
        sides: ``forget`` and ``retain`` to their splits.
    """
    was, now = (_by_side(table) for table in (source, edited))
    plain = {"arm": arm, "attack": "", "variant": "", "step": 0, "readings": 0, "null": ""}
    rows = [{**plain, **_kept(was, now), **_nothing_back()}]
    cells = _cells(folder, sides)
    attacks = {cell[0]: [] for cell in cells}
    for attack, model, variant, step, baseline, side in cells:
        if model == EDITED and side == "forget" and not baseline:
            attacks[attack].append((variant, step))
    readings = sum(len(places) for attack, places in attacks.items() if attack not in GIVEN_SOURCE)
    tried = {attack: places for attack, places in attacks.items() if places}
    found = [_attacked(attack, places, cells, was, max(readings, len(places))) for attack, places in tried.items()]
    rows += [{"arm": arm, **row} for row in found if row is not None]
    return Lasting(rows, _verdict(rows, cells, readings))


def _by_side(table: pd.DataFrame) -> dict[str, pd.Series]:
    return {str(side): rows.groupby("item")["correct"].mean() for side, rows in table.groupby("split", sort=False)}


Cells = Mapping[tuple[str, str, str, int, bool, str], pd.Series]
"""Attack, model, variant, step, baseline, side to what each item counts for."""


def _cells(folder: Path, sides: Mapping[str, Sequence[str]]) -> Cells:
    side_of = {split: side for side, splits in sides.items() for split in splits}
    cells: dict[tuple[str, str, str, int, bool, str], pd.Series] = {}
    for path in attack_files(folder):
        table = read_table(path)
        table = table[table["split"].isin(list(side_of))]
        right = table["correct"].astype(float)
        if "rate" in table:
            right = table["rate"].where(table["rate"].notna(), right)
        table = table.assign(
            right=right,
            side=table["split"].map(side_of),
            item=table["split"].astype(str) + " " + table["item"].astype(str),
        )
        keys = ["attack", "model", "variant", "step", "baseline", "side"]
        for key, rows in table.groupby(keys, sort=False):
            attack, model, variant, step, baseline, side = key
            place = (str(attack), str(model), str(variant), int(step), bool(baseline), str(side))
            cells[place] = rows.groupby("item")["right"].mean()
    return cells


def _start(cells: Cells, attack: str, model: str, side: str) -> pd.Series | None:
    """Return a model's items without the attack."""
    return next((c for k, c in cells.items() if k[:2] == (attack, model) and k[4] and k[5] == side), None)


def _kept(was: Mapping[str, pd.Series], now: Mapping[str, pd.Series | None]) -> dict[str, Any]:
    """Return what stays forgotten, in shares of the items, and what share of the source's retain accuracy is kept."""
    old, new = _paired(was["forget"], now.get("forget"))
    ends = paired_interval(new, old) if len(old) else Interval(math.nan, math.nan)
    row: dict[str, Any] = {"n": len(old), "forgotten": float(np.mean(old - new)) if len(old) else math.nan}
    row |= {"forgotten_low": ends.low, "forgotten_high": ends.high}
    old, new = _paired(was["retain"], now.get("retain"))
    share, ends = math.nan, Interval(math.nan, math.nan)
    if len(old) and old.sum() > 0:
        # Items that the source gets wrong count in neither sum's favour: the ratio is of the two accuracies.
        share, ends = float(new.sum() / old.sum()), _ratio(new, old)
    return {**row, "retain_kept": share, "retain_kept_low": ends.low, "retain_kept_high": ends.high}


def _ratio(new: np.ndarray, old: np.ndarray) -> Interval:
    """Return the interval of sum(new) / sum(old), linearised: that of mean(new - share * old) over mean(old)."""
    share, scale = new.sum() / old.sum(), old.mean()
    ends = ratio_interval(new - share * old, np.ones_like(old))
    return Interval(share + ends.low / scale, share + ends.high / scale)


def _paired(one: pd.Series, other: pd.Series | None) -> tuple[np.ndarray, np.ndarray]:
    if other is None:
        return np.zeros(0), np.zeros(0)
    shared = [item for item in other.index if item in one.index]
    return one.loc[shared].to_numpy(dtype=float), other.loc[shared].to_numpy(dtype=float)


def _nothing_back() -> dict[str, Any]:
    ends = dict.fromkeys(("came_back", "came_back_low", "came_back_high", "first_step"), math.nan)
    return {**ends, "beyond_chance": False}


def _attacked(
    attack: str, places: Sequence[tuple[str, int]], cells: Cells, was: Mapping[str, pd.Series], readings: int
) -> dict[str, Any] | None:
    """Return the row of an attack at the reading that brought most back; None where it has no unattacked model."""
    start = _start(cells, attack, EDITED, "forget")
    if start is None:
        return None
    null = next((one for one in (REFERENCE, CONTROL) if _start(cells, attack, one, "forget") is not None), "")
    told: list[tuple[float, Interval, bool, str, int]] = []
    for variant, step in places:
        now = cells[(attack, EDITED, variant, step, False, "forget")]
        items = [item for item in now.index if item in start.index and item in was["forget"].index]
        back = (now.loc[items] - start.loc[items]).to_numpy(dtype=float)
        if null:
            before = _start(cells, attack, null, "forget")
            taught = cells.get((attack, null, variant, step, False, "forget"))
            if before is not None and taught is not None:
                back = back - (taught.reindex(items) - before.reindex(items)).fillna(0.0).to_numpy(dtype=float)
        gone = (was["forget"].loc[items] - start.loc[items]).to_numpy(dtype=float)
        share, ends = recovered_share(back, gone)
        _, strict = recovered_share(back, gone, level=1 - 0.05 / readings)
        told.append((share, ends, bool(strict.low > 0), variant, step))
    best = max(told, key=lambda one: -math.inf if math.isnan(one[0]) else one[0])
    share, ends, _, variant, step = best
    back_at = [one[4] for one in told if one[2]]
    now = {side: cells.get((attack, EDITED, variant, step, False, side)) for side in ("forget", "retain")}
    return {
        **{"attack": attack, "variant": variant, "step": step, "readings": len(places), "null": null},
        **_kept(was, now),
        **{"came_back": share, "came_back_low": ends.low, "came_back_high": ends.high},
        "beyond_chance": bool(back_at),
        "first_step": float(min(back_at)) if back_at and min(back_at) > 0 else math.nan,
    }


def _verdict(rows: Sequence[Mapping[str, Any]], cells: Cells, readings: int) -> str:
    """Return one sentence: not forgotten, hidden, gone, or as the retrained model; of attacks without the source."""
    plain, *attacked = [row for row in rows if row["attack"] not in GIVEN_SOURCE]
    if not plain["forgotten_low"] > 0:
        return "not forgotten: nothing is gone that could come back"
    if not attacked:
        return "not attacked: whether it stays is not known"
    back = [row for row in attacked if row["beyond_chance"]]
    stepwise = [row for row in back if not math.isnan(row["first_step"])]
    if stepwise:
        row = min(stepwise, key=lambda one: one["first_step"])
        return f"hidden: comes back within {row['first_step']:.0f} steps of {row['attack']} ({_null(row)})"
    if back:
        row = max(back, key=lambda one: one["came_back"])
        return f"hidden: {row['attack']} ({row['variant']}) brings {row['came_back']:.0%} of it back ({_null(row)})"
    if any(not row["null"] for row in attacked):
        names = ", ".join(row["attack"] for row in attacked)
        return f"gone, as far as {names} tell: nothing came back in {readings} readings of {plain['n']} items"
    with_reference = [row["attack"] for row in attacked if row["null"] == REFERENCE]
    if len(with_reference) < len(attacked):
        return f"gone: nothing came back beyond the control in {readings} readings of {plain['n']} items"
    edited, reference = (_start(cells, with_reference[0], model, "forget") for model in (EDITED, REFERENCE))
    assert edited is not None
    aim, own = _paired(reference if reference is not None else edited, edited)
    apart = paired_interval(aim, own)
    if apart.low <= 0 <= apart.high:
        return (
            f"as the retrained model: the same answers to within {100 * max(-apart.low, apart.high):.0f} points, and "
            f"nothing came back beyond it in {readings} readings of {plain['n']} items"
        )
    return (
        f"gone: nothing came back beyond the retrained model in {readings} readings of {plain['n']} items, though it "
        f"answers {100 * (own.mean() - aim.mean()):+.0f} points otherwise"
    )


def _null(row: Mapping[str, Any]) -> str:
    return f"beyond the {row['null']}" if row["null"] else "without a reference to tell it from learning"
