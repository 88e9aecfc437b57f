"""mastlens: where in the weights did RLVR put a behaviour, and can exactly that be taken out again?

The public names are imported when they are first used: ``import mastlens`` costs milliseconds, not torch.
"""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

__version__ = "0.1.0"
"""The only place where it is written: pyproject.toml and ``mastlens --version`` read it here."""

if TYPE_CHECKING:
    from mastlens.analysis.causal.causal_map import CausalMap, causal_map
    from mastlens.analysis.causal.cumulative import CumulativeCurves, cumulative_curves
    from mastlens.analysis.causal.tables import rank_agreement
    from mastlens.analysis.coupling.coupling import Coupling, couple
    from mastlens.analysis.increments.agreement import Agreement, mask_agreement
    from mastlens.analysis.increments.geometry import Geometry, geometry
    from mastlens.analysis.increments.shards import merge
    from mastlens.analysis.inside.crosscoding import SharedFeatures, inside_crosscoder
    from mastlens.analysis.inside.departing import Departure, inside_depart
    from mastlens.analysis.inside.directing import Directions, inside_direct
    from mastlens.analysis.inside.featuring import Features, inside_dictionary
    from mastlens.analysis.inside.patching import ActivationPatches, inside_patch
    from mastlens.analysis.inside.pathing import Paths, inside_path
    from mastlens.analysis.inside.steering import Steering, inside_steer
    from mastlens.analysis.inside.undoing import Undoing, inside_undo
    from mastlens.analysis.inside.writing import Writers, inside_write
    from mastlens.analysis.scores.scored import Scores, score
    from mastlens.analysis.tokens import TokenDifferences, token_differences
    from mastlens.analysis.trajectories.trajectory import Trajectory, trajectory
    from mastlens.architectures.catalogue import register_architecture, register_architectures
    from mastlens.attacks import Attack, AttackMethod, attack, describe_attacks, register_attack
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.checkpoints.inspection import Inspection, inspect
    from mastlens.checkpoints.lineage import Lineage
    from mastlens.columns import describe_columns
    from mastlens.decoding.reflection import TokenPenalty, reflection_penalty
    from mastlens.decoding.sampling import Sampling
    from mastlens.edits.applying import apply_edit, compose_edit, revert_edit, scale_edit, show_edit
    from mastlens.edits.edit import Edit
    from mastlens.edits.factors import LoraEdit, lora_edit
    from mastlens.edits.negation import negate
    from mastlens.edits.sharing import PushedEdit, push_edit
    from mastlens.edits.steering import WrittenBias, steer_edit
    from mastlens.errors import (
        BadFile,
        BadSetting,
        CannotWrite,
        MastlensError,
        MastlensWarning,
        MissingPackage,
        NoReply,
        NotFound,
        NotSupported,
        NotTogether,
        StageRefused,
        UnknownName,
    )
    from mastlens.estimating import Estimate, estimate
    from mastlens.evaluation import (
        Collateral,
        Comparison,
        Depth,
        EditComparison,
        Evaluation,
        compare,
        compare_edits,
        depth_score,
        evaluate,
        grade_disagreements,
        measure_collateral,
    )
    from mastlens.evaluation.benchmarks import read_benchmark, take_benchmark
    from mastlens.evaluation.harness import harness_scores
    from mastlens.evaluation.judges import EndpointJudge, LocalJudge, judge_agreement
    from mastlens.evaluation.metrics import (
        Metric,
        MetricComparison,
        MetricScores,
        compare_metrics,
        describe_metrics,
        measure_metrics,
        register_metric,
    )
    from mastlens.evaluation.metrics.items import read_items
    from mastlens.evaluation.multiple_choice import ChoiceScores, choices, score_choices
    from mastlens.evaluation.process.model import ProcessRewardModel
    from mastlens.evaluation.protocol import mast_benchmarks
    from mastlens.evaluation.safety import SafetyEvaluation, evaluate_safety
    from mastlens.evaluation.suites.converting import convert_benchmark, list_benchmarks
    from mastlens.evaluation.traces import RuleJudge, TraceComparison, TraceEvaluation, compare_traces, evaluate_traces
    from mastlens.explorer import Exploration, Explorer, explore
    from mastlens.explorer.chatting import Chat, chat
    from mastlens.explorer.token_view import TokenView, view_tokens
    from mastlens.models.hooked import HookedModel
    from mastlens.organisms import Organism, build_organism, fetch_organism, list_organisms, register_organism
    from mastlens.organisms.prm import organism_prm
    from mastlens.organisms.replay import organism_trajectory
    from mastlens.organisms.rlvr import RLVRRecipe, describe_recipes
    from mastlens.organisms.rlvr.record import Training, read_training
    from mastlens.paper import PaperFigures, figures
    from mastlens.problems.reading import Problem, read_problems
    from mastlens.reporting import report
    from mastlens.reporting.demonstration import demo
    from mastlens.selection import Ranking, describe_rules, rank, select, selection_overlap
    from mastlens.statistics import (
        SampledAccuracy,
        SeedSpread,
        items_needed,
        mcnemar_power,
        sampled_accuracy,
        seed_spread,
        smallest_drop,
    )
    from mastlens.studies.reasoning import ReasoningTable, reasoning_table
    from mastlens.studies.reasoning_methods import ReasoningStudy
    from mastlens.studies.requests import Requests, unlearn_requests
    from mastlens.studies.runner import Study, run, run_study
    from mastlens.studies.settings import read_study
    from mastlens.unlearning import (
        ProbeSettings,
        SteeringTexts,
        TokenWeights,
        Unlearning,
        describe_objectives,
        register_objective,
        unlearn,
    )
    from mastlens.unlearning.drift import Drift, drift_by_step, measure_drift
    from mastlens.unlearning.traces import Traces, traces

_PUBLIC = {
    "ActivationPatches": "analysis.inside.patching",
    "Agreement": "analysis.increments.agreement",
    "Attack": "attacks",
    "AttackMethod": "attacks",
    "BadFile": "errors",
    "BadSetting": "errors",
    "CannotWrite": "errors",
    "CausalMap": "analysis.causal.causal_map",
    "Chat": "explorer.chatting",
    "Checkpoint": "checkpoints.checkpoint",
    "ChoiceScores": "evaluation.multiple_choice",
    "Collateral": "evaluation",
    "Comparison": "evaluation",
    "Coupling": "analysis.coupling.coupling",
    "CumulativeCurves": "analysis.causal.cumulative",
    "Departure": "analysis.inside.departing",
    "Depth": "evaluation",
    "Directions": "analysis.inside.directing",
    "Drift": "unlearning.drift",
    "Edit": "edits.edit",
    "EditComparison": "evaluation",
    "EndpointJudge": "evaluation.judges",
    "Estimate": "estimating",
    "Evaluation": "evaluation",
    "Exploration": "explorer",
    "Explorer": "explorer",
    "Features": "analysis.inside.featuring",
    "Geometry": "analysis.increments.geometry",
    "HookedModel": "models.hooked",
    "Inspection": "checkpoints.inspection",
    "Lineage": "checkpoints.lineage",
    "LocalJudge": "evaluation.judges",
    "LoraEdit": "edits.factors",
    "MastlensError": "errors",
    "MastlensWarning": "errors",
    "Metric": "evaluation.metrics",
    "MetricComparison": "evaluation.metrics",
    "MetricScores": "evaluation.metrics",
    "MissingPackage": "errors",
    "NoReply": "errors",
    "NotFound": "errors",
    "NotSupported": "errors",
    "NotTogether": "errors",
    "Organism": "organisms",
    "PaperFigures": "paper",
    "Paths": "analysis.inside.pathing",
    "ProbeSettings": "unlearning",
    "Problem": "problems.reading",
    "ProcessRewardModel": "evaluation.process.model",
    "PushedEdit": "edits.sharing",
    "RLVRRecipe": "organisms.rlvr",
    "Ranking": "selection",
    "ReasoningStudy": "studies.reasoning_methods",
    "ReasoningTable": "studies.reasoning",
    "Requests": "studies.requests",
    "RuleJudge": "evaluation.traces",
    "SafetyEvaluation": "evaluation.safety",
    "SampledAccuracy": "statistics",
    "Sampling": "decoding.sampling",
    "Scores": "analysis.scores.scored",
    "SeedSpread": "statistics",
    "StageRefused": "errors",
    "SharedFeatures": "analysis.inside.crosscoding",
    "Steering": "analysis.inside.steering",
    "SteeringTexts": "unlearning",
    "Study": "studies.runner",
    "TokenDifferences": "analysis.tokens",
    "TokenPenalty": "decoding.reflection",
    "TokenView": "explorer.token_view",
    "TokenWeights": "unlearning",
    "TraceComparison": "evaluation.traces",
    "TraceEvaluation": "evaluation.traces",
    "Traces": "unlearning.traces",
    "Training": "organisms.rlvr.record",
    "Trajectory": "analysis.trajectories.trajectory",
    "Undoing": "analysis.inside.undoing",
    "UnknownName": "errors",
    "Unlearning": "unlearning",
    "Writers": "analysis.inside.writing",
    "WrittenBias": "edits.steering",
    "apply_edit": "edits.applying",
    "attack": "attacks",
    "build_organism": "organisms",
    "causal_map": "analysis.causal.causal_map",
    "chat": "explorer.chatting",
    "choices": "evaluation.multiple_choice",
    "compare": "evaluation",
    "compare_edits": "evaluation",
    "compare_metrics": "evaluation.metrics",
    "compare_traces": "evaluation.traces",
    "compose_edit": "edits.applying",
    "convert_benchmark": "evaluation.suites.converting",
    "couple": "analysis.coupling.coupling",
    "cumulative_curves": "analysis.causal.cumulative",
    "demo": "reporting.demonstration",
    "depth_score": "evaluation",
    "describe_attacks": "attacks",
    "describe_columns": "columns",
    "describe_metrics": "evaluation.metrics",
    "describe_objectives": "unlearning",
    "describe_recipes": "organisms.rlvr",
    "describe_rules": "selection",
    "drift_by_step": "unlearning.drift",
    "estimate": "estimating",
    "evaluate": "evaluation",
    "evaluate_safety": "evaluation.safety",
    "evaluate_traces": "evaluation.traces",
    "explore": "explorer",
    "fetch_organism": "organisms",
    "figures": "paper",
    "geometry": "analysis.increments.geometry",
    "grade_disagreements": "evaluation",
    "harness_scores": "evaluation.harness",
    "inside_crosscoder": "analysis.inside.crosscoding",
    "inside_depart": "analysis.inside.departing",
    "inside_dictionary": "analysis.inside.featuring",
    "inside_direct": "analysis.inside.directing",
    "inside_patch": "analysis.inside.patching",
    "inside_path": "analysis.inside.pathing",
    "inside_steer": "analysis.inside.steering",
    "inside_undo": "analysis.inside.undoing",
    "inside_write": "analysis.inside.writing",
    "inspect": "checkpoints.inspection",
    "items_needed": "statistics",
    "judge_agreement": "evaluation.judges",
    "list_benchmarks": "evaluation.suites.converting",
    "list_organisms": "organisms",
    "lora_edit": "edits.factors",
    "mask_agreement": "analysis.increments.agreement",
    "mast_benchmarks": "evaluation.protocol",
    "mcnemar_power": "statistics",
    "measure_collateral": "evaluation",
    "measure_drift": "unlearning.drift",
    "measure_metrics": "evaluation.metrics",
    "merge": "analysis.increments.shards",
    "negate": "edits.negation",
    "organism_prm": "organisms.prm",
    "organism_trajectory": "organisms.replay",
    "push_edit": "edits.sharing",
    "rank": "selection",
    "rank_agreement": "analysis.causal.tables",
    "read_benchmark": "evaluation.benchmarks",
    "read_items": "evaluation.metrics.items",
    "read_problems": "problems.reading",
    "read_study": "studies.settings",
    "read_training": "organisms.rlvr.record",
    "reasoning_table": "studies.reasoning",
    "reflection_penalty": "decoding.reflection",
    "register_architecture": "architectures.catalogue",
    "register_architectures": "architectures.catalogue",
    "register_attack": "attacks",
    "register_metric": "evaluation.metrics",
    "register_objective": "unlearning",
    "register_organism": "organisms",
    "report": "reporting",
    "revert_edit": "edits.applying",
    "run": "studies.runner",
    "run_study": "studies.runner",
    "sampled_accuracy": "statistics",
    "scale_edit": "edits.applying",
    "score": "analysis.scores.scored",
    "score_choices": "evaluation.multiple_choice",
    "seed_spread": "statistics",
    "select": "selection",
    "selection_overlap": "selection",
    "show_edit": "edits.applying",
    "smallest_drop": "statistics",
    "steer_edit": "edits.steering",
    "take_benchmark": "evaluation.benchmarks",
    "token_differences": "analysis.tokens",
    "traces": "unlearning.traces",
    "trajectory": "analysis.trajectories.trajectory",
    "unlearn": "unlearning",
    "unlearn_requests": "studies.requests",
    "view_tokens": "explorer.token_view",
}

__all__ = [
    "ActivationPatches",
    "Agreement",
    "Attack",
    "AttackMethod",
    "BadFile",
    "BadSetting",
    "CannotWrite",
    "CausalMap",
    "Chat",
    "Checkpoint",
    "ChoiceScores",
    "Collateral",
    "Comparison",
    "Coupling",
    "CumulativeCurves",
    "Departure",
    "Depth",
    "Directions",
    "Drift",
    "Edit",
    "EditComparison",
    "EndpointJudge",
    "Estimate",
    "Evaluation",
    "Exploration",
    "Explorer",
    "Features",
    "Geometry",
    "HookedModel",
    "Inspection",
    "Lineage",
    "LocalJudge",
    "LoraEdit",
    "MastlensError",
    "MastlensWarning",
    "Metric",
    "MetricComparison",
    "MetricScores",
    "MissingPackage",
    "NoReply",
    "NotFound",
    "NotSupported",
    "NotTogether",
    "Organism",
    "PaperFigures",
    "Paths",
    "ProbeSettings",
    "Problem",
    "ProcessRewardModel",
    "PushedEdit",
    "RLVRRecipe",
    "Ranking",
    "ReasoningStudy",
    "ReasoningTable",
    "Requests",
    "RuleJudge",
    "SafetyEvaluation",
    "SampledAccuracy",
    "Sampling",
    "Scores",
    "SeedSpread",
    "SharedFeatures",
    "StageRefused",
    "Steering",
    "SteeringTexts",
    "Study",
    "TokenDifferences",
    "TokenPenalty",
    "TokenView",
    "TokenWeights",
    "TraceComparison",
    "TraceEvaluation",
    "Traces",
    "Training",
    "Trajectory",
    "Undoing",
    "UnknownName",
    "Unlearning",
    "Writers",
    "WrittenBias",
    "apply_edit",
    "attack",
    "build_organism",
    "causal_map",
    "chat",
    "choices",
    "compare",
    "compare_edits",
    "compare_metrics",
    "compare_traces",
    "compose_edit",
    "convert_benchmark",
    "couple",
    "cumulative_curves",
    "demo",
    "depth_score",
    "describe_attacks",
    "describe_columns",
    "describe_metrics",
    "describe_objectives",
    "describe_recipes",
    "describe_rules",
    "drift_by_step",
    "estimate",
    "evaluate",
    "evaluate_safety",
    "evaluate_traces",
    "explore",
    "fetch_organism",
    "figures",
    "geometry",
    "grade_disagreements",
    "harness_scores",
    "inside_crosscoder",
    "inside_depart",
    "inside_dictionary",
    "inside_direct",
    "inside_patch",
    "inside_path",
    "inside_steer",
    "inside_undo",
    "inside_write",
    "inspect",
    "items_needed",
    "judge_agreement",
    "list_benchmarks",
    "list_organisms",
    "lora_edit",
    "mask_agreement",
    "mast_benchmarks",
    "mcnemar_power",
    "measure_collateral",
    "measure_drift",
    "measure_metrics",
    "merge",
    "negate",
    "organism_prm",
    "organism_trajectory",
    "push_edit",
    "rank",
    "rank_agreement",
    "read_benchmark",
    "read_items",
    "read_problems",
    "read_study",
    "read_training",
    "reasoning_table",
    "reflection_penalty",
    "register_architecture",
    "register_architectures",
    "register_attack",
    "register_metric",
    "register_objective",
    "register_organism",
    "report",
    "revert_edit",
    "run",
    "run_study",
    "sampled_accuracy",
    "scale_edit",
    "score",
    "score_choices",
    "seed_spread",
    "select",
    "selection_overlap",
    "show_edit",
    "smallest_drop",
    "steer_edit",
    "take_benchmark",
    "token_differences",
    "traces",
    "trajectory",
    "unlearn",
    "unlearn_requests",
    "view_tokens",
]


_FORMER = {
    "evaluate_choices": "choices",
    "generate_traces": "traces",
    "negate_increment": "negate",
    "write_mast": "mast_benchmarks",
}

__getattr__, __dir__ = attach("mastlens", _PUBLIC, _FORMER)
