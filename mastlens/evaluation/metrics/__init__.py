"""The field's metrics of unlearning: one a file, item by item first, beside what chance and a reference model give."""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.evaluation.metrics.catalogue import METRICS, describe_metrics, find_metric, register_metric
    from mastlens.evaluation.metrics.comparing import MetricComparison, compare_metrics
    from mastlens.evaluation.metrics.measuring import MetricScores, measure_metrics
    from mastlens.evaluation.metrics.metric import Metric

__all__ = [
    "METRICS",
    "Metric",
    "MetricComparison",
    "MetricScores",
    "compare_metrics",
    "describe_metrics",
    "find_metric",
    "measure_metrics",
    "register_metric",
]

_PUBLIC = {
    "METRICS": "catalogue",
    "Metric": "metric",
    "MetricComparison": "comparing",
    "MetricScores": "measuring",
    "compare_metrics": "comparing",
    "describe_metrics": "catalogue",
    "find_metric": "catalogue",
    "measure_metrics": "measuring",
    "register_metric": "catalogue",
}

__getattr__, __dir__ = attach("mastlens.evaluation.metrics", _PUBLIC)
