"""Learning rates by step, as transformers has them."""

from collections.abc import Callable

import torch

from mastlens.errors import BadSetting, unknown
from mastlens.unlearning.settings import SCHEDULES

CONSTANT = SCHEDULES[0]


def check_schedule(schedule: str, warmup: int, steps: int) -> None:
    """Raise unless there is such a schedule and it ends after its warm-up."""
    if schedule not in SCHEDULES:
        raise unknown("schedule of the learning rate", schedule, SCHEDULES)
    if not 0 <= warmup < steps:
        raise BadSetting(f"Warm-up (--warmup) takes some of the {steps} steps and not all of them; it is {warmup}.")


def rate_by_step(schedule: str, *, warmup: int, steps: int) -> Callable[[int], float]:
    """Return what gives the share of the learning rate that a step has, from the number of steps before it.

    ``transformers.get_scheduler``; a share hangs on the step alone, so that a run which goes on needs no other state.

    Args:
        schedule: One of ``SCHEDULES``.
        warmup: Steps in which the rate rises from 0.
        steps: Steps in all.

    Raises:
        MastlensError: As ``check_schedule``.
    """
    check_schedule(schedule, warmup, steps)
    if schedule == CONSTANT and not warmup:
        return lambda done: 1.0
    from transformers import get_scheduler

    name = "constant_with_warmup" if schedule == CONSTANT else schedule
    any_other = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # it is asked for shares alone
    scheduler = get_scheduler(name, any_other, num_warmup_steps=warmup, num_training_steps=steps)
    return scheduler.lr_lambdas[0]  # pyright: ignore[reportAttributeAccessIssue] - it is a LambdaLR
