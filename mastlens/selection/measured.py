"""Rules that rank what a scorer measured."""

from mastlens.selection.rule import Rule
from mastlens.selection.tables import SCORED


def measured_rule(name: str, summary: str, source: str) -> Rule:
    """Return the rule that ranks what ``mastlens score NAME`` wrote, highest first; zero increments come last.

    Args:
        name: The scorer's.
        summary: What the score is, in one line.
        source: Where it is from.
    """
    return Rule(
        name,
        summary,
        source,
        {f"{SCORED}{name}": ("score", "standard_error", "delta_norm")},
        lambda table: table["score"],
        terms=lambda table: table[["standard_error", "delta_norm"]],
        of_increment=True,
    )
