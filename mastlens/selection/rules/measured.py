"""Rules that rank what ``mastlens score`` measured, one a scorer."""

from mastlens.selection.rule import Rule
from mastlens.selection.tables import SCORED


def _measured(name: str, summary: str, source: str) -> Rule:
    return Rule(
        name,
        summary,
        source,
        {f"{SCORED}{name}": ("score", "standard_error", "delta_norm")},
        lambda table: table["score"],
        terms=lambda table: table[["standard_error", "delta_norm"]],
        of_increment=True,
    )


PATH = _measured(
    "path",
    "the tensor's share of what RLVR did to log p of the forget solutions, less that of the retain ones",
    "integrated gradients, arXiv:1703.01365, along SFT -> RLVR",
)

GATES = _measured(
    "gates",
    "the part of its increment that is taken back where gates are learnt to lose forget and keep retain",
    "hard-concrete gates, arXiv:1712.01312, on the increment",
)
