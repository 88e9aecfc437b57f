"""Metrics of two models side by side, and beside a reference model: differences item by item, each with its test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.errors import BadFile, MastlensError, NotTogether
from mastlens.evaluation.metrics.catalogue import METRICS
from mastlens.evaluation.metrics.metric import Aggregate, Metric
from mastlens.evaluation.metrics.settings import CompareMetricsSettings
from mastlens.evaluation.metrics.tables import ITEMS, VALUES, Measured
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tables import Kept, remembered_tables
from mastlens.statistics import NONE, Interval, holm, paired_interval, sign_flip_p

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "metric_changes.parquet"
COLUMNS = (
    *("metric", "split", "aggregate", "n", "before", "after", "difference", "ci_low", "ci_high", "p", "holm_p"),
    *("reference", "to_reference", "to_reference_low", "to_reference_high", "to_reference_p", "null", "note"),
)


@dataclass(frozen=True, repr=False)
class MetricComparison(Carded):
    """What metrics say before and after.

    Attributes:
        table: One row an aggregate that both have: ``metric``, ``split``, ``aggregate``, ``n``; ``before``, ``after``,
            ``difference`` (after - before) with ``ci_low``, ``ci_high`` and ``p``, paired by item: of a mean by
            exchanging the labels of each item, else by each item's influence; ``holm_p`` over all rows but the parts of
            a metric that stand there by themselves, too; ``reference`` and
            ``to_reference`` (after - reference) with interval and p; ``null``; ``note``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.metrics import metric_changes_card

        return metric_changes_card(self.table)

    def plot(self) -> "go.Figure":
        """Draw every aggregate before, after and under the reference."""
        from mastlens.plots.metrics import plot_metric_changes

        return plot_metric_changes(self.table)


@takes(CompareMetricsSettings)
def compare_metrics(settings: CompareMetricsSettings) -> MetricComparison:
    """Compare the metrics of two folders that ``evaluate --metrics`` wrote, on the same items read as the same tokens.

    With ``out`` the folder holds ``metric_changes.parquet``.

    Raises:
        MastlensError: If a folder has no metrics, their items or tokens differ, or they share no metric.
    """
    folders = {"before": settings.before, "after": settings.after, "reference": settings.reference}
    sides = {side: Measured.read(folder) for side, folder in folders.items() if folder is not None}
    read = {f"{side} {file}": one.folder / file for side, one in sides.items() for file in (VALUES, ITEMS)}
    names = [name for name in sides["before"].recorded if name in set(sides["after"].recorded)]
    if not names:
        raise NotTogether(
            f"{settings.before} and {settings.after} share no metric: {', '.join(sides['before'].recorded)} there, "
            f"{', '.join(sides['after'].recorded)} here. Evaluate both with the same --metrics."
        )
    recorded = {"metrics": names, "seed": settings.seed}
    return remembered_tables(
        "compare-metrics",
        Kept(MetricComparison, {"table": FILE}),
        settings,
        settings=recorded,
        inputs=hash_inputs(read),
        compute=lambda: MetricComparison(_compared(sides, names, settings.seed), recorded),
    )


def _compared(sides: Mapping[str, Measured], names: Sequence[str], seed: int) -> pd.DataFrame:
    """Return a row for each aggregate that both have."""
    before, reference = sides["before"], sides.get("reference")
    splits = [str(split) for split in before.items["split"].unique()]
    sides["after"].check_items(before.items, splits, "The evaluation after")
    if reference is not None:
        shared = [split for split in splits if split in set(reference.items["split"])]
        reference.check_items(before.items, shared or splits, "The reference")
    rows = []
    for name in names:
        metric = _named(name)
        found = {side: _aggregates(metric, measured, reference) for side, measured in sides.items()}
        rows += [
            _row(metric, old, found["after"][key], found.get("reference", {}).get(key), seed)
            for key, old in found["before"].items()
            if key in found["after"]
        ]
    table = pd.DataFrame(rows, columns=[*(name for name in COLUMNS if name != "holm_p"), "repeated"])
    table.insert(list(table.columns).index("p") + 1, "holm_p", nan)
    tested = table["p"].notna() & ~table.pop("repeated").astype(bool)
    table.loc[tested, "holm_p"] = holm(table.loc[tested, "p"])
    return table


def _named(spelled: str) -> Metric:
    """Return the metric of a record, which may run no file."""
    name, *settings = spelled.split(":")
    return METRICS.named(name).of_text(settings)


def _aggregates(metric: Metric, measured: Measured, reference: Measured | None) -> Mapping[tuple[str, str], Aggregate]:
    """Return the aggregates of a metric in a folder; none where that has no numbers of it."""
    try:
        others = None if reference is None else reference.scores
        return {(one.split, one.aggregate): one for one in metric.aggregates(measured.scores, others)}
    except (BadFile, StopIteration):
        return {}
    except MastlensError:
        if metric.of_reference and reference is None:
            return {}
        raise


def _row(
    metric: Metric, old: Aggregate, new: Aggregate, other: Aggregate | None, seed: int
) -> dict[str, float | int | str]:
    interval, p = _difference(old, new, seed)
    row: dict[str, float | int | str] = {
        "metric": metric.spelled,
        "split": old.split,
        "aggregate": old.aggregate,
        "n": old.n,
        "before": old.number.value,
        "after": new.number.value,
        "difference": new.number.value - old.number.value,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "p": p,
    }
    told, other_p = (NONE, nan) if other is None else _difference(other, new, seed)
    value = nan if other is None else other.number.value
    return row | {
        "reference": value,
        "to_reference": new.number.value - value,
        "to_reference_low": told.low,
        "to_reference_high": told.high,
        "to_reference_p": other_p,
        "null": new.null,
        "note": new.note,
        "repeated": new.repeated,
    }


def _difference(one: Aggregate, two: Aggregate, seed: int) -> tuple[Interval, float]:
    """Return the interval of ``two`` - ``one`` and its p, paired by item."""
    if one.items is None or two.items is None:
        change = two.number.minus(one.number)
        return change.interval(), change.p_value()
    known = ~(np.isnan(one.items) | np.isnan(two.items))
    if not known.any():
        return NONE, nan
    before, after = one.items[known], two.items[known]
    return paired_interval(before, after), sign_flip_p(after - before, seed=seed)
