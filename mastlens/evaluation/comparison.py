"""Two evaluations of the same items, item by item: exact McNemar and a paired bootstrap interval."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mastlens.errors import MastlensError
from mastlens.evaluation.responses import FILE
from mastlens.statistics import mcnemar_exact, paired_bootstrap

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Comparison:
    """What changed between two evaluations.

    Attributes:
        table: One row a split: ``n``, ``before`` and ``after`` (accuracy as a fraction), ``b`` (right before and
            wrong after), ``c`` (the other way), ``mcnemar_p``, ``difference`` (after - before, as a fraction),
            ``ci_low``, ``ci_high``.
        items: One row an item: ``split``, ``item``, ``before``, ``after``.
    """

    table: pd.DataFrame
    items: pd.DataFrame

    def plot(self) -> "go.Figure":
        """Draw the items lost and gained."""
        from mastlens.plots import plot_items

        return plot_items(self.items)


def compare(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two folders that ``evaluate`` wrote, on the same items.

    Args:
        before: Folder of the evaluation before.
        after: Folder of the evaluation after.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        MastlensError: If a folder has no responses, or their items differ.
    """
    tables = []
    for folder in (before, after):
        path = Path(folder) / FILE
        if not path.is_file():
            raise MastlensError(f"{path} is missing. Write it first: mastlens evaluate ... --out {folder}")
        tables.append(pd.read_parquet(path))
    return compare_tables(tables[0], tables[1], resamples=resamples, seed=seed)


def compare_tables(before: pd.DataFrame, after: pd.DataFrame, *, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two tables of ``evaluate``, joined by split and item."""
    keys = ["split", "item"]
    joined = before.merge(after, on=keys, how="outer", suffixes=("_before", "_after"), indicator=True)
    alone = joined[joined["_merge"] != "both"]
    if len(alone):
        first = alone.iloc[0]
        side = "before" if first["_merge"] == "left_only" else "after"
        raise MastlensError(
            f"The two evaluations are of different items: {len(alone)} stand on one side only, first item "
            f"{int(first['item'])} of split {first['split']!r} ({side}). Evaluate both on the same files."
        )
    other = joined[
        (joined["gold_before"] != joined["gold_after"]) | (joined["prompt_before"] != joined["prompt_after"])
    ]
    if len(other):
        first = other.iloc[0]
        raise MastlensError(
            f"The two evaluations are of different items: item {int(first['item'])} of split "
            f"{first['split']!r} is not the same problem ({len(other)} such items)."
        )
    # In the order of the evaluation before, which is that of its command line.
    splits = list(dict.fromkeys(before["split"]))
    rows = [_compare_split(split, joined[joined["split"] == split], resamples=resamples, seed=seed) for split in splits]
    items = before[keys].merge(joined, on=keys)[[*keys, "correct_before", "correct_after"]]
    return Comparison(pd.DataFrame(rows), items.rename(columns={"correct_before": "before", "correct_after": "after"}))


def _compare_split(split: str, rows: pd.DataFrame, *, resamples: int, seed: int) -> dict[str, object]:
    before = rows["correct_before"].to_numpy(dtype=bool)
    after = rows["correct_after"].to_numpy(dtype=bool)
    b, c = int(np.sum(before & ~after)), int(np.sum(~before & after))
    interval = paired_bootstrap(before, after, resamples=resamples, seed=seed)
    return {
        "split": split,
        "n": len(rows),
        "before": float(before.mean()),
        "after": float(after.mean()),
        "b": b,
        "c": c,
        "mcnemar_p": mcnemar_exact(b, c),
        "difference": (c - b) / len(rows),
        "ci_low": interval.low,
        "ci_high": interval.high,
    }
