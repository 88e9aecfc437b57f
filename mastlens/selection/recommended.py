"""Which rule the evidence recommends: of those whose tables are there, the one that found planted truth best."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mastlens.errors import NotFound
from mastlens.selection.catalogue import RULES
from mastlens.selection.rule import Rule
from mastlens.selection.tables import source_of

AUTO = "auto"


@dataclass(frozen=True)
class Recommendation:
    """A rule, and what speaks for it.

    Attributes:
        rule: Its name.
        why: Where it was held against known truth, and how it did.
    """

    rule: str
    why: str


RECOMMENDED: tuple[Recommendation, ...] = (
    Recommendation(
        "magnitude",
        "no rule found two plants better (AUC 1.000 both; one seed, and planted tensors had moved most there).",
    ),
    Recommendation(
        "path",
        "read on the model's own answers (evaluate --own-texts) it found two plants (AUC 1.000 both; one seed), on "
        "reference solutions one of them not (0.219).",
    ),
    Recommendation(
        "causal",
        "read on the model's own answers (evaluate --own-texts) it found two plants (AUC 0.990, 1.000; one seed), on "
        "reference solutions one of them not (0.007).",
    ),
)
"""Best first; measured by ``python -m benchmarks.planted`` (docs/results/planted.md)."""


def recommended(folder: Path) -> Recommendation:
    """Return the best of the recommended rules whose tables are in a folder.

    Raises:
        MastlensError: If the tables of none are there.
    """
    for one in RECOMMENDED:
        if all((folder / source_of(table).file).is_file() for table in _needs(one.rule)):
            return one
    commands = ", ".join(source_of(table).command for table in _needs(RECOMMENDED[0].rule))
    raise NotFound(
        f"{folder} has the tables of no rule that is recommended ({', '.join(one.rule for one in RECOMMENDED)}). "
        f"Write what the first needs: {commands} ... --where . --out {folder}"
    )


def _needs(rule: str) -> Mapping[str, object]:
    found = RULES.find(rule)
    assert isinstance(found, Rule)  # controls are recommended by nobody
    return found.needs
