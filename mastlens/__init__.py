"""mastlens: where in the weights did RLVR put a behaviour, and can exactly that be taken out again?

The public names are imported when they are first used: ``import mastlens`` costs milliseconds, not torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mastlens.analysis.coupling import Coupling, couple
    from mastlens.analysis.increments import Geometry, geometry
    from mastlens.demonstration import demo
    from mastlens.edit import Edit, apply_edit, revert_edit
    from mastlens.errors import MastlensError, MastlensWarning
    from mastlens.evaluation import Comparison, Evaluation, compare, evaluate
    from mastlens.inspection import Inspection, inspect
    from mastlens.lineage import Checkpoint, Lineage
    from mastlens.organism import build_organism
    from mastlens.problems import Problem, read_problems
    from mastlens.reporting import report
    from mastlens.selection import Ranking, rank
    from mastlens.unlearning import Unlearning, unlearn

_PUBLIC = {
    "Checkpoint": "lineage",
    "Comparison": "evaluation",
    "Coupling": "analysis.coupling",
    "Edit": "edit",
    "Evaluation": "evaluation",
    "Geometry": "analysis.increments",
    "Inspection": "inspection",
    "Lineage": "lineage",
    "MastlensError": "errors",
    "MastlensWarning": "errors",
    "Problem": "problems",
    "Ranking": "selection",
    "Unlearning": "unlearning",
    "apply_edit": "edit",
    "build_organism": "organism",
    "compare": "evaluation",
    "couple": "analysis.coupling",
    "demo": "demonstration",
    "evaluate": "evaluation",
    "geometry": "analysis.increments",
    "inspect": "inspection",
    "rank": "selection",
    "read_problems": "problems",
    "report": "reporting",
    "revert_edit": "edit",
    "unlearn": "unlearning",
}

__all__ = [
    "Checkpoint",
    "Comparison",
    "Coupling",
    "Edit",
    "Evaluation",
    "Geometry",
    "Inspection",
    "Lineage",
    "MastlensError",
    "MastlensWarning",
    "Problem",
    "Ranking",
    "Unlearning",
    "apply_edit",
    "build_organism",
    "compare",
    "couple",
    "demo",
    "evaluate",
    "geometry",
    "inspect",
    "rank",
    "read_problems",
    "report",
    "revert_edit",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"mastlens.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'mastlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
