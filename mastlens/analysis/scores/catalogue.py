"""All scorers by name."""

from mastlens.analysis.scores.scorer import Scorer
from mastlens.registry import Registry

SCORERS: Registry[Scorer] = Registry(
    "score",
    accepts=lambda one: isinstance(one, Scorer),
    package="mastlens.analysis.scores.scorers",
    group="mastlens.scores",
)
"""Every scorer by its name."""
