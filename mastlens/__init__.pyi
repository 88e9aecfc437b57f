"""Written by ``python -m mastlens.cli.stubs``; not to be edited."""

import mastlens.analysis.causal.causal_map
import mastlens.analysis.causal.cumulative
import mastlens.analysis.causal.settings
import mastlens.analysis.coupling.coupling
import mastlens.analysis.coupling.settings
import mastlens.analysis.increments.agreement
import mastlens.analysis.increments.geometry
import mastlens.analysis.increments.settings
import mastlens.analysis.inside.crosscoding
import mastlens.analysis.inside.departing
import mastlens.analysis.inside.directing
import mastlens.analysis.inside.featuring
import mastlens.analysis.inside.patching
import mastlens.analysis.inside.pathing
import mastlens.analysis.inside.settings
import mastlens.analysis.inside.steering
import mastlens.analysis.inside.undoing
import mastlens.analysis.inside.writing
import mastlens.analysis.scores.scored
import mastlens.analysis.scores.settings
import mastlens.analysis.settings
import mastlens.analysis.tokens
import mastlens.analysis.trajectories.settings
import mastlens.analysis.trajectories.trajectory
import mastlens.attacks.method
import mastlens.attacks.running
import mastlens.attacks.settings
import mastlens.checkpoints.inspection
import mastlens.checkpoints.settings
import mastlens.edits.edit
import mastlens.edits.factors
import mastlens.edits.settings
import mastlens.edits.sharing
import mastlens.edits.steering
import mastlens.estimating.needs
import mastlens.estimating.settings
import mastlens.evaluation.benchmarks
import mastlens.evaluation.collateral
import mastlens.evaluation.comparison
import mastlens.evaluation.depth.scoring
import mastlens.evaluation.depth.settings
import mastlens.evaluation.forgetting
import mastlens.evaluation.metrics.comparing
import mastlens.evaluation.metrics.settings
import mastlens.evaluation.multiple_choice
import mastlens.evaluation.responses
import mastlens.evaluation.safety.evaluating
import mastlens.evaluation.settings
import mastlens.evaluation.suites.settings
import mastlens.evaluation.traces.comparing
import mastlens.evaluation.traces.results
import mastlens.organisms.settings
import mastlens.paper.making
import mastlens.paper.settings
import mastlens.reporting.demonstration
import mastlens.reporting.settings
import mastlens.selection.ranking
import mastlens.selection.settings
import mastlens.studies.commands
import mastlens.studies.protocol
import mastlens.studies.reasoning
import mastlens.studies.runner
import mastlens.unlearning.anchor
import mastlens.unlearning.editing
import mastlens.unlearning.robustness
import mastlens.unlearning.settings
import mastlens.unlearning.token_weights
import mastlens.unlearning.traces
import collections.abc
import os
import pandas
import pathlib
from typing import Any, overload

from mastlens.analysis.inside.patching import ActivationPatches as ActivationPatches
from mastlens.analysis.increments.agreement import Agreement as Agreement
from mastlens.attacks import Attack as Attack
from mastlens.attacks import AttackMethod as AttackMethod
from mastlens.errors import BadFile as BadFile
from mastlens.errors import BadSetting as BadSetting
from mastlens.errors import CannotWrite as CannotWrite
from mastlens.analysis.causal.causal_map import CausalMap as CausalMap
from mastlens.explorer.chatting import Chat as Chat
from mastlens.checkpoints.checkpoint import Checkpoint as Checkpoint
from mastlens.evaluation.multiple_choice import ChoiceScores as ChoiceScores
from mastlens.evaluation import Collateral as Collateral
from mastlens.evaluation import Comparison as Comparison
from mastlens.analysis.coupling.coupling import Coupling as Coupling
from mastlens.analysis.causal.cumulative import CumulativeCurves as CumulativeCurves
from mastlens.analysis.inside.departing import Departure as Departure
from mastlens.evaluation import Depth as Depth
from mastlens.analysis.inside.directing import Directions as Directions
from mastlens.unlearning.drift import Drift as Drift
from mastlens.edits.edit import Edit as Edit
from mastlens.evaluation import EditComparison as EditComparison
from mastlens.evaluation.judges import EndpointJudge as EndpointJudge
from mastlens.estimating import Estimate as Estimate
from mastlens.evaluation import Evaluation as Evaluation
from mastlens.explorer import Exploration as Exploration
from mastlens.explorer import Explorer as Explorer
from mastlens.analysis.inside.featuring import Features as Features
from mastlens.analysis.increments.geometry import Geometry as Geometry
from mastlens.models.hooked import HookedModel as HookedModel
from mastlens.checkpoints.inspection import Inspection as Inspection
from mastlens.checkpoints.lineage import Lineage as Lineage
from mastlens.evaluation.judges import LocalJudge as LocalJudge
from mastlens.edits.factors import LoraEdit as LoraEdit
from mastlens.errors import MastlensError as MastlensError
from mastlens.errors import MastlensWarning as MastlensWarning
from mastlens.evaluation.metrics import Metric as Metric
from mastlens.evaluation.metrics import MetricComparison as MetricComparison
from mastlens.evaluation.metrics import MetricScores as MetricScores
from mastlens.errors import MissingPackage as MissingPackage
from mastlens.errors import NoReply as NoReply
from mastlens.errors import NotFound as NotFound
from mastlens.errors import NotSupported as NotSupported
from mastlens.errors import NotTogether as NotTogether
from mastlens.organisms import Organism as Organism
from mastlens.paper import PaperFigures as PaperFigures
from mastlens.analysis.inside.pathing import Paths as Paths
from mastlens.unlearning import ProbeSettings as ProbeSettings
from mastlens.problems.reading import Problem as Problem
from mastlens.evaluation.process.model import ProcessRewardModel as ProcessRewardModel
from mastlens.edits.sharing import PushedEdit as PushedEdit
from mastlens.organisms.rlvr import RLVRRecipe as RLVRRecipe
from mastlens.selection import Ranking as Ranking
from mastlens.studies.reasoning_methods import ReasoningStudy as ReasoningStudy
from mastlens.studies.reasoning import ReasoningTable as ReasoningTable
from mastlens.studies.requests import Requests as Requests
from mastlens.evaluation.traces import RuleJudge as RuleJudge
from mastlens.evaluation.safety import SafetyEvaluation as SafetyEvaluation
from mastlens.statistics import SampledAccuracy as SampledAccuracy
from mastlens.decoding.sampling import Sampling as Sampling
from mastlens.analysis.scores.scored import Scores as Scores
from mastlens.statistics import SeedSpread as SeedSpread
from mastlens.analysis.inside.crosscoding import SharedFeatures as SharedFeatures
from mastlens.errors import StageRefused as StageRefused
from mastlens.analysis.inside.steering import Steering as Steering
from mastlens.unlearning import SteeringTexts as SteeringTexts
from mastlens.studies.runner import Study as Study
from mastlens.analysis.tokens import TokenDifferences as TokenDifferences
from mastlens.decoding.reflection import TokenPenalty as TokenPenalty
from mastlens.explorer.token_view import TokenView as TokenView
from mastlens.unlearning import TokenWeights as TokenWeights
from mastlens.evaluation.traces import TraceComparison as TraceComparison
from mastlens.evaluation.traces import TraceEvaluation as TraceEvaluation
from mastlens.unlearning.traces import Traces as Traces
from mastlens.organisms.rlvr.record import Training as Training
from mastlens.analysis.trajectories.trajectory import Trajectory as Trajectory
from mastlens.analysis.inside.undoing import Undoing as Undoing
from mastlens.errors import UnknownName as UnknownName
from mastlens.unlearning import Unlearning as Unlearning
from mastlens.analysis.inside.writing import Writers as Writers
from mastlens.edits.steering import WrittenBias as WrittenBias
from mastlens.explorer.chatting import chat as chat
from mastlens.attacks import describe_attacks as describe_attacks
from mastlens.columns import describe_columns as describe_columns
from mastlens.evaluation.metrics import describe_metrics as describe_metrics
from mastlens.unlearning import describe_objectives as describe_objectives
from mastlens.organisms.rlvr import describe_recipes as describe_recipes
from mastlens.selection import describe_rules as describe_rules
from mastlens.unlearning.drift import drift_by_step as drift_by_step
from mastlens.explorer import explore as explore
from mastlens.evaluation import grade_disagreements as grade_disagreements
from mastlens.evaluation.harness import harness_scores as harness_scores
from mastlens.statistics import items_needed as items_needed
from mastlens.evaluation.judges import judge_agreement as judge_agreement
from mastlens.statistics import mcnemar_power as mcnemar_power
from mastlens.unlearning.drift import measure_drift as measure_drift
from mastlens.evaluation.metrics import measure_metrics as measure_metrics
from mastlens.analysis.causal.tables import rank_agreement as rank_agreement
from mastlens.evaluation.benchmarks import read_benchmark as read_benchmark
from mastlens.evaluation.metrics.items import read_items as read_items
from mastlens.problems.reading import read_problems as read_problems
from mastlens.studies.settings import read_study as read_study
from mastlens.organisms.rlvr.record import read_training as read_training
from mastlens.decoding.reflection import reflection_penalty as reflection_penalty
from mastlens.architectures.catalogue import register_architecture as register_architecture
from mastlens.architectures.catalogue import register_architectures as register_architectures
from mastlens.attacks import register_attack as register_attack
from mastlens.evaluation.metrics import register_metric as register_metric
from mastlens.unlearning import register_objective as register_objective
from mastlens.organisms import register_organism as register_organism
from mastlens.statistics import sampled_accuracy as sampled_accuracy
from mastlens.evaluation.multiple_choice import score_choices as score_choices
from mastlens.statistics import seed_spread as seed_spread
from mastlens.selection import select as select
from mastlens.selection import selection_overlap as selection_overlap
from mastlens.statistics import smallest_drop as smallest_drop
from mastlens.studies.requests import unlearn_requests as unlearn_requests
from mastlens.explorer.token_view import view_tokens as view_tokens

__version__: str
_PUBLIC: dict[str, str]
_FORMER: dict[str, str]
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

@overload
def apply_edit(settings: mastlens.edits.settings.ApplyEditSettings, /, **fields: Any) -> pathlib.Path: ...
@overload
def apply_edit(edit: str | os.PathLike[str] | Any, *, to: str | os.PathLike[str] | Any, out: str | os.PathLike[str], seed: int = ..., device: str = ..., progress: bool = ..., overwrite: bool = ...) -> pathlib.Path: ...

@overload
def attack(settings: mastlens.attacks.settings.AttackSettings, /, **fields: Any) -> mastlens.attacks.running.Attack: ...
@overload
def attack(name: str | mastlens.attacks.method.AttackMethod, *, model: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., edit: str | os.PathLike[str] | Any | None = ..., source: str | os.PathLike[str] | Any | None = ..., control: str | os.PathLike[str] | Any | None = ..., reference: str | os.PathLike[str] | Any | None = ..., train: str | os.PathLike[str] | None = ..., retain: str | os.PathLike[str] | None = ..., max_new_tokens: int = ..., grader: str | Any = ..., own: collections.abc.Mapping[str, Any] | None = ..., towards: collections.abc.Sequence[float] = ..., penalty: float = ..., shots: collections.abc.Sequence[int] = ..., prefills: collections.abc.Sequence[float] = ..., sparsity: collections.abc.Sequence[float] = ..., formats: collections.abc.Sequence[str] = ..., embeddings: bool = ..., steps: int = ..., lr: float | None = ..., train_batch_size: int = ..., ks: collections.abc.Sequence[int] = ..., draws: int | None = ..., temperature: float = ..., top_p: float = ..., vectors: int = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.attacks.running.Attack: ...

@overload
def build_organism(settings: mastlens.organisms.settings.BuildOrganismSettings, /, **fields: Any) -> pathlib.Path: ...
@overload
def build_organism(name: str, out: str | os.PathLike[str] | None = ..., *, trajectory: bool = ..., recipe: str | Any | None = ..., match: str | os.PathLike[str] | None = ..., start_seed: int | None = ..., prm: mastlens.evaluation.settings.PRMChoice | None = ..., judge: Any = ..., judged_by: mastlens.evaluation.settings.JudgeChoice | None = ..., numbers: Any = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> pathlib.Path: ...

@overload
def causal_map(settings: mastlens.analysis.causal.settings.CausalMapSettings, /, **fields: Any) -> mastlens.analysis.causal.causal_map.CausalMap: ...
@overload
def causal_map(*, forget: str | os.PathLike[str], sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., retain: str | os.PathLike[str] | None = ..., where: str | None = ..., heads: bool = ..., both_directions: bool = ..., accuracy: bool = ..., max_new_tokens: int = ..., grader: str | Any = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.causal.causal_map.CausalMap: ...

@overload
def choices(settings: mastlens.evaluation.settings.ChoicesSettings, /, **fields: Any) -> mastlens.evaluation.multiple_choice.ChoiceScores: ...
@overload
def choices(*, model: str | os.PathLike[str] | Any, questions: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., edit: str | os.PathLike[str] | Any | None = ..., ask: str = ..., think: str = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.multiple_choice.ChoiceScores: ...

@overload
def compare(settings: mastlens.evaluation.settings.CompareSettings, /, **fields: Any) -> mastlens.evaluation.comparison.Comparison: ...
@overload
def compare(before: str | os.PathLike[str], after: str | os.PathLike[str], *, clusters: str | None = ..., smallest: float = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> mastlens.evaluation.comparison.Comparison: ...

@overload
def compare_edits(settings: mastlens.evaluation.settings.CompareEditsSettings, /, **fields: Any) -> mastlens.evaluation.forgetting.EditComparison: ...
@overload
def compare_edits(source: str | os.PathLike[str], edits: collections.abc.Sequence[str | os.PathLike[str]] | collections.abc.Mapping[str, str | os.PathLike[str]], *, forget: collections.abc.Sequence[str] | None = ..., retain: collections.abc.Sequence[str] | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.forgetting.EditComparison: ...

@overload
def compare_metrics(settings: mastlens.evaluation.metrics.settings.CompareMetricsSettings, /, **fields: Any) -> mastlens.evaluation.metrics.comparing.MetricComparison: ...
@overload
def compare_metrics(before: str | os.PathLike[str], after: str | os.PathLike[str], *, reference: str | os.PathLike[str] | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.metrics.comparing.MetricComparison: ...

@overload
def compare_traces(settings: mastlens.evaluation.settings.CompareTracesSettings, /, **fields: Any) -> mastlens.evaluation.traces.comparing.TraceComparison: ...
@overload
def compare_traces(before: str | os.PathLike[str] | Any, after: str | os.PathLike[str] | Any, *, seed: int = ..., device: str = ..., progress: bool = ...) -> mastlens.evaluation.traces.comparing.TraceComparison: ...

@overload
def compose_edit(settings: mastlens.edits.settings.ComposeEditSettings, /, **fields: Any) -> mastlens.edits.edit.Edit: ...
@overload
def compose_edit(edit: str | os.PathLike[str] | Any, following: str | os.PathLike[str] | Any, *, out: str | os.PathLike[str], seed: int = ..., device: str = ..., progress: bool = ..., overwrite: bool = ...) -> mastlens.edits.edit.Edit: ...

@overload
def convert_benchmark(settings: mastlens.evaluation.suites.settings.ConvertBenchmarkSettings, /, **fields: Any) -> mastlens.evaluation.benchmarks.ProblemFiles: ...
@overload
def convert_benchmark(name: str, source: str | os.PathLike[str], *, part: str | None = ..., limit: int | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.benchmarks.ProblemFiles: ...

@overload
def couple(settings: mastlens.analysis.coupling.settings.CoupleSettings, /, **fields: Any) -> mastlens.analysis.coupling.coupling.Coupling: ...
@overload
def couple(*, forget: str | os.PathLike[str], sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., retain: str | os.PathLike[str] | None = ..., fisher: bool = ..., spectrum: bool = ..., directions: int = ..., where: str | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.coupling.coupling.Coupling: ...

@overload
def cumulative_curves(settings: mastlens.analysis.causal.settings.CumulativeCurvesSettings, /, **fields: Any) -> mastlens.analysis.causal.cumulative.CumulativeCurves: ...
@overload
def cumulative_curves(*, forget: str | os.PathLike[str], sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, ranking: str | os.PathLike[str] | collections.abc.Sequence[str] | Any, dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., retain: str | os.PathLike[str] | None = ..., direction: str = ..., draws: int = ..., points: int = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.causal.cumulative.CumulativeCurves: ...

@overload
def demo(settings: mastlens.reporting.settings.DemoCommandSettings, /, **fields: Any) -> mastlens.reporting.demonstration.Demonstration: ...
@overload
def demo(out: str | os.PathLike[str] = ..., *, settings: Any = ..., lineage: str | os.PathLike[str] | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., overwrite: bool = ...) -> mastlens.reporting.demonstration.Demonstration: ...

@overload
def depth_score(settings: mastlens.evaluation.depth.settings.DepthScoreSettings, /, **fields: Any) -> mastlens.evaluation.depth.scoring.Depth: ...
@overload
def depth_score(*, model: str | os.PathLike[str] | Any, reference: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., edit: str | os.PathLike[str] | Any | None = ..., source: str | os.PathLike[str] | Any | None = ..., tokens: str = ..., threshold: float = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.depth.scoring.Depth: ...

@overload
def estimate(settings: mastlens.estimating.settings.EstimateSettings, /, **fields: Any) -> mastlens.estimating.needs.Estimate: ...
@overload
def estimate(*what: collections.abc.Sequence[str], ranks: int = ..., given: collections.abc.Mapping[str, Any] | None = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> mastlens.estimating.needs.Estimate: ...

@overload
def evaluate(settings: mastlens.evaluation.settings.EvaluateSettings, /, **fields: Any) -> mastlens.evaluation.responses.Evaluation: ...
@overload
def evaluate(*, model: str | os.PathLike[str] | Any, dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., edit: str | os.PathLike[str] | Any | None = ..., think: str = ..., max_new_tokens: int | None = ..., samples: int = ..., temperature: float = ..., top_p: float = ..., engine: str = ..., tensor_parallel_size: int | None = ..., gpu_memory_utilization: float | None = ..., max_model_len: int | None = ..., enforce_eager: bool = ..., splits: collections.abc.Mapping[str, str | os.PathLike[str]] | None = ..., track: str | None = ..., stop_at_answer: bool = ..., solution_logprob: bool = ..., own_texts: bool = ..., grader: str | Any = ..., harness: mastlens.evaluation.settings.HarnessTasks | None = ..., metrics: mastlens.evaluation.metrics.settings.MetricChoice | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.responses.Evaluation: ...

@overload
def evaluate_safety(settings: mastlens.evaluation.settings.EvaluateSafetySettings, /, **fields: Any) -> mastlens.evaluation.safety.evaluating.SafetyEvaluation: ...
@overload
def evaluate_safety(*, model: str | os.PathLike[str] | Any, data: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., edit: str | os.PathLike[str] | Any | None = ..., think: str = ..., max_new_tokens: int | None = ..., samples: int = ..., temperature: float = ..., top_p: float = ..., judge: Any = ..., judged_by: mastlens.evaluation.settings.JudgeChoice | None = ..., judged: str = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.safety.evaluating.SafetyEvaluation: ...

@overload
def evaluate_traces(settings: mastlens.evaluation.settings.EvaluateTracesSettings, /, **fields: Any) -> mastlens.evaluation.traces.results.TraceEvaluation: ...
@overload
def evaluate_traces(*, model: str | os.PathLike[str] | Any, questions: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., edit: str | os.PathLike[str] | Any | None = ..., think: str = ..., max_new_tokens: int | None = ..., samples: int = ..., temperature: float = ..., top_p: float = ..., judge: Any = ..., judged_by: mastlens.evaluation.settings.JudgeChoice | None = ..., prm: mastlens.evaluation.settings.PRMChoice | None = ..., choices_think: str | None = ..., choices_ask: str = ..., judged: str = ..., reflection: float = ..., reflection_window: int | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.traces.results.TraceEvaluation: ...

@overload
def fetch_organism(settings: mastlens.organisms.settings.FetchOrganismSettings, /, **fields: Any) -> pathlib.Path: ...
@overload
def fetch_organism(name: str, *, source: str | os.PathLike[str] | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ...) -> pathlib.Path: ...

@overload
def figures(settings: mastlens.paper.settings.FiguresSettings, /, **fields: Any) -> mastlens.paper.making.PaperFigures: ...
@overload
def figures(out: str | os.PathLike[str] = ..., *, demo: str | os.PathLike[str] = ..., study: str | os.PathLike[str] | None = ..., only: collections.abc.Sequence[str] = ..., images: collections.abc.Sequence[str] = ..., subtitle: str = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> mastlens.paper.making.PaperFigures: ...

@overload
def geometry(settings: mastlens.analysis.increments.settings.GeometrySettings, /, **fields: Any) -> mastlens.analysis.increments.geometry.Geometry: ...
@overload
def geometry(*, base: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, sft: str | os.PathLike[str] | Any | None = ..., rank: int | float | str = ..., full: bool = ..., masks: bool = ..., spectra: bool = ..., heads: bool = ..., where: str | None = ..., workers: int | None = ..., executor: str = ..., shard: str | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.increments.geometry.Geometry: ...

@overload
def inside_crosscoder(settings: mastlens.analysis.inside.settings.InsideCrosscoderSettings, /, **fields: Any) -> mastlens.analysis.inside.crosscoding.SharedFeatures: ...
@overload
def inside_crosscoder(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], crosscoder: str | os.PathLike[str], layer: int, dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., draws: int = ..., site: str = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.inside.crosscoding.SharedFeatures: ...

@overload
def inside_depart(settings: mastlens.analysis.inside.settings.InsideDepartSettings, /, **fields: Any) -> mastlens.analysis.inside.departing.Departure: ...
@overload
def inside_depart(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., draws: int = ..., lens: bool = ..., tuned_lens: collections.abc.Sequence[str | os.PathLike[str]] | None = ..., lens_tokens: int = ..., positions: int = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.inside.departing.Departure: ...

@overload
def inside_dictionary(settings: mastlens.analysis.inside.settings.InsideDictionarySettings, /, **fields: Any) -> mastlens.analysis.inside.featuring.Features: ...
@overload
def inside_dictionary(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], dictionary: str | os.PathLike[str], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., draws: int = ..., site: str | None = ..., layer: int | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.inside.featuring.Features: ...

@overload
def inside_direct(settings: mastlens.analysis.inside.settings.InsideDirectSettings, /, **fields: Any) -> mastlens.analysis.inside.directing.Directions: ...
@overload
def inside_direct(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, texts: str | os.PathLike[str], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., draws: int = ..., label: str = ..., sites: collections.abc.Sequence[str] = ..., layers: collections.abc.Sequence[int] | None = ..., positions: collections.abc.Sequence[int] = ..., probes: collections.abc.Sequence[str] = ..., penalty: float = ..., shuffles: int = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.inside.directing.Directions: ...

@overload
def inside_patch(settings: mastlens.analysis.inside.settings.InsidePatchSettings, /, **fields: Any) -> mastlens.analysis.inside.patching.ActivationPatches: ...
@overload
def inside_patch(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., draws: int = ..., sites: collections.abc.Sequence[str] = ..., layers: collections.abc.Sequence[int] | None = ..., exact: bool = ..., integrate: int = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.inside.patching.ActivationPatches: ...

@overload
def inside_path(settings: mastlens.analysis.inside.settings.InsidePathSettings, /, **fields: Any) -> mastlens.analysis.inside.pathing.Paths: ...
@overload
def inside_path(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], senders: collections.abc.Sequence[str], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., draws: int = ..., receivers: collections.abc.Sequence[str] = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.inside.pathing.Paths: ...

@overload
def inside_steer(settings: mastlens.analysis.inside.settings.InsideSteerSettings, /, **fields: Any) -> mastlens.analysis.inside.steering.Steering: ...
@overload
def inside_steer(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], directions: str | os.PathLike[str], direction: str, dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., draws: int = ..., doses: collections.abc.Sequence[float] = ..., project: bool = ..., max_new_tokens: int = ..., grader: str | Any = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.inside.steering.Steering: ...

@overload
def inside_undo(settings: mastlens.analysis.inside.settings.InsideUndoSettings, /, **fields: Any) -> mastlens.analysis.inside.undoing.Undoing: ...
@overload
def inside_undo(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], edited: str | os.PathLike[str] | Any, dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., draws: int = ..., sites: collections.abc.Sequence[str] = ..., layers: collections.abc.Sequence[int] | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.inside.undoing.Undoing: ...

@overload
def inside_write(settings: mastlens.analysis.inside.settings.InsideWriteSettings, /, **fields: Any) -> mastlens.analysis.inside.writing.Writers: ...
@overload
def inside_write(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., draws: int = ..., against: str | None = ..., first: int = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.inside.writing.Writers: ...

@overload
def inspect(settings: mastlens.checkpoints.settings.InspectSettings, /, **fields: Any) -> mastlens.checkpoints.inspection.Inspection: ...
@overload
def inspect(path: str | os.PathLike[str] | Any, *, verify: bool = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> mastlens.checkpoints.inspection.Inspection: ...

@overload
def list_benchmarks(settings: mastlens.evaluation.suites.settings.ListBenchmarksSettings, /, **fields: Any) -> pandas.DataFrame: ...
@overload
def list_benchmarks(*, seed: int = ..., device: str = ..., progress: bool = ...) -> pandas.DataFrame: ...

@overload
def list_organisms(settings: mastlens.organisms.settings.ListOrganismsSettings, /, **fields: Any) -> pandas.DataFrame: ...
@overload
def list_organisms(*, seed: int = ..., device: str = ..., progress: bool = ...) -> pandas.DataFrame: ...

@overload
def lora_edit(settings: mastlens.edits.settings.LoraEditSettings, /, **fields: Any) -> mastlens.edits.factors.LoraEdit: ...
@overload
def lora_edit(edit: str | os.PathLike[str] | Any, *, to: str | os.PathLike[str] | Any, out: str | os.PathLike[str], rank: int | None = ..., error: float = ..., seed: int = ..., device: str = ..., progress: bool = ..., overwrite: bool = ...) -> mastlens.edits.factors.LoraEdit: ...

@overload
def mask_agreement(settings: mastlens.analysis.increments.settings.MaskAgreementSettings, /, **fields: Any) -> mastlens.analysis.increments.agreement.Agreement: ...
@overload
def mask_agreement(reference: str | os.PathLike[str] | Any, runs: collections.abc.Sequence[str | os.PathLike[str] | Any] | collections.abc.Mapping[str, Any], *, view: str = ..., where: str | None = ..., tolerance: float = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.increments.agreement.Agreement: ...

@overload
def mast_benchmarks(settings: mastlens.evaluation.settings.MastBenchmarksSettings, /, **fields: Any) -> mastlens.evaluation.benchmarks.ProblemFiles: ...
@overload
def mast_benchmarks(*, math: str | os.PathLike[str], gsm8k: str | os.PathLike[str], style: str = ..., shots: int = ..., math_train: str | os.PathLike[str] | None = ..., gsm8k_train: str | os.PathLike[str] | None = ..., forget: int = ..., retain_math: int = ..., retain_gsm: int = ..., calibration: int = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.benchmarks.ProblemFiles: ...

@overload
def measure_collateral(settings: mastlens.evaluation.settings.CollateralSettings, /, **fields: Any) -> mastlens.evaluation.collateral.Collateral: ...
@overload
def measure_collateral(*, model: str | os.PathLike[str] | Any, edit: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., neutral: str | os.PathLike[str] | None = ..., before: str | os.PathLike[str] | None = ..., after: str | os.PathLike[str] | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.evaluation.collateral.Collateral: ...

@overload
def merge(settings: mastlens.analysis.increments.settings.MergeSettings, /, **fields: Any) -> mastlens.analysis.increments.geometry.Geometry: ...
@overload
def merge(*shards: str | os.PathLike[str], seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.increments.geometry.Geometry: ...

@overload
def negate(settings: mastlens.edits.settings.NegateSettings, /, **fields: Any) -> mastlens.edits.edit.Edit: ...
@overload
def negate(*, sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, ranking: str | os.PathLike[str] | None = ..., where: str | None = ..., all_parameters: bool = ..., names: collections.abc.Sequence[str] | None = ..., base: str | os.PathLike[str] | Any | None = ..., everything: bool = ..., scale: float = ..., part: str = ..., rank: int = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.edits.edit.Edit: ...

@overload
def organism_prm(settings: mastlens.organisms.settings.TrainPRMSettings, /, **fields: Any) -> pathlib.Path: ...
@overload
def organism_prm(name: str, out: str | os.PathLike[str] | None = ..., *, model: str | os.PathLike[str] | Any | None = ..., steps: int = ..., batch_size: int = ..., lr: float = ..., items: int = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> pathlib.Path: ...

@overload
def organism_trajectory(settings: mastlens.organisms.settings.OrganismTrajectorySettings, /, **fields: Any) -> pathlib.Path: ...
@overload
def organism_trajectory(name: str, *, cache: str | os.PathLike[str] | None = ..., lineage: str | os.PathLike[str] | None = ..., recipe: Any = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> pathlib.Path: ...

@overload
def push_edit(settings: mastlens.edits.settings.PushEditSettings, /, **fields: Any) -> mastlens.edits.sharing.PushedEdit: ...
@overload
def push_edit(edit: str | os.PathLike[str] | Any, repository: str, *, to: str | os.PathLike[str] | Any, private: bool = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> mastlens.edits.sharing.PushedEdit: ...

@overload
def rank(settings: mastlens.selection.settings.RankSettings, /, **fields: Any) -> mastlens.selection.ranking.Ranking: ...
@overload
def rank(folder: str | os.PathLike[str], *, rule: str = ..., top: int | None = ..., match: str = ..., parameters: collections.abc.Mapping[str, float] | None = ..., candidates: str | os.PathLike[str] | Any | None = ..., anyway: bool = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.selection.ranking.Ranking: ...

@overload
def reasoning_table(settings: mastlens.studies.commands.ReasoningTableSettings, /, **fields: Any) -> mastlens.studies.reasoning.ReasoningTable: ...
@overload
def reasoning_table(study: Any = ..., *, organism: bool = ..., model: str | None = ..., reference: str | None = ..., forget: str | None = ..., retain: str | None = ..., cot: str | None = ..., questions: str | None = ..., utility: str | None = ..., maths: str | None = ..., facts: str | None = ..., where: str | None = ..., layer: int | None = ..., steps: int | None = ..., lr: float | None = ..., steering: float | None = ..., retain_weight: float | None = ..., methods: collections.abc.Sequence[str] | None = ..., seeds: int | collections.abc.Sequence[int] = ..., judge: Any = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.studies.reasoning.ReasoningTable: ...

@overload
def report(settings: mastlens.reporting.settings.ReportSettings, /, **fields: Any) -> pathlib.Path: ...
@overload
def report(folder: str | os.PathLike[str], *, before: str | os.PathLike[str] | None = ..., smallest_lift: float = ..., pdf: bool = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> pathlib.Path: ...

@overload
def revert_edit(settings: mastlens.edits.settings.RevertEditSettings, /, **fields: Any) -> pathlib.Path: ...
@overload
def revert_edit(edit: str | os.PathLike[str] | Any, *, source: str | os.PathLike[str] | Any, out: str | os.PathLike[str], seed: int = ..., device: str = ..., progress: bool = ..., overwrite: bool = ...) -> pathlib.Path: ...

@overload
def run(settings: mastlens.studies.commands.RunSettings, /, **fields: Any) -> mastlens.studies.runner.Study | mastlens.studies.protocol.ProtocolRun: ...
@overload
def run(study: str | os.PathLike[str] | Any, out: str | os.PathLike[str] | None = ..., *, organism: str | None = ..., workers: int | None = ..., executor: str = ..., model: str | os.PathLike[str] | Any | None = ..., source: str | os.PathLike[str] | None = ..., sft: str | os.PathLike[str] | Any | None = ..., base: str | os.PathLike[str] | Any | None = ..., reference: str | os.PathLike[str] | Any | None = ..., limit: int | None = ..., steps: int | None = ..., batch_size: int | None = ..., max_new_tokens: int | None = ..., where: str | None = ..., layer: int | None = ..., judged_by: mastlens.evaluation.settings.JudgeChoice | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., overwrite: bool = ...) -> mastlens.studies.runner.Study | mastlens.studies.protocol.ProtocolRun: ...

@overload
def run_study(settings: mastlens.studies.commands.RunSettings, /, **fields: Any) -> mastlens.studies.runner.Study | mastlens.studies.protocol.ProtocolRun: ...
@overload
def run_study(study: str | os.PathLike[str] | Any, out: str | os.PathLike[str] | None = ..., *, organism: str | None = ..., workers: int | None = ..., executor: str = ..., model: str | os.PathLike[str] | Any | None = ..., source: str | os.PathLike[str] | None = ..., sft: str | os.PathLike[str] | Any | None = ..., base: str | os.PathLike[str] | Any | None = ..., reference: str | os.PathLike[str] | Any | None = ..., limit: int | None = ..., steps: int | None = ..., batch_size: int | None = ..., max_new_tokens: int | None = ..., where: str | None = ..., layer: int | None = ..., judged_by: mastlens.evaluation.settings.JudgeChoice | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., overwrite: bool = ...) -> mastlens.studies.runner.Study | mastlens.studies.protocol.ProtocolRun: ...

@overload
def scale_edit(settings: mastlens.edits.settings.ScaleEditSettings, /, **fields: Any) -> mastlens.edits.edit.Edit: ...
@overload
def scale_edit(edit: str | os.PathLike[str] | Any, *, by: float, out: str | os.PathLike[str], seed: int = ..., device: str = ..., progress: bool = ..., overwrite: bool = ...) -> mastlens.edits.edit.Edit: ...

@overload
def score(settings: mastlens.analysis.scores.settings.ScoreSettings, /, **fields: Any) -> mastlens.analysis.scores.scored.Scores: ...
@overload
def score(rule: str, *, forget: str | os.PathLike[str], sft: str | os.PathLike[str] | Any, rlvr: str | os.PathLike[str] | Any, dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., retain: str | os.PathLike[str] | None = ..., where: str | None = ..., retain_weight: float = ..., grader: str | Any = ..., parameters: collections.abc.Mapping[str, float] | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.scores.scored.Scores: ...

@overload
def show_edit(settings: mastlens.edits.settings.ShowEditSettings, /, **fields: Any) -> mastlens.edits.edit.Edit: ...
@overload
def show_edit(edit: str | os.PathLike[str] | Any, *, seed: int = ..., device: str = ..., progress: bool = ...) -> mastlens.edits.edit.Edit: ...

@overload
def steer_edit(settings: mastlens.edits.settings.SteerEditSettings, /, **fields: Any) -> mastlens.edits.steering.WrittenBias: ...
@overload
def steer_edit(*, to: str | os.PathLike[str] | Any, directions: str | os.PathLike[str], direction: str, dose: float, out: str | os.PathLike[str], seed: int = ..., device: str = ..., progress: bool = ..., overwrite: bool = ...) -> mastlens.edits.steering.WrittenBias: ...

@overload
def take_benchmark(settings: mastlens.evaluation.settings.TakeBenchmarkSettings, /, **fields: Any) -> mastlens.evaluation.benchmarks.ProblemFiles: ...
@overload
def take_benchmark(source: str | os.PathLike[str], *, out: str | os.PathLike[str], style: str = ..., shots: int = ..., hub_split: str = ..., subjects: collections.abc.Sequence[str] = ..., levels: collections.abc.Sequence[int] = ..., count: int | None = ..., examples: str | os.PathLike[str] | None = ..., seed: int = ..., device: str = ..., progress: bool = ...) -> mastlens.evaluation.benchmarks.ProblemFiles: ...

@overload
def token_differences(settings: mastlens.analysis.settings.TokenDifferencesSettings, /, **fields: Any) -> mastlens.analysis.tokens.TokenDifferences: ...
@overload
def token_differences(*, rlvr: str | os.PathLike[str] | Any, splits: collections.abc.Mapping[str, str | os.PathLike[str]], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., base: str | os.PathLike[str] | Any | None = ..., sft: str | os.PathLike[str] | Any | None = ..., quantiles: int = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.tokens.TokenDifferences: ...

@overload
def traces(settings: mastlens.unlearning.settings.TracesSettings, /, **fields: Any) -> mastlens.unlearning.traces.Traces: ...
@overload
def traces(*, model: str | os.PathLike[str] | Any, forget: str | os.PathLike[str], dtype: str = ..., batch_size: int | str = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., preset: str = ..., segments: int | None = ..., segment_tokens: int | None = ..., trigger: str | None = ..., trigger_place: str | None = ..., max_new_tokens: int | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.unlearning.traces.Traces: ...

@overload
def trajectory(settings: mastlens.analysis.trajectories.settings.TrajectorySettings, /, **fields: Any) -> mastlens.analysis.trajectories.trajectory.Trajectory: ...
@overload
def trajectory(*paths: str | os.PathLike[str] | Any, start: str | os.PathLike[str] | Any | None = ..., steps: collections.abc.Sequence[int] | None = ..., base: str | os.PathLike[str] | Any | None = ..., window: int | float | None = ..., rank: int = ..., extrapolate: int | None = ..., reconstruct: int | None = ..., matrix_rank_1: bool = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.analysis.trajectories.trajectory.Trajectory: ...

@overload
def unlearn(settings: mastlens.unlearning.settings.UnlearnSettings, /, **fields: Any) -> mastlens.unlearning.editing.Unlearning: ...
@overload
def unlearn(*, forget: str | os.PathLike[str], rlvr: str | os.PathLike[str] | Any, objective: str, steps: int, lr: float, ranking: str | os.PathLike[str] | None = ..., where: str | None = ..., all_parameters: bool = ..., names: collections.abc.Sequence[str] | None = ..., dtype: str = ..., batch_size: int = ..., limit: int | None = ..., chat_template: bool = ..., system_prompt: str | None = ..., few_shot: int | str | os.PathLike[str] | None = ..., answer_format: str = ..., retain: str | os.PathLike[str] | None = ..., preset: str | None = ..., coefficients: collections.abc.Mapping[str, float] | None = ..., refusals: str | os.PathLike[str] | None = ..., allow_overlap: bool = ..., schedule: str = ..., warmup: int = ..., optimizer: str = ..., orthogonal_to_retain: int = ..., micro_batch: int | str = ..., checkpoint_activations: str = ..., track: str | None = ..., cache_mb: float = ..., traces: str | os.PathLike[str] | None = ..., cot: str | os.PathLike[str] | None = ..., sft: str | os.PathLike[str] | Any | None = ..., start: str = ..., noise: float = ..., own_responses: mastlens.unlearning.settings.OwnResponses | None = ..., responses: str | os.PathLike[str] | None = ..., robust: mastlens.unlearning.robustness.Robustness | None = ..., anchor: mastlens.unlearning.anchor.Anchor | None = ..., token_weights: mastlens.unlearning.token_weights.TokenWeights | bool | None = ..., probes: mastlens.unlearning.settings.ProbeSettings | None = ..., gamma: float | None = ..., retain_weight: float | None = ..., retain_loss: str | None = ..., beta: float | None = ..., gate: str | None = ..., price: float | None = ..., layer: int | None = ..., steering: float | None = ..., control_norm: float | None = ..., unthink_weight: float | None = ..., text_tokens: int | None = ..., trace_tokens: int | None = ..., in_context: bool | None = ..., cot_weight: float | None = ..., cot_tokens: int | None = ..., imitation: str | None = ..., reflection_weight: float | None = ..., reflection: str | None = ..., beta2: float | None = ..., delta: float | None = ..., seed: int = ..., device: str = ..., progress: bool = ..., out: str | os.PathLike[str] | None = ..., overwrite: bool = ...) -> mastlens.unlearning.editing.Unlearning: ...
