"""Two evaluations of the same items, item by item: exact McNemar, paired intervals, and what could have been seen."""

import os
import warnings
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mastlens.errors import BadFile, BadSetting, MastlensWarning, NotFound, NotTogether, unknown
from mastlens.evaluation.responses import FILE
from mastlens.evaluation.settings import CompareSettings
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.reading import read_table
from mastlens.runs.stages import read_record
from mastlens.statistics import (
    FEWEST,
    SMALLEST_DIFFERENCE,
    equivalence,
    few_clusters,
    holm,
    mcnemar_exact,
    newcombe_paired,
    paired_counts,
    paired_interval,
    smallest_drop,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

_KEYS = ["split", "item"]


@dataclass(frozen=True, repr=False)
class Comparison(Carded):
    """What changed between two evaluations.

    Attributes:
        table: One row a split: ``n``, ``before`` and ``after`` (accuracy as a fraction), ``b`` (right before and
            wrong after), ``c`` (the other way), ``mcnemar_p``, ``difference`` (after - before, as a fraction),
            ``ci_low``, ``ci_high`` (Bonett and Price, over items, or over clusters where they were asked for). Beside
            them ``holm_p`` (``mcnemar_p`` adjusted for the number of splits), ``newcombe_low`` and
            ``newcombe_high`` (in closed form, with a width also where nothing changed), ``detectable`` (the
            smallest difference that the exact test finds at the 5 % level with 80 % power on n items, if items
            change against it as often as seen here; NaN where none can be found),
            ``strict_difference`` (the difference by the strict grade), and ``verdict``, see ``equivalence``.
        items: One row an item: ``split``, ``item``, ``before``, ``after``, ``change`` (kept, lost, gained, wrong),
            ``strict_before``, ``strict_after``, ``subject``, ``prompt``, ``gold``, ``response_before``,
            ``response_after``. With several samples an item, before and after are shares of right samples, lost
            and gained mean that the share fell or rose, and the responses are those of the first sample.
    """

    table: pd.DataFrame
    items: pd.DataFrame

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import comparison_card

        return comparison_card(self.table)

    @property
    def changed(self) -> pd.DataFrame:
        """The items lost or gained, with what was asked and both responses."""
        return self.items[self.items["change"].isin(["lost", "gained"])].reset_index(drop=True)

    @property
    def differing(self) -> pd.DataFrame:
        """The items whose response is another text, however it was graded: what two engines, say, do differently."""
        return self.items[self.items["response_before"] != self.items["response_after"]].reset_index(drop=True)

    def plot(self) -> "go.Figure":
        """Draw the items lost and gained."""
        from mastlens.plots import plot_items

        return plot_items(self.items)


@takes(CompareSettings)
def compare(settings: CompareSettings) -> Comparison:
    """Compare two folders that ``evaluate`` wrote, on the same items.

    Raises:
        MastlensError: If a folder has no responses, or their items differ.
    """
    warn_of_other_settings(settings.before, settings.after)
    return compare_tables(
        read_responses(settings.before),
        read_responses(settings.after),
        clusters=settings.clusters,
        smallest=settings.smallest,
    )


def read_responses(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the responses that an evaluation folder holds."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise NotFound(f"{path} is missing. Write it first: mastlens evaluate ... --out {folder}")
    return read_table(path)


def warn_of_other_settings(before: str | os.PathLike[str], after: str | os.PathLike[str]) -> None:
    """Warn where two folders were evaluated under settings that differ: that, too, is a difference."""
    old, new = (read_record(Path(f))["stages"].get("evaluate", {}).get("settings", {}) for f in (before, after))
    differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)] if old and new else []
    if differing:
        said = ", ".join(f"{key} ({old.get(key)}, then {new.get(key)})" for key in differing)
        engines = ""
        if "engine" in differing and (differ := differing_responses(*map(read_responses, (before, after)))) is not None:
            engines = (
                f" {int(differ.sum())} of {len(differ)} responses are not the same text: engines round differently, "
                "and where two tokens have nearly the same logit they may choose differently, with no edit at all."
            )
        warnings.warn(
            f"{before} and {after} were evaluated with other settings: {said}. What differs between them is not "
            f"the edit alone.{engines}",
            MastlensWarning,
            stacklevel=3,
        )


def differing_responses(before: pd.DataFrame, after: pd.DataFrame) -> pd.Series | None:
    """Return of each response that both tables have whether its text differs; None where they have none in common."""
    keys = [*_KEYS, *(["sample"] if "sample" in before and "sample" in after else [])]
    both = before[[*keys, "response"]].merge(after[[*keys, "response"]], on=keys, suffixes=("_before", "_after"))
    return both["response_before"] != both["response_after"] if len(both) else None


def compare_tables(
    before: pd.DataFrame,
    after: pd.DataFrame,
    *,
    clusters: str | None = None,
    smallest: float = SMALLEST_DIFFERENCE,
) -> Comparison:
    """Compare two tables of ``evaluate``, joined by split and item; arguments as in ``compare``."""
    if not 0 < smallest < 1:
        raise BadSetting(f"The smallest difference of interest is a fraction above 0 and below 1, not {smallest:g}.")
    items = _paired_items(before, after)
    if not len(items):
        raise BadFile("There is nothing to compare: the tables of responses have no rows.")
    labels = None if clusters is None else _labels(before, items, clusters)
    samples = min(int(table.groupby(_KEYS).size().min()) for table in (before, after))
    rows = []
    # In the order of the evaluation before, which is that of its command line.
    for split in dict.fromkeys(items["split"]):
        chosen = (items["split"] == split).to_numpy()
        groups = None if labels is None else labels[chosen]
        if groups is not None and (said := few_clusters(pd.unique(groups).size, f"cluster of {clusters}")):
            if pd.unique(groups).size < FEWEST:
                raise BadSetting(f"In split {split!r}: {said}")
            warnings.warn(f"In split {split!r}: {said}", MastlensWarning, stacklevel=3)
        rows.append({"split": split, **_compare_split(items[chosen], groups, samples, smallest)})
    table = pd.DataFrame(rows)
    table.insert(list(table.columns).index("mcnemar_p") + 1, "holm_p", holm(table["mcnemar_p"]))
    return Comparison(table, items)


def grade_disagreements(table: pd.DataFrame) -> pd.DataFrame:
    """Return the responses on which strict and tolerant grade differ: where a result hangs on the grader.

    Args:
        table: A table of ``evaluate``.

    Returns:
        Those rows: ``split``, ``item``, ``sample`` and ``subject`` where the table has them, ``gold``, ``answer``
        (what was found in the response; None where only math-verify found something), ``correct``,
        ``correct_strict``, ``response``.
    """
    from mastlens.problems.answers import final_answer

    rows = table[table["correct"].astype(bool) != table["correct_strict"].astype(bool)]
    rows = rows.assign(answer=rows["response"].map(final_answer))
    columns = ["split", "item", "sample", "subject", "gold", "answer", "correct", "correct_strict", "response"]
    return rows[[column for column in columns if column in rows]].reset_index(drop=True)


def _by_item(table: pd.DataFrame, side: str) -> pd.DataFrame:
    """Return one row an item; with several samples an item, grades become shares."""
    repeated = table.duplicated(_KEYS)
    if not repeated.any():
        kept = table[[*_KEYS, "prompt", "gold", "response", "correct", "correct_strict"]]
        return kept.assign(subject=table.get("subject", ""))
    if "sample" not in table:
        first = table[repeated].iloc[0]
        raise BadFile(
            f"Item {first['item']} of split {first['split']!r} comes several times in the evaluation {side}, and no "
            "column 'sample' tells the samples apart. Evaluate again into a new folder."
        )
    for key in ("prompt", "gold"):
        if (table.groupby(_KEYS)[key].nunique(dropna=False) > 1).any():
            raise BadFile(f"The samples of one item of the evaluation {side} do not share one {key}.")
    groups = table.assign(subject=table.get("subject", "")).groupby(_KEYS, sort=False)
    first = groups[["prompt", "gold", "response", "subject"]].first()
    return first.join(groups[["correct", "correct_strict"]].mean()).reset_index()


def _paired_items(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Return one row an item that both sides have, in the order of ``before``; refuse other items."""
    old, new = _by_item(before, "before"), _by_item(after, "after")
    joined = old.merge(new, on=_KEYS, how="outer", suffixes=("_before", "_after"), indicator=True)
    alone = joined[joined["_merge"] != "both"]
    if len(alone):
        first = alone.iloc[0]
        side = "before" if first["_merge"] == "left_only" else "after"
        raise NotTogether(
            f"The two evaluations are of different items: {len(alone)} stand on one side only, first item "
            f"{first['item']} of split {first['split']!r} ({side}). Evaluate both on the same files."
        )
    other = joined[
        (joined["gold_before"] != joined["gold_after"]) | (joined["prompt_before"] != joined["prompt_after"])
    ]
    if len(other):
        first = other.iloc[0]
        raise NotTogether(
            f"The two evaluations are of different items: item {first['item']} of split "
            f"{first['split']!r} is not the same problem ({len(other)} such items)."
        )
    joined = old[_KEYS].merge(joined, on=_KEYS)
    was, now = joined["correct_before"].astype(float), joined["correct_after"].astype(float)
    change = np.select([now < was, now > was, now > 0], ["lost", "gained", "kept"], default="wrong")
    return pd.DataFrame(
        {
            **{key: joined[key] for key in _KEYS},
            "before": joined["correct_before"],
            "after": joined["correct_after"],
            "change": change,
            "strict_before": joined["correct_strict_before"],
            "strict_after": joined["correct_strict_after"],
            "subject": joined["subject_before"],
            "prompt": joined["prompt_before"],
            "gold": joined["gold_before"],
            "response_before": joined["response_before"],
            "response_after": joined["response_after"],
        }
    )


def _labels(before: pd.DataFrame, items: pd.DataFrame, clusters: str) -> np.ndarray:
    """Return the cluster of each item."""
    if clusters not in before.columns:
        raise unknown("column to resample by", clusters, map(str, before.columns))
    found = items[_KEYS].merge(before.drop_duplicates(_KEYS)[list(dict.fromkeys([*_KEYS, clusters]))], on=_KEYS)
    return found[clusters].to_numpy()


def _compare_split(
    rows: pd.DataFrame, groups: np.ndarray | None, samples: int, smallest: float
) -> dict[str, float | int | str]:
    before, after = rows["before"].to_numpy(dtype=float), rows["after"].to_numpy(dtype=float)
    n, b, c = len(rows), int((after < before).sum()), int((after > before).sum())
    drawn = {"counts": np.full(n, samples), "clusters": groups}
    interval = paired_interval(before, after, **drawn)
    inner = paired_interval(before, after, level=0.9, **drawn)
    # Shares of right samples are no proportion of items: Newcombe's interval is not for them.
    single = set(np.unique([before, after])) <= {0.0, 1.0}
    closed = newcombe_paired(*paired_counts(before, after)) if single else None
    strict = rows["strict_after"].astype(float).mean() - rows["strict_before"].astype(float).mean()
    return {
        "n": n,
        "before": float(before.mean()),
        "after": float(after.mean()),
        "b": b,
        "c": c,
        "mcnemar_p": mcnemar_exact(b, c),
        "difference": (c - b) / n if single else float(after.mean() - before.mean()),
        "ci_low": interval.low,
        "ci_high": interval.high,
        "newcombe_low": closed.low if closed else nan,
        "newcombe_high": closed.high if closed else nan,
        "detectable": smallest_drop(n, min(b, c) / n),
        "strict_difference": float(strict),
        "verdict": equivalence(interval, inner, smallest),
    }
