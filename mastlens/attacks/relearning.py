"""Relearning: the edited model is fine-tuned a little, and one watches whether what it forgot comes back."""

import math
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mastlens.errors import BadSetting, MastlensWarning
from mastlens.models.likelihood import token_logprobs
from mastlens.problems.encoding import EncodedProblem, check_vocabulary, collate
from mastlens.problems.reading import Problem
from mastlens.unlearning.loop import CLIP, batch_schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class RelearningStep:
    """One step of supervised fine-tuning.

    Attributes:
        step: From 1.
        loss: Token-mean negative log-likelihood of the step's batch, before the update.
        grad_norm: Norm of the gradient over all parameters, before clipping.
    """

    step: int
    loss: float
    grad_norm: float


def relearning_steps(
    model: "PreTrainedModel",
    problems: Sequence[EncodedProblem],
    *,
    lr: float,
    steps: int,
    batch_size: int = 8,
    seed: int = 0,
) -> Generator[RelearningStep, None, None]:
    """Fine-tune all parameters of a model in place, one step for each item of the iteration.

    Token-mean negative log-likelihood of the solutions, AdamW with betas (0.9, 0.999) and no weight decay, constant
    learning rate, gradient norm clipped at 1, evaluation mode: as unlearning, the other way round and everywhere. If a
    loss is not finite, the iteration ends with a warning before that step's update.

    Args:
        model: The model; its weights are changed.
        problems: What to learn, as token ids.
        lr: Learning rate.
        steps: Number of steps.
        batch_size: Problems a step.
        seed: Decides the batches.
    """
    check_training(lr=lr, steps=steps, batch_size=batch_size)
    check_vocabulary(model, (ids.prompt + ids.solution for ids in problems))
    model.eval().requires_grad_(True)
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.999), weight_decay=0.0)
    try:
        for step, rows in enumerate(batch_schedule(len(problems), batch_size, steps, seed, side=0), start=1):
            optimiser.zero_grad(set_to_none=True)
            batch = collate([problems[i] for i in rows], device=str(model.device))
            loss = -token_logprobs(model, batch).values.mean()
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, CLIP))
            record = RelearningStep(step, float(loss.detach()), norm)
            if not (math.isfinite(record.loss) and math.isfinite(norm)):
                warnings.warn(
                    f"Relearning, step {step}: the loss or its gradient is not finite. The curve ends at step "
                    f"{step - 1}. Use a smaller learning rate than {lr}.",
                    MastlensWarning,
                    stacklevel=2,
                )
                return
            optimiser.step()
            yield record
    finally:
        model.requires_grad_(False)
        model.zero_grad(set_to_none=True)


def check_training(*, lr: float, steps: int, batch_size: int) -> None:
    """Raise unless these numbers make sense."""
    if not (math.isfinite(lr) and lr > 0):
        raise BadSetting(f"The learning rate (--lr) must be a number above 0, it is {lr}.")
    if steps < 1 or batch_size < 1:
        raise BadSetting(
            f"Steps (--steps) and training batch size (--train-batch-size) are at least 1; they are {steps} and "
            f"{batch_size}."
        )


def curve_points(steps: int) -> list[int]:
    """Return the steps at which a curve is measured: 0, 1, 2, 4, 8, ... and the last."""
    return sorted({0, steps, *(2**power for power in range(steps.bit_length()))})


def halves(problems: Sequence[Problem], seed: int) -> tuple[list[Problem], list[Problem]]:
    """Return two disjoint halves of the problems, drawn from the seed: to train on, and to test on.

    Copies of one problem stay on one side, so that nothing that is tested was trained on.
    """
    different = list(dict.fromkeys(problem.problem for problem in problems))
    if len(different) < 2:
        raise BadSetting("Relearning trains on one half of --train and tests the other: two problems are needed.")
    order = torch.randperm(len(different), generator=torch.Generator().manual_seed(seed)).tolist()
    trained = {different[i] for i in order[: len(different) // 2]}
    return [p for p in problems if p.problem in trained], [p for p in problems if p.problem not in trained]
