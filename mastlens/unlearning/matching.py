"""Matched forgetting: every arm stops at the first checkpoint that forgot enough, on the calibration split.

Comparing edits at one learning rate compares strengths. Here each arm gets the same grid of learning rates and
saved steps, and is taken where it first reaches the target forget accuracy, so that what is left to compare is
what it cost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from mastlens.cost import measured
from mastlens.edit import Edit, snapshot, swapped, write_weights
from mastlens.lineage import Checkpoint
from mastlens.problems import EncodedProblem
from mastlens.unlearning.loop import make_edit, unlearning_steps
from mastlens.unlearning.objectives import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Grid:
    """What every arm gets alike.

    Attributes:
        learning_rates: Each is run on its own.
        steps: Most steps of a run.
        every: A checkpoint is looked at after every so many steps.
        batch_size: Problems a step and side.
    """

    learning_rates: tuple[float, ...]
    steps: int
    every: int
    batch_size: int = 8


@dataclass(frozen=True)
class Calibration:
    """How the model in memory is judged: accuracy as it stands, on the calibration split.

    Attributes:
        forget: Accuracy on the calibration forget problems.
        retain: Accuracy on the calibration retain problems.
        target: Forget accuracy to reach.
    """

    forget: Callable[[], float]
    retain: Callable[[], float]
    target: float


@dataclass(frozen=True)
class Matched:
    """An arm at matched forgetting.

    Attributes:
        edit: The edit at the chosen checkpoint.
        steps: One row a step of the chosen run, up to the chosen checkpoint, with its ``lr``.
        search: One row a checkpoint that was looked at: ``lr``, ``step``, ``forget_accuracy``.
        lr: The chosen learning rate.
        step: The chosen step.
        reached: Whether the target was reached; if not, the checkpoint that forgot most was taken.
        seconds: Wall-clock time of the chosen run's unlearning steps, calibration not counted.
        peak_mb: Most memory of those steps beyond the loaded model, in MB; None where it cannot be measured.
    """

    edit: Edit
    steps: pd.DataFrame
    search: pd.DataFrame
    lr: float
    step: int
    reached: bool
    seconds: float
    peak_mb: float | None


@dataclass(frozen=True)
class _Candidate:
    """The checkpoint that one learning rate offers."""

    lr: float
    step: int
    forget: float
    retain: float
    weights: Mapping[str, Tensor]
    records: list[dict[str, Any]]
    seconds: float
    peak_mb: float | None


def match_forgetting(
    checkpoint: Checkpoint,
    model: "PreTrainedModel",
    names: Sequence[str],
    objective: Objective,
    forget: Sequence[EncodedProblem],
    retain: Sequence[EncodedProblem] | None,
    *,
    grid: Grid,
    calibration: Calibration,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Matched:
    """Run the grid and return the arm at its first checkpoint at or below the target forget accuracy.

    For each learning rate the run ends at the first such checkpoint. Of the learning rates that reached one, that
    which kept the most retain accuracy is taken; ties go to the earlier one.

    Args:
        checkpoint: Where ``model`` comes from; the edit is against it.
        model: The model in memory; it has its old weights again when this returns.
        names: Tensors to edit.
        objective: The objective.
        forget: Problems to forget, as token ids (train split).
        retain: Problems to keep, as token ids (train split).
        grid: Learning rates and saved steps.
        calibration: Judges the model at each saved step.
        seed: Decides the batches.
        settings: Kept with the edit.
    """
    search: list[dict[str, Any]] = []

    def run(lr: float) -> _Candidate:
        steps = unlearning_steps(
            model, names, objective, forget, retain, lr=lr, steps=grid.steps, batch_size=grid.batch_size, seed=seed
        )
        records: list[dict[str, Any]] = []
        seconds, peaks = 0.0, [0.0]
        lowest, at, weights = float("inf"), 0, snapshot(model, list(names))
        while lowest > calibration.target:
            with measured() as cost:
                taken = [asdict(step) for step in islice(steps, grid.every)]
            if not taken:
                break
            seconds += cost.seconds
            peaks.append(cost.peak_mb or 0.0)
            records += taken
            accuracy = calibration.forget()
            search.append({"lr": lr, "step": taken[-1]["step"], "forget_accuracy": accuracy})
            if accuracy < lowest:
                lowest, at, weights = accuracy, taken[-1]["step"], snapshot(model, list(names))
        steps.close()
        write_weights(model, weights)
        return _Candidate(lr, at, lowest, calibration.retain(), weights, records, seconds, max(peaks) or None)

    candidates = []
    for lr in grid.learning_rates:
        with swapped(model, snapshot(model, list(names))):  # the old weights return after each run
            candidates.append(run(lr))

    def preference(candidate: _Candidate) -> tuple[float, float]:
        return max(candidate.forget - calibration.target, 0.0), -candidate.retain

    best = min(candidates, key=preference)
    with swapped(model, best.weights):
        edit, _ = make_edit(checkpoint, model, names, {**(settings or {}), "lr": best.lr, "steps": best.step})
    return Matched(
        edit=edit,
        steps=pd.DataFrame([{"lr": best.lr, **record} for record in best.records if record["step"] <= best.step]),
        search=pd.DataFrame(search),
        lr=best.lr,
        step=best.step,
        reached=best.forget <= calibration.target,
        seconds=best.seconds,
        peak_mb=best.peak_mb,
    )
