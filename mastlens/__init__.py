"""mastlens: where in the weights did RLVR put a behaviour, and can exactly that be taken out again?

The public names are imported when they are first used: ``import mastlens`` costs milliseconds, not torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mastlens.analysis.agreement import Agreement, mask_agreement
    from mastlens.analysis.causal import CausalMap, causal_map, rank_agreement
    from mastlens.analysis.coupling import Coupling, couple
    from mastlens.analysis.cumulative import CumulativeCurves, cumulative_curves
    from mastlens.analysis.increments import Geometry, geometry
    from mastlens.analysis.tokens import TokenDifferences, token_differences
    from mastlens.analysis.trajectories import Trajectory, trajectory
    from mastlens.architectures import register_architecture
    from mastlens.attacks import Attack, attack
    from mastlens.decoding.sampling import Sampling
    from mastlens.demonstration import demo
    from mastlens.edit import Edit, apply_edit, revert_edit
    from mastlens.errors import MastlensError, MastlensWarning
    from mastlens.evaluation import (
        Collateral,
        Comparison,
        EditComparison,
        Evaluation,
        compare,
        compare_edits,
        evaluate,
        grade_disagreements,
        measure_collateral,
    )
    from mastlens.evaluation.benchmarks import read_benchmark
    from mastlens.evaluation.choices import score_choices
    from mastlens.evaluation.harness import harness_scores
    from mastlens.evaluation.protocol import write_mast
    from mastlens.hooked import HookedModel
    from mastlens.inspection import Inspection, inspect
    from mastlens.lineage import Checkpoint, Lineage
    from mastlens.organism import build_organism
    from mastlens.organism.replay import organism_trajectory
    from mastlens.problems import Problem, read_problems
    from mastlens.reporting import report
    from mastlens.selection import Ranking, describe_rules, rank, select, selection_overlap
    from mastlens.studies.runner import Study, run_study
    from mastlens.studies.settings import read_study
    from mastlens.unlearning import ProbeSettings, TokenWeights, Unlearning, unlearn
    from mastlens.unlearning.negation import negate_increment

_PUBLIC = {
    "Agreement": "analysis.agreement",
    "Attack": "attacks",
    "CausalMap": "analysis.causal",
    "Checkpoint": "lineage",
    "Collateral": "evaluation",
    "Comparison": "evaluation",
    "Coupling": "analysis.coupling",
    "CumulativeCurves": "analysis.cumulative",
    "Edit": "edit",
    "EditComparison": "evaluation",
    "Evaluation": "evaluation",
    "Geometry": "analysis.increments",
    "HookedModel": "hooked",
    "Inspection": "inspection",
    "Lineage": "lineage",
    "MastlensError": "errors",
    "MastlensWarning": "errors",
    "ProbeSettings": "unlearning",
    "Problem": "problems",
    "Ranking": "selection",
    "Sampling": "decoding.sampling",
    "Study": "studies.runner",
    "TokenDifferences": "analysis.tokens",
    "TokenWeights": "unlearning",
    "Trajectory": "analysis.trajectories",
    "Unlearning": "unlearning",
    "apply_edit": "edit",
    "attack": "attacks",
    "build_organism": "organism",
    "causal_map": "analysis.causal",
    "compare": "evaluation",
    "compare_edits": "evaluation",
    "couple": "analysis.coupling",
    "cumulative_curves": "analysis.cumulative",
    "demo": "demonstration",
    "describe_rules": "selection",
    "evaluate": "evaluation",
    "geometry": "analysis.increments",
    "grade_disagreements": "evaluation",
    "harness_scores": "evaluation.harness",
    "inspect": "inspection",
    "mask_agreement": "analysis.agreement",
    "measure_collateral": "evaluation",
    "negate_increment": "unlearning.negation",
    "organism_trajectory": "organism.replay",
    "rank": "selection",
    "rank_agreement": "analysis.causal",
    "read_benchmark": "evaluation.benchmarks",
    "read_problems": "problems",
    "read_study": "studies.settings",
    "register_architecture": "architectures",
    "report": "reporting",
    "revert_edit": "edit",
    "run_study": "studies.runner",
    "score_choices": "evaluation.choices",
    "select": "selection",
    "selection_overlap": "selection",
    "token_differences": "analysis.tokens",
    "trajectory": "analysis.trajectories",
    "unlearn": "unlearning",
    "write_mast": "evaluation.protocol",
}

__all__ = [
    "Agreement",
    "Attack",
    "CausalMap",
    "Checkpoint",
    "Collateral",
    "Comparison",
    "Coupling",
    "CumulativeCurves",
    "Edit",
    "EditComparison",
    "Evaluation",
    "Geometry",
    "HookedModel",
    "Inspection",
    "Lineage",
    "MastlensError",
    "MastlensWarning",
    "ProbeSettings",
    "Problem",
    "Ranking",
    "Sampling",
    "Study",
    "TokenDifferences",
    "TokenWeights",
    "Trajectory",
    "Unlearning",
    "apply_edit",
    "attack",
    "build_organism",
    "causal_map",
    "compare",
    "compare_edits",
    "couple",
    "cumulative_curves",
    "demo",
    "describe_rules",
    "evaluate",
    "geometry",
    "grade_disagreements",
    "harness_scores",
    "inspect",
    "mask_agreement",
    "measure_collateral",
    "negate_increment",
    "organism_trajectory",
    "rank",
    "rank_agreement",
    "read_benchmark",
    "read_problems",
    "read_study",
    "register_architecture",
    "report",
    "revert_edit",
    "run_study",
    "score_choices",
    "select",
    "selection_overlap",
    "token_differences",
    "trajectory",
    "unlearn",
    "write_mast",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"mastlens.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'mastlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
