"""All benchmarks of unlearning by name."""

from mastlens.evaluation.suites.suite import Suite
from mastlens.registry import Registry, subclasses_of

SUITES: Registry[type[Suite]] = Registry(
    "benchmark of unlearning",
    accepts=subclasses_of(Suite),
    package="mastlens.evaluation.suites.layouts",
    group="mastlens.suites",
)
"""Name to benchmark."""


def suite_lines() -> list[str]:
    """Return every benchmark with its summary, for the help."""
    return [f"{name}: {one.summary}" for name, one in SUITES.items()]
