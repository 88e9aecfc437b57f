"""Settings of metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mastlens.runs.settings import JUDGE, FilePath, Writing, setting


def _listed() -> list[str]:
    from mastlens.evaluation.metrics.catalogue import metric_lines

    return metric_lines()


@dataclass(frozen=True, kw_only=True)
class MetricChoice:
    """The field's metrics, as they are asked for.

    Attributes:
        names: Metrics: ``NAME``, ``NAME:KEY=N`` or ``path/to/file.py:NAME``.
        reference: Evaluation folder, with metrics, of the model that never saw what was to be forgotten, on the same
            items.
        texts: Split to a file of bare texts, JSON lines with a ``text`` each: for metrics that need no question.
    """

    names: Sequence[str | Any] = setting(
        "the field's metrics, item by item and aggregated: probability, rouge, truth-ratio ...",
        metavar="NAME[:KEY=N]",
        listing=_listed,
    )
    reference: FilePath | None = setting(
        "evaluation folder, with metrics, of a model that never saw what was to be forgotten", None, metavar="DIR"
    )
    texts: Mapping[str, FilePath] | None = setting(
        "bare texts, JSON lines with a 'text' each, for metrics that need no question", None, metavar="NAME=FILE"
    )


@dataclass(frozen=True, kw_only=True)
class CompareMetricsSettings(Writing):
    """Settings of ``compare-metrics``."""

    command, group = "compare-metrics", JUDGE
    summary = "metrics before and after, and beside a reference model, paired item by item"
    example = "compare-metrics evaluation-before evaluation-after"
    function = "mastlens.evaluation.metrics.comparing:compare_metrics"
    then = "report {after} --before {before}"

    before: FilePath = setting("evaluation folder, with metrics, before", positional=True, metavar="BEFORE_DIR")
    after: FilePath = setting("the same after", positional=True, metavar="AFTER_DIR")
    reference: FilePath | None = setting(
        "the same of a model that never saw what was to be forgotten", None, metavar="DIR"
    )
    out: FilePath | None = setting("folder for metric_changes.parquet", None, metavar="DIR")
