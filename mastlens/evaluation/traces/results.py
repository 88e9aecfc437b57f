"""Judged traces as tables: shares of the categories, RT-UA, FA-UA and their mean, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.evaluation.judges import UNJUDGED
from mastlens.evaluation.judges.rubrics import TRACE_CATEGORIES
from mastlens.plots.cards.carded import Carded
from mastlens.statistics import FEWEST, NONE, Interval, few_clusters, share_interval, wilson

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

NOTHING = TRACE_CATEGORIES[0]
BAD = 0.5
"""Below this score a step is called bad: wrong is the likelier class."""


@dataclass(frozen=True, repr=False)
class TraceEvaluation(Carded):
    """A model's judged traces.

    Attributes:
        table: One row a response: ``split``, ``item``, ``sample``, ``subject``, ``person``, ``prompt``, ``response``,
            ``trace``, ``answer``, ``gold``, ``correct`` (the final answer's grade), ``truncated``, ``response_tokens``,
            ``judged`` (``trace``, ``answer`` or ``response``: which part), ``category``, ``reason``, ``leak`` (C2 to
            C4), ``sentences`` and ``sentence_categories`` (the judged text cut into sentences, and what each alone
            reveals), ``choice_correct`` (whether the right option is the likeliest without thinking; missing for open
            questions); with a process reward model ``steps`` (the judged text cut into steps) and ``step_scores`` (how
            likely each is right; NaN where the text did not fit).
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import trace_card

        return trace_card(self.summary, self.settings)

    @property
    def summary(self) -> pd.DataFrame:
        """One row a split, all as fractions.

        ``n`` responses judged, ``unjudged``, ``rt_ua`` (share of C2 to C4), ``rt_low``, ``rt_high`` (Wilson),
        ``rt_person_low``, ``rt_person_high`` (over people, where questions name three or more), ``fa_n``, ``fa_ua``,
        ``fa_low``, ``fa_high`` (right option likeliest; Wilson), ``avg_ua`` (the mean of both), ``avg_low``,
        ``avg_high`` (over people or items), ``accuracy``, ``accuracy_low``, ``accuracy_high`` (of the final
        answer in the response), ``truncated``, ``note`` (what is to be said of so few people or items). With a process
        reward model ``steps_n`` responses whose steps were scored, and ``steps_bad``, ``steps_low``, ``steps_high``:
        the share of them with a bad step. NaN where something was not measured, and where fewer than three people or
        items stand behind an interval over them.
        """
        return pd.DataFrame([_summary(str(split), part) for split, part in self.table.groupby("split", sort=False)])

    @property
    def categories(self) -> pd.DataFrame:
        """One row a split and category: ``count`` of ``n`` responses, ``share``, ``ci_low``, ``ci_high``."""
        rows = []
        for split, part in self.table.groupby("split", sort=False):
            judged = part[part["category"] != UNJUDGED]
            for category in TRACE_CATEGORIES:
                number = int((judged["category"] == category).sum())
                interval = _share_interval(judged, judged["category"] == category)
                row = {"split": split, "category": category, "count": number, "n": len(judged)}
                share = number / len(judged) if len(judged) else nan
                rows.append(row | {"share": share, "ci_low": interval.low, "ci_high": interval.high})
        return pd.DataFrame(rows)

    @property
    def steps(self) -> pd.DataFrame:
        """One row a step: ``split``, ``item``, ``sample``, ``step`` from 1, ``text``, ``score``, ``first_bad``.

        ``first_bad`` is whether it is the first step of its response that scores below 0.5: behind it everything builds
        on a fault. Scores are comparable between models that answered the same questions, and no probability that was
        checked. Empty without a process reward model.
        """
        rows = []
        for row in self.table.to_dict("records") if "steps" in self.table else []:
            bad = next((n for n, score in enumerate(row["step_scores"]) if score < BAD), None)
            shared = {key: row[key] for key in ("split", "item", "sample")}
            for number, (text, score) in enumerate(zip(row["steps"], row["step_scores"], strict=True)):
                told = {"step": number + 1, "text": text, "score": score, "first_bad": number == bad}
                rows.append(shared | told)
        return pd.DataFrame(rows, columns=["split", "item", "sample", "step", "text", "score", "first_bad"])

    def plot(self) -> "go.Figure":
        """Draw the shares of the categories, a panel a split."""
        from mastlens.plots.trace_categories import plot_trace_categories

        return plot_trace_categories(self.categories.assign(arm="model"))

    def html(self, items: Sequence[int] = (0, 1, 2), *, split: str | None = None) -> str:
        """Return traces as an HTML fragment, every sentence coloured by what it reveals."""
        from mastlens.plots.trace_text import trace_text_html

        return trace_text_html(self.table, split=split, items=items)


def _summary(split: str, part: pd.DataFrame) -> dict[str, Any]:
    judged = part[part["category"] != UNJUDGED]
    leak = judged["leak"].astype(bool)
    rt = _share_interval(judged, leak)
    row: dict[str, Any] = {"split": split, "n": len(judged), "unjudged": len(part) - len(judged)}
    row |= {"rt_ua": leak.mean() if len(judged) else nan, "rt_low": rt.low, "rt_high": rt.high}
    people = judged["person"].to_numpy()
    by_person = _over(leak, people) if _clustered(people) else NONE
    row |= {"rt_person_low": by_person.low, "rt_person_high": by_person.high}
    # The likeliest option does not depend on the sample: one row an item.
    asked = part.drop_duplicates("item").dropna(subset=["choice_correct"])
    right = asked["choice_correct"].astype(bool)
    fa = wilson(int(right.sum()), len(asked)) if len(asked) else NONE
    fa_ua = right.mean() if len(asked) else nan
    row |= {"fa_n": len(asked), "fa_ua": fa_ua, "fa_low": fa.low, "fa_high": fa.high}
    row |= dict(zip(("avg_ua", "avg_low", "avg_high"), _average(judged), strict=True))
    correct = part["correct"].astype(bool)
    interval = _share_interval(part, correct)
    row |= {"accuracy": correct.mean(), "accuracy_low": interval.low, "accuracy_high": interval.high}
    if "step_scores" in part:
        row |= _bad_steps(part)
    return row | {"truncated": part["truncated"].astype(bool).mean(), "note": _note(judged)}


def _bad_steps(part: pd.DataFrame) -> dict[str, Any]:
    """Return the share of responses with a step that scores below a half, of those whose steps were scored."""
    scored = part[[len(scores) > 0 and not np.isnan(scores[0]) for scores in part["step_scores"]]]
    bad = pd.Series([min(scores) < BAD for scores in scored["step_scores"]], index=scored.index, dtype=bool)
    interval = _share_interval(scored, bad)
    share = float(np.mean(bad)) if len(bad) else nan
    return {"steps_n": len(bad), "steps_bad": share, "steps_low": interval.low, "steps_high": interval.high}


def _average(judged: pd.DataFrame) -> tuple[float, float, float]:
    """Return Avg-UA, the mean of RT-UA and FA-UA of the items that have both, with its interval."""
    both = judged.dropna(subset=["choice_correct"])
    if both.empty:
        return nan, nan, nan
    values = (both["leak"].astype(float) + both["choice_correct"].astype(float)) / 2
    people = both["person"].to_numpy()
    interval = _over(values, people if _clustered(people) else both["item"].to_numpy())
    return float(values.mean()), interval.low, interval.high


def _clustered(people: np.ndarray) -> bool:
    return len(people) > 0 and all(people) and len(set(people)) > 1


def _share_interval(rows: pd.DataFrame, chosen: pd.Series) -> Interval:
    """Return the Wilson interval of a share; with several samples an item, over items."""
    if rows.empty:
        return NONE
    return _over(chosen, rows["item"].to_numpy() if rows["item"].duplicated().any() else None)


def _over(values: pd.Series, clusters: np.ndarray | None) -> Interval:
    """Return the interval of a share over clusters; fewer than three say nothing of how they differ."""
    if clusters is not None and len(set(clusters)) < FEWEST:
        return NONE
    return share_interval(values, clusters=clusters)


def _note(judged: pd.DataFrame) -> str:
    """Return what is to be said where an interval rests on few people, or on few items with several samples."""
    people, items = judged["person"].to_numpy(), judged["item"]
    if _clustered(people):
        return few_clusters(len(set(people)), "person")
    return few_clusters(items.nunique(), "item") if items.duplicated().any() else ""
