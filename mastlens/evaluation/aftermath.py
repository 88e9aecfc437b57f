"""What attacks brought back of what an edit took out, read from the folders that they wrote."""

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd

from mastlens.runs.reading import read_table
from mastlens.statistics import paired_interval

_ITEMS = "attack_items.parquet"
_CONDITION = ["attack", "variant", "step"]
GIVEN_SOURCE = ("interpolate",)
"""Attacks that are handed the source's weights: whoever has these needs no attack, so nothing of them is a recovery."""
_EDITED, _CONTROL, _REFERENCE = "edited", "control", "reference"


def attack_files(folder: Path) -> list[Path]:
    """Return the items of every attack on an edit: each in the edit's folder or in a folder of its own in it."""
    return sorted([*folder.glob(_ITEMS), *folder.glob(f"*/{_ITEMS}")])


def strongest_attack(folder: Path, source: pd.DataFrame, forget: Sequence[str]) -> dict[str, Any]:
    """Return what the strongest attack in a folder brought back on the forget side; nothing where none was run.

    The strongest is the one (attack, variant and step) with the largest gain in accuracy over the edit before it,
    less the gain of the control, or else of the reference, under the same attack where one was attacked too: what an
    attack can teach to a model that never had the skill was not brought back. It is the largest of several, so its
    value is a bound rather than an estimate. Attacks that are handed the source's weights do not count.

    Args:
        folder: The edit's evaluation folder.
        source: The source's items on the forget side: ``item`` as "split item", ``correct``.
        forget: The splits of that side.
    """
    tables = [read_table(path) for path in attack_files(folder)]
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"split": []})
    rows = rows[rows["split"].isin(forget)]
    rows = rows[~rows["attack"].isin(GIVEN_SOURCE)] if len(rows) else rows
    if rows.empty:
        return {}
    rows = rows.assign(item=rows["split"].astype(str) + " " + rows["item"].astype(str))
    # An attack may have been tried on the first items only: the source counts on the same ones.
    was = source.groupby("item")["correct"].mean()
    rows = rows[rows["item"].isin(was.index)]
    accuracy = rows.pivot_table("correct", [*_CONDITION, "baseline"], "model", aggfunc="mean").reset_index("baseline")
    plain = accuracy[accuracy["baseline"]].groupby("attack").first()
    attacked = accuracy[~accuracy["baseline"]]
    if attacked.empty or _EDITED not in attacked:
        return {}
    names = attacked.index.get_level_values("attack")
    gains = {model: attacked[model] - plain[model].reindex(names).to_numpy() for model in attacked.columns[1:]}
    taught = pd.Series(nan, index=attacked.index)
    for null in (_CONTROL, _REFERENCE):
        taught = taught.fillna(gains[null]) if null in gains else taught
    beyond = gains[_EDITED] - taught.fillna(0.0)
    where = int(beyond.fillna(-1.0).to_numpy().argmax())
    attack, variant, step = attacked.index[where]
    chosen = (rows["model"] == _EDITED) & ~rows["baseline"]
    chosen &= (rows["attack"] == attack) & (rows["variant"] == variant) & (rows["step"] == step)
    now = rows[chosen].groupby("item")["correct"].mean()
    old, new = was.loc[now.index].to_numpy(dtype=float), now.to_numpy(dtype=float)
    interval = paired_interval(old, new)
    return {
        "after_attack": f"{attack}, {variant}" + (f", step {step}" if step else ""),
        "after_attack_accuracy": float(new.mean()),
        "after_attack_control": float(attacked[_CONTROL].to_numpy()[where]) if _CONTROL in attacked else nan,
        "after_attack_difference": float(new.mean() - old.mean()),
        "after_attack_low": interval.low,
        "after_attack_high": interval.high,
    }
