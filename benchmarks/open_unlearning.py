"""The trainers of open-unlearning, imported from a checkout and driven step by step under today's transformers.

    git clone https://github.com/locuslab/open-unlearning
    git -C open-unlearning checkout d3d7cf9e6b3c125d16687d4232680d8d83548f1a

That commit pins transformers 4.45.1 and torch 2.4.1. What stands in for what it lacks under later versions (``SHIMS``)
is made here at run time; its losses, its reference model and its loop, transformers' ``Trainer``, are its own.
"""

import importlib
import math
import statistics
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments

from mastlens.problems.encoding import Batch
from mastlens.unlearning import Objective

TRAINERS = {
    "ga": ("grad_ascent", "GradAscent"),
    "graddiff": ("grad_diff", "GradDiff"),
    "npo": ("npo", "NPO"),
    "simnpo": ("simnpo", "SimNPO"),
}
"""Objective to (module, class) under ``src/trainer/unlearn``."""

SHIMS = (
    "an empty package `trainer` stands in for `src/trainer/__init__.py`, which imports omegaconf, and through RMU "
    "deepspeed, whatever is asked for",
    "`compute_loss` takes `num_items_in_batch`, which transformers hands it from 4.46 on, and leaves it out",
    "batches come as they are: no random retain sample, no attention mask from the id of the pad token",
)
SETTINGS: dict[str, Any] = {
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch",  # what is on a CPU of its paged_adamw_32bit
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "per_device_train_batch_size": 1,  # of batches made beforehand
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
"""Arguments of the ``Trainer`` beside learning rate and steps; betas are its own 0.9 and 0.999."""


def import_trainer(checkout: Path, objective: str) -> type[Any]:
    """Return a trainer class of a checkout.

    Raises:
        SystemExit: If there is no such checkout.
    """
    module, name = TRAINERS[objective]
    source = checkout / "src" / "trainer"
    if not (source / "unlearn" / f"{module}.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of open-unlearning: it has no src/trainer/unlearn/{module}.py.")
    package = ModuleType("trainer")
    package.__path__ = [str(source)]
    sys.modules.setdefault("trainer", package)
    return getattr(importlib.import_module(f"trainer.unlearn.{module}"), name)


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """Return a batch as its collator hands it on."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": batch.input_ids.masked_fill(~batch.is_solution, -100),
    }


def coefficients(objective: Objective) -> dict[str, float]:
    """Return the arguments of a trainer's own that make it minimise ``objective``."""
    own = {"ga": (), "graddiff": (), "npo": ("beta",), "simnpo": ("beta", "delta")}[objective.name]
    both = () if objective.name == "ga" else ("gamma", "alpha")
    return {name: objective.record()[name] for name in (*own, *both)}


class Noting(float):
    """A coefficient that notes the loss it multiplies: the trainers hand out no term of their sum alone."""

    def __new__(cls, value: float, noted: list[float]) -> Self:
        """Return the number, which will append to ``noted``."""
        made = super().__new__(cls, value)
        made.noted = noted
        return made

    noted: list[float]

    def __mul__(self, loss: Tensor) -> Tensor:  # type: ignore[override]
        self.noted.append(float(loss.detach()))
        return float(self) * loss


class _Turnstile(TrainerCallback):
    """Holds the trainer before each of its steps until it is let through."""

    def __init__(self) -> None:
        self.waits, self.through = threading.Semaphore(0), threading.Semaphore(0)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.waits.release()
        self.through.acquire()


def trainer_steps(
    checkout: Path,
    model: PreTrainedModel,
    objective: Objective,
    batches: Sequence[dict[str, Batch]],
    *,
    lr: float,
    accumulated: int = 1,
) -> Generator[tuple[float, float], None, None]:
    """Train ``model`` in place with a trainer of open-unlearning, one step for each item of the iteration.

    The trainer runs in a thread that waits before each step, so that its steps can take turns with others; making it,
    with its copy of the model where it keeps one, is part of the first step.

    Args:
        checkout: Folder of open-unlearning.
        model: The model; all of its parameters are moved.
        objective: What to minimise.
        batches: For each step, ``forget`` and, where the objective takes it, ``retain``; ``accumulated`` in a row for
            each step, where that is more than one.
        lr: Learning rate.
        accumulated: Batches whose gradients it accumulates before a step.

    Yields:
        The forget and the retain term before the update, without their coefficients; the latter NaN where there is
        none. The mean over batches, as it reports its loss, where several make a step.
    """
    steps = len(batches) // accumulated
    given = coefficients(objective)
    forget, retain = [], []
    given |= {name: Noting(given[name], noted) for name, noted in (("gamma", forget), ("alpha", retain)) if given}

    class Recorded(import_trainer(checkout, objective.name)):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            loss = super().compute_loss(model, inputs, return_outputs)
            if not given:  # its forget term is the loss
                forget.append(float(loss.detach()))
                retain.append(math.nan)
            return loss

        def get_train_dataloader(self) -> DataLoader:
            made = [{side: inputs_of(batch) for side, batch in sides.items()} for sides in batches]
            return DataLoader(made, batch_size=None)  # type: ignore[arg-type] - a list has what a dataset needs

    turnstile = _Turnstile()
    failed: list[BaseException] = []

    def train() -> None:
        try:
            with tempfile.TemporaryDirectory() as scratch:
                arguments = TrainingArguments(
                    output_dir=scratch,
                    learning_rate=lr,
                    max_steps=steps,
                    gradient_accumulation_steps=accumulated,
                    **SETTINGS,
                )
                trainer = Recorded(
                    model=model.requires_grad_(True),
                    args=arguments,
                    train_dataset=batches,
                    callbacks=[turnstile],
                    **given,
                )
                trainer.remove_callback(PrinterCallback)
                trainer.train()
        except BaseException as error:
            failed.append(error)
        finally:
            turnstile.waits.release()

    worker = threading.Thread(target=train, daemon=True)
    worker.start()
    turnstile.waits.acquire()
    for step in range(steps):
        turnstile.through.release()
        turnstile.waits.acquire()
        if failed:
            raise failed[0]
        of_step = slice(step * accumulated, (step + 1) * accumulated)
        yield statistics.fmean(forget[of_step]), statistics.fmean(retain[of_step])
    worker.join()
    model.zero_grad(set_to_none=True)
