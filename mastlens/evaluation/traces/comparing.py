"""Two models' traces on the same questions: leak or no leak, paired, and which category became which."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mastlens.errors import NotFound, NotTogether
from mastlens.evaluation.comparison import compare_tables
from mastlens.evaluation.judges import UNJUDGED
from mastlens.evaluation.judges.rubrics import TRACE_CATEGORIES
from mastlens.evaluation.settings import CompareTracesSettings
from mastlens.evaluation.traces.evaluating import FILE
from mastlens.evaluation.traces.results import BAD, TraceEvaluation
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.reading import read_table
from mastlens.statistics import FEWEST

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

_KEYS = ["split", "item", "sample"]


@dataclass(frozen=True, repr=False)
class TraceComparison(Carded):
    """What changed between two models' traces.

    Attributes:
        table: One row a split: ``n``, ``before`` and ``after`` (RT-UA as a fraction), ``b`` (leaks before and not
            after), ``c`` (the other way), ``mcnemar_p``, ``holm_p``, ``difference`` (after - before), ``ci_low``,
            ``ci_high`` (over people where all questions name one of three or more, else over items), ``newcombe_low``,
            ``newcombe_high``, ``detectable``, ``left_out`` (responses that a judge gave no judgement of, on either
            side).
        transitions: One row a split and pair of categories: ``split``, ``before``, ``after``, ``count``.
        categories: ``TraceEvaluation.categories`` of both, with a column ``arm``.
        steps: Where a process reward model scored both: ``table``'s columns without ``left_out``, of the responses that
            have a bad step (``b``: before and not after); None elsewhere. The same model has to have scored them.
    """

    table: pd.DataFrame
    transitions: pd.DataFrame
    categories: pd.DataFrame
    steps: pd.DataFrame | None = None

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import comparison_card

        return comparison_card(self.table, "The share of traces that leak")

    def plot(self) -> "go.Figure":
        """Draw the shares of the categories before and after."""
        from mastlens.plots.trace_categories import plot_trace_categories

        return plot_trace_categories(self.categories)


def read_judgements(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the judged traces that a folder of ``evaluate_traces`` holds."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise NotFound(f"{path} is missing. Write it first: mastlens evaluate-traces ... --out {folder}")
    return read_table(path)


@takes(CompareTracesSettings)
def compare_traces(settings: CompareTracesSettings) -> TraceComparison:
    """Compare two evaluations of traces on the same questions, item by item: folders, or results in memory.

    Raises:
        MastlensError: If a folder has no judgements, or their items differ.
    """
    old, new = (_table(side) for side in (settings.before, settings.after))
    clear = [side[side["category"] != UNJUDGED] for side in (old, new)]
    keys = set.intersection(*(set(side[_KEYS].itertuples(index=False, name=None)) for side in clear))
    _same_items(old, new)
    if not keys:
        raise NotTogether("There is no trace that was judged on both sides.")
    pair = [side[[key in keys for key in side[_KEYS].itertuples(index=False, name=None)]] for side in clear]
    named = all(pair[0]["person"]) and (pair[0].groupby("split")["person"].nunique() >= FEWEST).all()
    # The same paired statistics as for accuracy; what is counted is a leak, not a right answer.
    graded = [side.assign(correct=side["leak"], correct_strict=side["leak"]) for side in pair]
    found = compare_tables(*graded, clusters="person" if named else None)
    table = found.table.drop(columns="strict_difference")
    all_of, judged_of = old.groupby("split").size(), pair[0].groupby("split").size()
    table["left_out"] = [int(all_of[split]) - int(judged_of[split]) for split in table["split"]]
    joined = pair[0][[*_KEYS, "category"]].merge(pair[1][[*_KEYS, "category"]], on=_KEYS, suffixes=("_old", "_new"))
    rows = [
        {"split": split, "before": one, "after": other, "count": count}
        for split, part in joined.groupby("split", sort=False)
        for one in TRACE_CATEGORIES
        for other in TRACE_CATEGORIES
        if (count := int(((part["category_old"] == one) & (part["category_new"] == other)).sum()))
    ]
    arms = [
        TraceEvaluation(side).categories.assign(arm=arm) for side, arm in zip(pair, ("before", "after"), strict=True)
    ]
    return TraceComparison(table, pd.DataFrame(rows), pd.concat(arms, ignore_index=True), _steps(old, new))


def _steps(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame | None:
    """Return the paired comparison of responses with a bad step; None unless steps were scored on both sides."""
    if "step_scores" not in old or "step_scores" not in new:
        return None
    bad = [
        side[scored].assign(correct=lowest[scored] < BAD, correct_strict=lowest[scored] < BAD)
        for side in (old, new)
        for lowest in [
            pd.Series([min(scores, default=float("nan")) for scores in side["step_scores"]], index=side.index)
        ]
        for scored in [lowest.notna()]
    ]
    both = set.intersection(*(set(side[_KEYS].itertuples(index=False, name=None)) for side in bad))
    if not both:
        return None
    pair = [side[[key in both for key in side[_KEYS].itertuples(index=False, name=None)]] for side in bad]
    return compare_tables(*pair).table.drop(columns="strict_difference")


def _table(side: "str | os.PathLike[str] | TraceEvaluation") -> pd.DataFrame:
    return side.table if isinstance(side, TraceEvaluation) else read_judgements(side)


def _same_items(old: pd.DataFrame, new: pd.DataFrame) -> None:
    missing = set(old[_KEYS].itertuples(index=False, name=None)) ^ set(new[_KEYS].itertuples(index=False, name=None))
    if missing:
        split, item, sample = min(missing)
        raise NotTogether(
            f"The two evaluations are of different responses: item {item}, sample {sample} of split {split!r} stands "
            f"on one side only ({len(missing)} such). Evaluate both on the same files with as many samples."
        )
