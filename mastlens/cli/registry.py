"""Every command: where its settings are declared, and what shows its result on a terminal."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

from mastlens.cli.outcome import Outcome
from mastlens.cli.reading import settings_from
from mastlens.errors import NotSupported
from mastlens.runs.devices import check_device
from mastlens.runs.ranks import over_ranks
from mastlens.runs.settings import Settings
from mastlens.runs.words import following


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        declaration: ``module:class`` of its settings; the rest of what is said of it stands there.
        shown: ``module:function`` that takes the result and the settings and returns an ``Outcome``.
        prepared: ``module:function`` from the settings as they were typed to those of the function; empty for none.
    """

    declaration: str
    shown: str
    prepared: str = ""

    @property
    def settings(self) -> type[Settings]:
        """Its settings."""
        return named(self.declaration)


COMMANDS = (
    Command("mastlens.reporting.settings:DemoCommandSettings", "mastlens.cli.commands:demo"),
    Command("mastlens.checkpoints.settings:InspectSettings", "mastlens.cli.weights:inspect"),
    Command("mastlens.analysis.increments.settings:GeometrySettings", "mastlens.cli.weights:geometry"),
    Command("mastlens.analysis.increments.settings:MergeSettings", "mastlens.cli.weights:geometry"),
    Command("mastlens.analysis.increments.settings:MaskAgreementSettings", "mastlens.cli.weights:mask_agreement"),
    Command("mastlens.analysis.trajectories.settings:TrajectorySettings", "mastlens.cli.weights:trajectory"),
    Command("mastlens.analysis.settings:TokenDifferencesSettings", "mastlens.cli.mechanism:token_differences"),
    Command("mastlens.analysis.coupling.settings:CoupleSettings", "mastlens.cli.mechanism:couple"),
    Command("mastlens.analysis.scores.settings:ScoreSettings", "mastlens.cli.mechanism:score"),
    Command("mastlens.selection.settings:RankSettings", "mastlens.cli.mechanism:rank"),
    Command("mastlens.analysis.causal.settings:CausalMapSettings", "mastlens.cli.mechanism:causal_map"),
    Command("mastlens.analysis.causal.settings:CumulativeCurvesSettings", "mastlens.cli.mechanism:cumulative_curves"),
    Command("mastlens.analysis.inside.settings:InsideDepartSettings", "mastlens.cli.inside:inside_depart"),
    Command("mastlens.analysis.inside.settings:InsideWriteSettings", "mastlens.cli.inside:inside_write"),
    Command("mastlens.analysis.inside.settings:InsidePatchSettings", "mastlens.cli.inside:inside_patch"),
    Command("mastlens.analysis.inside.settings:InsidePathSettings", "mastlens.cli.inside:inside_path"),
    Command("mastlens.analysis.inside.settings:InsideDirectSettings", "mastlens.cli.inside:inside_direct"),
    Command("mastlens.analysis.inside.settings:InsideSteerSettings", "mastlens.cli.inside:inside_steer"),
    Command("mastlens.analysis.inside.settings:InsideUndoSettings", "mastlens.cli.inside:inside_undo"),
    Command("mastlens.analysis.inside.settings:InsideDictionarySettings", "mastlens.cli.inside:inside_dictionary"),
    Command("mastlens.analysis.inside.settings:InsideCrosscoderSettings", "mastlens.cli.inside:inside_crosscoder"),
    Command("mastlens.unlearning.settings:TracesSettings", "mastlens.cli.unlearning:traces"),
    Command("mastlens.unlearning.settings:UnlearnSettings", "mastlens.cli.unlearning:unlearn"),
    Command("mastlens.edits.settings:NegateSettings", "mastlens.cli.edits:negate"),
    Command("mastlens.edits.settings:ShowEditSettings", "mastlens.cli.edits:edit_show"),
    Command("mastlens.edits.settings:ApplyEditSettings", "mastlens.cli.edits:edit_folder"),
    Command("mastlens.edits.settings:RevertEditSettings", "mastlens.cli.edits:edit_folder"),
    Command("mastlens.edits.settings:ScaleEditSettings", "mastlens.cli.edits:edit_file"),
    Command("mastlens.edits.settings:ComposeEditSettings", "mastlens.cli.edits:edit_file"),
    Command("mastlens.edits.settings:LoraEditSettings", "mastlens.cli.edits:edit_lora"),
    Command("mastlens.edits.settings:SteerEditSettings", "mastlens.cli.edits:edit_steer"),
    Command("mastlens.edits.settings:PushEditSettings", "mastlens.cli.edits:edit_push"),
    Command("mastlens.evaluation.settings:EvaluateSettings", "mastlens.cli.judging:evaluate"),
    Command("mastlens.evaluation.settings:CompareSettings", "mastlens.cli.judging:compare"),
    Command("mastlens.evaluation.metrics.settings:CompareMetricsSettings", "mastlens.cli.judging:compare_metrics"),
    Command("mastlens.evaluation.settings:CollateralSettings", "mastlens.cli.judging:measure_collateral"),
    Command("mastlens.evaluation.depth.settings:DepthScoreSettings", "mastlens.cli.judging:depth_score"),
    Command("mastlens.evaluation.settings:CompareEditsSettings", "mastlens.cli.judging:compare_edits"),
    Command("mastlens.evaluation.settings:ChoicesSettings", "mastlens.cli.judging:choices"),
    Command("mastlens.evaluation.settings:EvaluateTracesSettings", "mastlens.cli.judging:evaluate_traces"),
    Command("mastlens.evaluation.settings:CompareTracesSettings", "mastlens.cli.judging:compare_traces"),
    Command("mastlens.evaluation.settings:EvaluateSafetySettings", "mastlens.cli.judging:evaluate_safety"),
    Command("mastlens.evaluation.settings:MastBenchmarksSettings", "mastlens.cli.judging:mast_benchmarks"),
    Command("mastlens.evaluation.settings:TakeBenchmarkSettings", "mastlens.cli.judging:take_benchmark"),
    Command("mastlens.evaluation.suites.settings:ListBenchmarksSettings", "mastlens.cli.judging:list_benchmarks"),
    Command("mastlens.evaluation.suites.settings:ConvertBenchmarkSettings", "mastlens.cli.judging:convert_benchmark"),
    Command("mastlens.attacks.settings:AttackSettings", "mastlens.cli.attacks:attack"),
    Command("mastlens.studies.commands:RunSettings", "mastlens.cli.studies:run"),
    Command("mastlens.studies.commands:ReasoningTableSettings", "mastlens.cli.studies:reasoning_table"),
    Command("mastlens.paper.settings:FiguresSettings", "mastlens.cli.figures:figures"),
    Command("mastlens.reporting.settings:ReportSettings", "mastlens.cli.commands:report"),
    Command(
        "mastlens.estimating.settings:EstimateSettings",
        "mastlens.cli.estimating:estimate",
        "mastlens.cli.estimating:of_words",
    ),
    Command("mastlens.organisms.settings:ListOrganismsSettings", "mastlens.cli.commands:organism_list"),
    Command("mastlens.organisms.settings:OrganismTrajectorySettings", "mastlens.cli.commands:organism_trajectory"),
    Command("mastlens.organisms.settings:BuildOrganismSettings", "mastlens.cli.commands:organism_build"),
    Command("mastlens.organisms.settings:FetchOrganismSettings", "mastlens.cli.commands:organism_build"),
    Command("mastlens.organisms.settings:TrainPRMSettings", "mastlens.cli.commands:organism_prm"),
)
"""Every command, in the order of the help."""

NOUNS = {
    "inside": "what changed in the computation: activations of a pair of models",
    "edit": "show, apply, revert, scale, compose or push edits, or write them as LoRA; write steering as a bias",
    "benchmarks": "public benchmarks as problem files, those of unlearning among them",
    "organism": "really trained lineages: shipped, fetched or built",
}
"""First words of the commands that have two, with what they are about."""


def named(place: str) -> Any:
    """Return what ``module:name`` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def handler(command: Command) -> Callable[[argparse.Namespace], Outcome]:
    """Return what runs a command on what was typed."""
    return partial(_run, command)


def _run(command: Command, arguments: argparse.Namespace) -> Outcome:
    from mastlens.plots.cards.carded import Carded  # what it stands on takes longer than a command line

    if over_ranks() and not command.settings.over_ranks:
        able = ", ".join(each.settings.command for each in COMMANDS if each.settings.over_ranks)
        raise NotSupported(
            f"{command.settings.command} is one process, and torchrun started several: type it without torchrun. Over "
            f"ranks run: {able}."
        )
    settings = settings_from(command.settings, arguments)
    check_device(settings.device)
    settings = named(command.prepared)(settings) if command.prepared else settings
    result = named(settings.function)(settings)
    outcome = named(command.shown)(result, settings)
    said = result.card().verdict if isinstance(result, Carded) else ""
    then = following(settings) if not outcome.then else outcome.then
    return replace(outcome, conclusion=outcome.conclusion or said, then=then)
