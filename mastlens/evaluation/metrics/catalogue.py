"""All metrics by name."""

import textwrap
from dataclasses import fields
from typing import TYPE_CHECKING

from mastlens.errors import BadSetting
from mastlens.evaluation.metrics.metric import Metric
from mastlens.registry import Registry, subclasses_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

METRICS: Registry[type[Metric]] = Registry(
    "metric", accepts=subclasses_of(Metric), package="mastlens.evaluation.metrics.methods", group="mastlens.metrics"
)
"""Name to metric."""

register_metric = METRICS.register
"""Adds a metric of one's own; usable as a decorator of its class."""


def find_metric(text: str | Metric) -> Metric:
    """Return the metric that is asked for.

    Args:
        text: ``NAME``, ``NAME:KEY=N`` with settings, or ``path/to/file.py:NAME``; a metric is returned as it is.

    Raises:
        MastlensError: If there is no such metric, or it has no such setting.
    """
    if isinstance(text, Metric):
        return text
    words = text.split(":")
    named = 1 + words[0].endswith(".py")
    return METRICS.find(":".join(words[:named])).of_text(words[named:])


def find_metrics(names: "Iterable[str | Metric]") -> list[Metric]:
    """Return the metrics that are asked for, each once.

    Raises:
        MastlensError: As ``find_metric``, or if none is named.
    """
    found = list(dict.fromkeys(find_metric(name) for name in names))
    if not found:
        raise BadSetting(f"No metric is named: --metrics takes {', '.join(METRICS)}.")
    return found


def describe_metrics() -> "pd.DataFrame":
    """Return every metric, what it is made of and what misleads about it.

    Returns:
        ``metric``, ``summary``, ``formula``, ``range``, ``direction``, ``null``, ``needs``, ``settings`` with defaults,
        ``traps``, ``differs`` (from open-unlearning's), ``source``.
    """
    import pandas as pd

    rows = []
    for name, kind in METRICS.items():
        metric = kind()
        needs = [need for one in (metric.takes or (metric,)) for need in one.needs]
        if metric.of_reference:
            needs.append(f"of a reference model {metric.of_reference}")
        rows.append(
            {
                "metric": name,
                "summary": kind.summary,
                "formula": kind.formula,
                "range": kind.range,
                "direction": kind.direction,
                "null": kind.null,
                "needs": "; ".join(dict.fromkeys(needs)),
                "settings": ", ".join(f"{item.name}={item.default}" for item in fields(kind)),
                "traps": " ".join(kind.traps),
                "differs": kind.differs,
                "source": kind.source,
            }
        )
    return pd.DataFrame(rows)


def metric_lines() -> list[str]:
    """Return every metric with its summary, for the help."""
    lines: list[str] = []
    for name, kind in METRICS.items():
        lines += textwrap.wrap(f"{name}: {kind.summary}", 88, subsequent_indent="    ")
    return lines
