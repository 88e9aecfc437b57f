"""Matched forgetting: every arm stops at the first checkpoint that forgot enough, on the calibration split.

Comparing edits at one learning rate compares strengths. Here each arm gets the same grid of learning rates and
saved steps, and is taken where it first reaches the target forget accuracy, so that what is left to compare is
what it cost.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.edits.making import make_edit
from mastlens.errors import BadSetting, MastlensWarning, unknown
from mastlens.models.weights import snapshot, swapped
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.cost import measured
from mastlens.selection.tensors import named_matrices
from mastlens.unlearning.control import CONTROL
from mastlens.unlearning.loop import Step, Unlearner
from mastlens.unlearning.objectives import Objective
from mastlens.unlearning.rewinding import Imitated
from mastlens.unlearning.settings import BEST, FIRST, TAKEN

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

    def __post_init__(self):
        if not self.learning_rates or not all(math.isfinite(lr) and lr > 0 for lr in self.learning_rates):
            raise BadSetting(f"learning_rates must be numbers above 0, at least one; they are {self.learning_rates}.")
        if self.steps < 1 or self.every < 1 or self.batch_size < 1:
            raise BadSetting(
                f"steps, every and batch_size are at least 1; they are {self.steps}, {self.every}, {self.batch_size}."
            )


@dataclass(frozen=True)
class Tally:
    """Right answers among the items that were looked at.

    Attributes:
        correct: Right answers.
        items: Items looked at.
    """

    correct: int
    items: int


@dataclass(frozen=True)
class Calibration:
    """How the model in memory is judged as it stands, on the calibration split.

    Attributes:
        forget: Counts right answers on the forget problems. It is given how many still matter, and may stop once it
            has seen more.
        items: Number of forget problems.
        retain: Accuracy on the retain problems.
        target: Forget accuracy to reach.
    """

    forget: Callable[[int], Tally]
    items: int
    retain: Callable[[], float]
    target: float

    @property
    def most(self) -> int:
        """Right answers at or below which the target is reached."""
        return math.floor(self.target * self.items + 1e-9)


@dataclass(frozen=True)
class Matched:
    """An arm at matched forgetting.

    Attributes:
        edit: The edit at the chosen checkpoint.
        steps: One row a step of the chosen run, up to the chosen checkpoint, with its ``lr``.
        search: One row a checkpoint that was looked at: ``lr``, ``step``, ``correct`` of ``items`` looked at. Where
            ``items`` is less than there are, the count had passed what still mattered.
        lr: The chosen learning rate.
        step: The chosen step; 0 if no checkpoint of any run could be used.
        reached: Whether the target was reached; if not, the checkpoint that forgot most was taken.
        diverged: Learning rates whose run ended in a loss or gradient that is not finite.
        seconds: Wall-clock time of the chosen run's unlearning steps, calibration not counted.
        peak_mb: Most memory of those steps beyond the loaded model, in MB; None where it cannot be measured.
    """

    edit: Edit
    steps: pd.DataFrame
    search: pd.DataFrame
    lr: float
    step: int
    reached: bool
    diverged: tuple[float, ...]
    seconds: float
    peak_mb: float | None


@dataclass(frozen=True)
class _Candidate:
    """The checkpoint that one learning rate offers."""

    lr: float
    step: int
    correct: int
    weights: Mapping[str, Tensor]
    records: list[dict[str, Any]]
    seconds: float
    peak_mb: float | None
    kept: float | None = None


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
    alternatives: Sequence[EncodedProblem] | None = None,
    traces: Sequence[Sequence[EncodedProblem]] | None = None,
    cot: Sequence[EncodedProblem] | None = None,
    reflection: Sequence[int] = (),
    begin_at: Mapping[str, Tensor] | None = None,
    imitated: Imitated | None = None,
    before: Mapping[str, Tensor] | None = None,
    take: str = FIRST,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Matched:
    """Run the grid and return the arm at a checkpoint at or below the target forget accuracy.

    For each learning rate the run ends at the first such checkpoint; with ``take="best"`` it goes on, and of all of
    them the one that kept the most retain accuracy is taken: for objectives that restore what they cost. Of the
    learning rates that reached one, that which kept the most retain accuracy is taken; ties go to the earlier one. If
    none did, the checkpoint that forgot most is taken, the first of equals.

    A checkpoint is judged only as far as the question needs: most are far from the target, which a few items show.
    The accuracies in full, which matter only where the target is out of reach, are found by running the same steps
    again, rather than by keeping every checkpoint.

    Args:
        checkpoint: Where ``model`` comes from; the edit is against it.
        model: The model in memory; it has its old weights again when this returns.
        names: Matrices to edit; ``...#q`` for a slice of a fused tensor.
        objective: The objective.
        forget: Problems to forget, as token ids (train split).
        retain: Problems to keep, as token ids (train split).
        grid: Learning rates and saved steps.
        calibration: Judges the model at each saved step.
        alternatives: For objectives that prefer a refusal: the forget problems with one, in the same order.
        traces: For R2MU: each forget document's traces.
        cot: For R2MU: chains of thought to keep.
        reflection: For the reflection token penalty: the tokens.
        begin_at: Name to stored tensor of what is selected, where runs begin at other values than the checkpoint's.
        imitated: What the SFT model says at the tokens of ``forget``, for an objective that imitates it.
        before: Name to stored tensor of the SFT model, for an objective that gives back its increment.
        take: ``first`` or ``best`` of a run's checkpoints at or below the target.
        seed: Decides the batches.
        settings: Kept with the edit.
    """
    matrices = named_matrices(checkpoint, names)
    stored = list(dict.fromkeys(m if isinstance(m, str) else m.stored for m in matrices))
    looked: dict[tuple[float, int], Tally] = {}
    diverged: dict[float, None] = {}
    if take not in TAKEN:
        raise unknown("choice of a run's checkpoint (take)", take, TAKEN)
    optional = {
        "alternatives": alternatives,
        "traces": traces,
        "cot": cot,
        "reflection": reflection,
        "begin_at": begin_at,
        "imitated": imitated,
        "before": before,
    }
    notes = dict(settings or {})

    def run(lr: float, most: int, *, to_the_end: bool = False) -> _Candidate | None:
        """Return the first checkpoint with at most so many right answers, or with ``to_the_end`` the one with least."""
        unlearner = Unlearner(
            model,
            matrices,
            objective,
            forget,
            retain,
            lr=lr,
            steps=grid.steps,
            batch_size=grid.batch_size,
            seed=seed,
            **optional,
        )
        if unlearner.control is not None:  # of the source and the seed: the same in every run
            notes[CONTROL] = unlearner.control.tolist()
        steps = unlearner.remaining()
        records: list[dict[str, Any]] = []
        seconds, peaks = 0.0, [0.0]
        candidate: _Candidate | None = None
        while len(records) < grid.steps and most >= 0:
            due = min(grid.every, grid.steps - len(records))
            with measured() as cost, warnings.catch_warnings():
                warnings.simplefilter("ignore", MastlensWarning)  # ``diverged`` says it
                taken = [asdict(step) for step in islice(steps, due)]
            seconds += cost.seconds
            peaks.append(cost.peak_mb or 0.0)
            records += taken
            if len(taken) < due:
                diverged[lr] = None
                break
            tally = calibration.forget(most)
            looked[lr, len(records)] = max(tally, looked.get((lr, len(records)), tally), key=lambda t: t.items)
            if tally.correct > most:
                continue
            kept = calibration.retain() if take == BEST and not to_the_end else None
            if kept is None or candidate is None or kept > (candidate.kept or 0.0):
                weights, peak = snapshot(model, stored), max(peaks) or None
                candidate = _Candidate(lr, len(records), tally.correct, weights, records[:], seconds, peak, kept)
            if to_the_end:
                most = tally.correct - 1
            elif take == FIRST:
                break
        steps.close()
        return candidate

    old = snapshot(model, stored)
    candidates: list[_Candidate] = []
    for lr in grid.learning_rates:
        with swapped(model, old):  # the old weights return after each run
            candidate = run(lr, calibration.most)
        candidates += [candidate] if candidate else []
    reached = bool(candidates)
    best = _Candidate(grid.learning_rates[0], 0, calibration.items + 1, old, [], 0.0, None)
    if reached:
        best = _kept_most(model, candidates, calibration)
    else:
        for lr in grid.learning_rates:
            with swapped(model, old):
                best = run(lr, best.correct - 1, to_the_end=True) or best
    with swapped(model, best.weights):
        edit, _ = make_edit(checkpoint, model, names, {**notes, "lr": best.lr, "steps": best.step})
    columns = ["lr", "step", "correct", "items"]
    return Matched(
        edit=edit,
        steps=pd.DataFrame(
            [{"lr": best.lr, **record} for record in best.records], columns=["lr", *Step.__dataclass_fields__]
        ),
        search=pd.DataFrame([(*key, tally.correct, tally.items) for key, tally in looked.items()], columns=columns),
        lr=best.lr,
        step=best.step,
        reached=reached,
        diverged=tuple(diverged),
        seconds=best.seconds,
        peak_mb=best.peak_mb,
    )


def _kept_most(model: "PreTrainedModel", candidates: list[_Candidate], calibration: Calibration) -> _Candidate:
    if len(candidates) == 1:
        return candidates[0]
    kept = []
    for candidate in candidates:
        if candidate.kept is not None:
            kept.append(candidate.kept)
            continue
        with swapped(model, candidate.weights):
            kept.append(calibration.retain())
    return candidates[kept.index(max(kept))]
