"""From the study file to its arms: every objective with every selection, draw and seed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import BadSetting, MastlensError, NotSupported, unknown
from mastlens.studies.arms import Arm
from mastlens.studies.reading import from_table, located
from mastlens.studies.selecting import Selected, is_random, resolve, selection_settings
from mastlens.studies.settings import SOURCE, ComparisonSettings, NegationSettings, StudySettings
from mastlens.unlearning.objectives import OBJECTIVES, coefficient_names, make_objective
from mastlens.unlearning.token_weights import TokenWeights

_RETAINED = "+retain"
_RESTORED = "+from-sft"


def objective_settings(settings: StudySettings, label: str) -> dict[str, Any]:
    """Return what ``make_objective`` is asked for: a table of the study file, or an objective's name.

    Raises:
        MastlensError: For an unknown objective or coefficient.
    """
    if label not in settings.objectives and label not in OBJECTIVES:
        raise unknown("objective", label, [*settings.objectives, *OBJECTIVES])
    asked = dict(settings.objectives.get(label, {"name": label}))
    where = f"[objectives.{label}]"
    if "name" not in asked:
        raise BadSetting(f"{where}: name is missing; it is one of {', '.join(OBJECTIVES)}.")
    # A study comes from anywhere: it names objectives that are installed or registered here, and no file to be run.
    if not isinstance(asked["name"], str) or asked["name"] not in OBJECTIVES:
        raise located(unknown("objective", str(asked["name"]), OBJECTIVES), where)
    try:
        known = ["name", "preset", *coefficient_names(), *OBJECTIVES.find(asked["name"]).coefficients()]
    except MastlensError as error:
        raise type(error)(f"{where}: {error}") from error
    for key in asked:
        if key not in known:
            raise BadSetting(f"{where}: {unknown('key', key, known)}")
    if "token_weights" in asked:
        asked["token_weights"] = from_table(TokenWeights, asked["token_weights"], f"{where}, token_weights")
    return asked


def check_objectives(settings: StudySettings) -> None:
    """Raise for an objective that cannot be made, before anything is measured."""
    for comparison in settings.compare:
        for label in comparison.objectives:
            objective = make_objective(**_making(settings, comparison, label))
            if objective.needs.increment and comparison.start != SOURCE:
                raise NotSupported(f"{objective.name} begins at the source: leave start = '{comparison.start}' out.")


def plan_arms(settings: StudySettings, out: Path, checkpoint: Checkpoint, *, seed: int) -> list[Arm]:
    """Return every arm of a study: the stages of the lineage first, then edits.

    Args:
        settings: The study.
        out: Where the tables are that rules read.
        checkpoint: The checkpoint to edit.
        seed: Of the random draws.

    Raises:
        MastlensError: If two comparisons ask for one arm in two ways.
    """
    lineage = settings.lineage
    stages = {"rlvr": lineage.rlvr, "reference": lineage.reference, "sft": lineage.sft}
    arms = {
        role: Arm(role, "model", role, making={"checkpoint": spec}) for role, spec in stages.items() if spec is not None
    }
    for comparison in settings.compare:
        for arm in _compared(settings, comparison, out, checkpoint, seed):
            _add(arms, arm)
    for negation in settings.negate:
        for arm in _negated(settings, negation, out, checkpoint, seed):
            _add(arms, arm)
    return list(arms.values())


def _add(arms: dict[str, Arm], arm: Arm) -> None:
    if arms.setdefault(arm.name, arm).identity != arm.identity:
        raise BadSetting(
            f"Two comparisons of the study make the arm {arm.name} in two ways. Give one of them a suffix, or its "
            "objective a table of its own under [objectives]."
        )


def _making(settings: StudySettings, comparison: ComparisonSettings, label: str) -> dict[str, Any]:
    asked = objective_settings(settings, label)
    return asked if comparison.retain_weight is None else {**asked, "retain_weight": comparison.retain_weight}


def _compared(
    settings: StudySettings, comparison: ComparisonSettings, out: Path, checkpoint: Checkpoint, seed: int
) -> Iterator[Arm]:
    seeds = settings.seeds if comparison.seeds is None else comparison.seeds
    draws = settings.draws if comparison.draws is None else comparison.draws
    chosen = {
        label: resolve(settings, label, out, checkpoint, draws=draws, seed=seed) for label in comparison.selections
    }
    for objective in comparison.objectives:
        making = _making(settings, comparison, objective)
        needs_retain = make_objective(**making).needs.retain
        optional = comparison.retain_weight is not None and not needs_retain
        restored = _RESTORED if comparison.start != SOURCE else ""
        label = f"{objective}{_RETAINED if optional else ''}{restored}{comparison.suffix}"
        for selection, draws in chosen.items():
            for selected in draws:
                cycled = selected.draw and comparison.draw_seeds == "cycled"
                for number in [seeds[(selected.draw - 1) % len(seeds)]] if cycled else seeds:
                    yield Arm(
                        name=f"{label}/{selection}/{_numbered(selected)}seed-{number}",
                        kind="matched",
                        objective=label,
                        **_told(selected),
                        seed=number,
                        making=making,
                        grid=comparison.grid or settings.grid,
                        retain=needs_retain or optional,
                        start=comparison.start,
                        take=comparison.take,
                        keep=_keeps(settings, selection),
                    )


def _negated(
    settings: StudySettings, negation: NegationSettings, out: Path, checkpoint: Checkpoint, seed: int
) -> Iterator[Arm]:
    draws = settings.draws if negation.draws is None else negation.draws
    for selection in negation.selections:
        for selected in resolve(settings, selection, out, checkpoint, draws=draws, seed=seed):
            for part in negation.parts:
                for scale in negation.scales:
                    label = f"negate-{part}-{scale:g}"
                    yield Arm(
                        name=f"{label}/{selection}/{_numbered(selected)}edit",
                        kind="negated",
                        objective=label,
                        **_told(selected),
                        making={"part": part, "scale": scale},
                        keep=_keeps(settings, selection),
                    )


def _told(selected: Selected) -> dict[str, Any]:
    return {"selection": selected.label, "rule": selected.rule, "draw": selected.draw, "names": selected.names}


def _numbered(selected: Selected) -> str:
    return f"draw-{selected.draw:02d}-" if selected.draw else ""


def _keeps(settings: StudySettings, selection: str) -> bool:
    if settings.keep_edits == "chosen":
        return not is_random(selection_settings(settings, selection))
    return settings.keep_edits == "all"
