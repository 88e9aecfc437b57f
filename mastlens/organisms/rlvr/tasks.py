"""Several tasks reinforced one after another, and what each forgets of those before it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mastlens.errors import NotSupported
from mastlens.organisms.rlvr.recipe import Run
from mastlens.organisms.splits import SPLITS, calibration_splits

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel

    from mastlens.organisms.problems import SyntheticProblem
    from mastlens.organisms.rlvr.recipes.sequential_lora import SequentialLoRA
    from mastlens.organisms.rlvr.record import Recorder


class OfTask:
    """The record of a stage while one of its tasks is trained: steps go on from the tasks before it.

    Args:
        recorder: Of the stage.
        task: The task's number, from 1.
        before: Steps of the tasks before it.
    """

    def __init__(self, recorder: "Recorder", task: int, before: int):
        self.recorder, self.task, self.before = recorder, task, before

    def begin(self, *, step: int, **values: Any) -> None:
        """Begin the row of a round."""
        self.recorder.begin(step=step + self.before, task=self.task, **values)

    def end(self, **values: Any) -> None:
        """End it."""
        self.recorder.end(**values)


def problems_of(tasks: Sequence[str], problems: "Sequence[SyntheticProblem]") -> "dict[str, list[SyntheticProblem]]":
    """Return the problems of each task, those without any left out.

    Args:
        tasks: Names of splits, several of one task joined by ``+``.
        problems: What is asked, in its order.
    """
    found = {}
    for task in tasks:
        subjects = {subject for split in task.split("+") for subject in SPLITS[split]}
        if here := [one for one in problems if one.subject in subjects]:
            found[task] = here
    return found


def train_tasks(recipe: "SequentialLoRA", run: Run) -> dict[str, Any]:
    """Train a run's model in place, task after task, and return what the card says of it.

    Raises:
        MastlensError: If a task has not enough prompts for a round, or a prompt belongs to no task.
    """
    from mastlens.organisms.rlvr.trainer import train_by_grpo

    tasks = problems_of(recipe.tasks, run.problems)
    known = {id(one) for problems in tasks.values() for one in problems}
    if left := sorted({one.subject for one in run.problems if id(one) not in known}):
        raise NotSupported(
            f"Prompts of {', '.join(left)} belong to no task of the recipe {recipe.name}. Name a split for them "
            f"among its tasks: {', '.join(SPLITS)}."
        )
    for task, problems in tasks.items():
        if not recipe.steps(len(problems), run.numbers):
            raise NotSupported(
                f"The task {task} of {run.stage} has {len(problems)} prompts, and a round takes "
                f"{run.numbers.grpo_prompts}. Ask more, or join tasks by a +."
            )
    sft = deepcopy(run.model).eval()
    right = [measured(run, run.model, tasks, "SFT")]
    steps: list[int] = []
    gains: dict[str, Tensor] = {}
    own: list[dict[str, np.ndarray]] = []
    for number, (task, problems) in enumerate(tasks.items(), 1):
        model = run.model if recipe.adapters_kept == "merged" else deepcopy(sft)
        recorder: Any = OfTask(run.recorder, number, sum(steps))
        told = train_by_grpo(
            recipe,
            replace(
                run, model=model, problems=problems, recorder=recorder, sft=sft, seed=run.seed + number - 1, kept=None
            ),
        )
        steps.append(told["steps"])
        if recipe.adapters_kept == "apart":
            own.append(measured(run, model, tasks, f"{task} alone"))
            add_gains(gains, model, sft)
            put_together(run.model, sft, gains)
        right.append(measured(run, run.model, tasks, f"after {task}"))
    return {"steps": sum(steps), "rounds": sum(steps) // recipe.updates, "tasks": _told(list(tasks), steps, right, own)}


def add_gains(gains: "dict[str, Tensor]", model: "PreTrainedModel", sft: "PreTrainedModel") -> None:
    """Add what a model has gained on SFT, parameter by parameter."""
    before = dict(sft.named_parameters())
    for name, parameter in model.named_parameters():
        gain = parameter.detach() - before[name].detach()
        gains[name] = gains[name] + gain if name in gains else gain


def put_together(model: "PreTrainedModel", sft: "PreTrainedModel", gains: "Mapping[str, Tensor]") -> None:
    """Set a model to SFT with all gains: adapters that were trained apart, merged by their sum."""
    import torch

    before = dict(sft.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name] + gains[name])


def measured(
    run: Run, model: "PreTrainedModel", tasks: "Mapping[str, Sequence[SyntheticProblem]]", label: str
) -> "dict[str, np.ndarray]":
    """Return which calibration problems of each task a model solves; problems of no task are not asked."""
    from mastlens.organisms.stage_accuracy import measure_responses

    splits = calibration_splits(run.numbers, run.lineage_seed)
    training = model.training
    found = {}
    for task in tasks:
        given = {split: splits[split] for split in task.split("+")}
        table = measure_responses(
            model.eval(), run.tokenizer, given, run.numbers.max_new_tokens, f"{run.stage}, {label}: {task}"
        )
        found[task] = table["correct"].to_numpy(dtype=bool)
    model.train(training)
    return found


def _told(
    tasks: Sequence[str],
    steps: Sequence[int],
    right: "Sequence[Mapping[str, np.ndarray]]",
    own: "Sequence[Mapping[str, np.ndarray]]",
) -> list[dict[str, Any]]:
    """Return what is said of each task: accuracy by task trained, and what was forgotten, item by item."""
    from mastlens.statistics import mcnemar_exact, paired_counts

    rows = []
    for number, task in enumerate(tasks):
        learnt = own[number][task] if own else right[number + 1][task]
        _, b, c, _ = paired_counts(learnt, right[-1][task])
        rows.append(
            {
                "task": task,
                "steps": steps[number],
                "n": len(learnt),
                "accuracies": [float(after[task].mean()) for after in right],
                "learnt": float(learnt.mean()),
                "forgotten": (b - c) / len(learnt),
                "b": b,
                "c": c,
                "mcnemar_p": mcnemar_exact(b, c),
            }
        )
    return rows
