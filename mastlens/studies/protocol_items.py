"""Rows of a protocol's table that are means over items of what no metric is named for: grades, options, traces."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mastlens.evaluation.comparison import read_responses
from mastlens.evaluation.multiple_choice import FILE as CHOICES
from mastlens.evaluation.multiple_choice import NEAR_CHANCE
from mastlens.runs.reading import read_table
from mastlens.statistics import (
    Interval,
    mcnemar_exact,
    mean_interval,
    paired_counts,
    paired_interval,
    share_interval,
    sign_flip_p,
)

COLUMNS = (
    *("arm", "metric", "split", "aggregate", "n", "value", "ci_low", "ci_high", "null", "difference"),
    *("difference_low", "difference_high", "p", "note"),
)
"""Columns of a protocol's table."""


@dataclass(frozen=True)
class ItemMeans:
    """One number an item, of which the mean is told.

    Attributes:
        metric: What it is called.
        split: Of which items.
        aggregate: Which mean.
        values: The numbers; yes or no as 1 and 0.
        null: What chance gives.
        options: Whether they are of letters before options, which can be broken.
    """

    metric: str
    split: str
    aggregate: str
    values: np.ndarray
    null: float = nan
    options: bool = False

    @property
    def outcomes(self) -> bool:
        """Whether every number is yes or no."""
        return set(np.unique(self.values)) <= {0.0, 1.0}

    @property
    def interval(self) -> Interval:
        """Wilson's of a share, Student's of other means."""
        return share_interval(self.values) if self.outcomes else mean_interval(self.values)

    @property
    def note(self) -> str:
        """What is to be known of it."""
        interval = self.interval
        return NEAR_CHANCE if self.options and interval.low <= self.null <= interval.high else ""


def rows_of(arm: str, found: Sequence[ItemMeans], before: Sequence[ItemMeans] | None = None) -> pd.DataFrame:
    """Return a row for each mean, with its difference to before, paired by item: McNemar's exact test of yes or no.

    Args:
        arm: The arm.
        found: Its means.
        before: Those of the model before, in the same order; None where there is no difference to be told.
    """
    rows = []
    for number, one in enumerate(found):
        interval = one.interval
        row = {
            "arm": arm,
            "metric": one.metric,
            "split": one.split,
            "aggregate": one.aggregate,
            "n": len(one.values),
            "value": float(one.values.mean()),
            "ci_low": interval.low,
            "ci_high": interval.high,
            "null": one.null,
            **dict.fromkeys(("difference", "difference_low", "difference_high", "p"), nan),
        }
        told = {"note": ""} if before is None else _change(before[number], one)
        rows.append(row | told | {"note": "; ".join(filter(None, [told["note"], one.note]))})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _change(before: ItemMeans, after: ItemMeans) -> dict[str, Any]:
    """Return what is told of the difference."""
    old, new = before.values, after.values
    interval = paired_interval(old, new)
    told = {
        "difference": float(new.mean() - old.mean()),
        "difference_low": interval.low,
        "difference_high": interval.high,
    }
    if not (before.outcomes and after.outcomes):
        return told | {"p": sign_flip_p(new - old), "note": ""}
    counts = paired_counts(old, new)
    return told | {"p": mcnemar_exact(counts.b, counts.c), "note": f"{counts.b} lost, {counts.c} gained"}


def answer_means(folder: Path) -> Iterator[ItemMeans]:
    """Yield what MAST reports of an evaluation: right answers, and two log-probabilities a token (in nats)."""
    responses = read_responses(folder)
    for split, rows in responses.groupby("split", sort=False):
        yield ItemMeans("accuracy", str(split), "tolerant", rows["correct"].to_numpy(float))
        yield ItemMeans("accuracy", str(split), "strict", rows["correct_strict"].to_numpy(float))
        for side in ("solution", "answer"):
            each = rows[f"logprob_{side}"] / rows[f"{side}_tokens"]
            yield ItemMeans(f"log p({side})", str(split), "per-token", each.to_numpy(float))


def choice_means(folder: Path) -> Iterator[ItemMeans]:
    """Yield the share of questions whose likeliest letter is the right one, beside chance."""
    for split, rows in read_table(folder / CHOICES).groupby("split", sort=False):
        chance = np.mean([1 / len(logprobs) for logprobs in rows["logprobs"]])
        yield ItemMeans("choices", str(split), "letter", rows["correct"].to_numpy(float), float(chance), options=True)


def paired_rows(found: Mapping[str, Sequence[ItemMeans]], before: str, alone: Sequence[str]) -> pd.DataFrame:
    """Return the rows of every arm.

    Args:
        found: Arm to its means, in one order.
        before: The arm that the others are held against.
        alone: Arms of which no difference is told.
    """
    return pd.concat(
        [rows_of(arm, means, None if arm in (before, *alone) else found[before]) for arm, means in found.items()],
        ignore_index=True,
    )
