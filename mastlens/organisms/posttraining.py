r"""SFT and RLVR, with TRL's own trainers.

What the trainers see is what everything else in the package reads: the prompt is the problem and a newline,
the solution follows, then the end of sequence.
"""

import contextlib
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mastlens.decoding.graders import find_grader
from mastlens.decoding.rewards import reward_of
from mastlens.errors import MissingPackage
from mastlens.organisms.partial import trainer_folder
from mastlens.organisms.problems import SyntheticProblem, draw_corpus, draw_split
from mastlens.organisms.recipes.adapted import AdaptedRecipe
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.subjects import BY_NAME, FORGET, RETAIN_GSM, RETAIN_MATH, SOLVED_BY_SFT


@contextlib.contextmanager
def quiet_training() -> Iterator[None]:
    """Silence the progress bars, logs and warnings of the training libraries, and restore them afterwards.

    The build shows one bar a stage of its own; what the libraries say besides is about set-ups that this one
    is not (no mixed precision, no tracking service).
    """
    import datasets
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), datasets.are_progress_bars_disabled()
    noisy = [logging.getLogger(name) for name in ("trl", "accelerate", "datasets")]
    levels = [logger.level for logger in noisy]
    hf_bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)
        if hf_bars:
            hf_logging.enable_progress_bar()
        if not bars:
            datasets.enable_progress_bars()
        for logger, before in zip(noisy, levels, strict=True):
            logger.setLevel(before)


def sft_pairs(recipe: Recipe, seed: int) -> list[tuple[str, str]]:
    """Return the SFT corpus: mostly worked where SFT is to solve the subject, mostly guessed elsewhere."""

    def share(name: str) -> float:
        return recipe.sft_worked_solved if name in SOLVED_BY_SFT else recipe.sft_worked_induced

    count = recipe.sft_steps * recipe.sft_batch
    return draw_corpus(BY_NAME, count, share, recipe.guess_right, seed)


def reward_pools(recipe: Recipe, seed: int) -> tuple[list[SyntheticProblem], list[SyntheticProblem]]:
    """Return the prompts that RLVR is rewarded on: forget side, retain side; all keys different."""
    forget = draw_split(FORGET, recipe.grpo_forget, "train", seed)
    return forget, draw_split((*RETAIN_MATH, *RETAIN_GSM), recipe.grpo_retain, "train", seed + 1)


def mixed_order(problems: Sequence[SyntheticProblem], seed: int) -> list[SyntheticProblem]:
    """Return the problems in an order drawn from the seed."""
    order = list(problems)
    random.Random(f"order {seed}").shuffle(order)
    return order


def rewarded_prompts(
    recipe: Recipe, seed: int
) -> tuple[list[SyntheticProblem], list[SyntheticProblem], list[SyntheticProblem]]:
    """Return what RLVR is rewarded on in a build of this seed: forget side, retain side, and both in their order."""
    forget, retain = reward_pools(recipe, seed + 2)
    return forget, retain, mixed_order([*forget, *retain], seed + 2)


boxed_reward = reward_of(find_grader("text:boxed"))
r"""The verifiable reward: 1 where the last ``\boxed{}`` holds the right answer, else 0."""


def _progress(label: str, steps: int, saved: dict[int, Path], save: Callable):
    """Return a callback that shows one bar and saves the model at some steps."""
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.bar = tqdm(total=steps, desc=label, unit="step", initial=state.global_step)

        def on_step_end(self, args, state, control, **kwargs):
            self.bar.update(1)
            if state.global_step in saved:
                save(kwargs["model"], saved[state.global_step])

        def on_log(self, args, state, control, logs=None, **kwargs):
            shown = {key: logs[key] for key in ("loss", "reward") if logs and key in logs}
            if shown:
                self.bar.set_postfix({key: f"{float(value):.3f}" for key, value in shown.items()})

        def on_train_end(self, args, state, control, **kwargs):
            self.bar.close()

    return Progress()


_EVERY = 5  # steps between two checkpoints that an interrupted stage goes on from


def _common_arguments(output: Path, seed: int, *, keep: bool) -> dict:
    """Return what both trainers are told: float32 on the processor, nothing reported, at most one checkpoint kept."""
    return {
        "output_dir": str(output),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "steps" if keep else "no",
        "save_steps": _EVERY,
        "save_total_limit": 1,
        "disable_tqdm": True,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "dataloader_pin_memory": False,
    }


def _adapter(rank: int | None, seed: int) -> dict:
    """Return what tells a trainer to train adapters on every projection, drawn from the seed; nothing without rank."""
    if rank is None:
        return {}
    import torch

    torch.manual_seed(seed)
    return {"peft_config": lora(rank, 2 * rank)}


def lora(rank: int, alpha: int) -> Any:
    """Return LoRA adapters on every linear layer of the blocks, for TRL; their product is scaled by alpha / rank.

    Raises:
        MastlensError: If peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingPackage(f"Training adapters needs peft ({error}). pip install 'mastlens[train]'") from error
    return LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear")


def _run(trainer, start: str | None) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # with its own bars off, the trainer prints dictionaries instead
    trainer.train(resume_from_checkpoint=start)
    if hasattr(trainer.model, "merge_and_unload"):
        trainer.model.merge_and_unload()  # in place: the caller's model holds the sum


def train_sft(
    model,
    tokenizer,
    pairs: Sequence[tuple[str, str]],
    recipe: Recipe | AdaptedRecipe,
    seed: int,
    *,
    label: str = "sft",
    kept: Path | None = None,
    rank: int | None = None,
    callbacks: Sequence[Any] = (),
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Fine-tune in place with TRL's ``SFTTrainer``; only the solution and the end count in the loss.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        pairs: Problem and solution.
        recipe: The settings.
        seed: Of the order, and of adapters.
        label: Of the progress bar.
        kept: Folder for the checkpoint that an interrupted run goes on from, bit for bit; None for no such checkpoint.
        rank: Of adapters on every projection, merged at the end; None to train all parameters.
        callbacks: Further callbacks of the trainer.
        changes: Arguments of ``SFTConfig`` that are others.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": f"{problem}\n", "completion": solution} for problem, solution in pairs]
    with quiet_training(), trainer_folder(kept) as (output, start):
        arguments = {
            **_common_arguments(output, seed, keep=kept is not None),
            "max_length": recipe.context,
            "per_device_train_batch_size": recipe.sft_batch,
            "max_steps": recipe.sft_steps,
            "learning_rate": recipe.sft_lr,
            "lr_scheduler_type": "cosine",
            "warmup_steps": max(1, recipe.sft_steps // 10),
            "logging_steps": 10,
            "completion_only_loss": True,
        } | dict(changes or {})
        config = SFTConfig(**arguments)
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[_progress(label, arguments["max_steps"], {}, _save_nothing), *callbacks],
            **_adapter(rank, seed),
        )
        _run(trainer, start)


def _save_nothing(model, folder: Path) -> None:
    """Stand in where no checkpoint is kept along the way."""


def train_grpo(
    model,
    tokenizer,
    problems: Sequence[SyntheticProblem],
    recipe: Recipe | AdaptedRecipe,
    seed: int,
    *,
    label: str,
    saved: dict[int, Path] | None = None,
    save: Callable = _save_nothing,
    kept: Path | None = None,
    rank: int | None = None,
    make: Callable | None = None,
    changes: Mapping[str, Any] | None = None,
) -> int:
    """Train in place with TRL's ``GRPOTrainer`` and the verifiable reward; every prompt is seen once.

    Args:
        model: The SFT model.
        tokenizer: Its tokenizer.
        problems: Prompts with answers, in the order in which they are seen.
        recipe: The settings.
        seed: Of sampling.
        label: Of the progress bar.
        saved: Folder for each step after which a checkpoint is kept.
        save: Writes the model into such a folder.
        kept: Folder for the checkpoint that an interrupted run goes on from, bit for bit; None for no such checkpoint.
        rank: Of adapters on every projection, merged at the end; None to train all parameters.
        make: Makes the trainer of what ``GRPOTrainer`` would be given; None for that one.
        changes: Arguments of ``GRPOConfig`` that are others.

    Returns:
        The number of steps.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    steps = len(problems) // recipe.grpo_prompts
    rows = [{"prompt": f"{item.problem}\n", "answer": item.answer} for item in problems]
    with quiet_training(), trainer_folder(kept) as (output, start):
        arguments = {
            **_common_arguments(output, seed, keep=kept is not None),
            "per_device_train_batch_size": recipe.grpo_prompts * recipe.grpo_samples,
            "num_generations": recipe.grpo_samples,
            "max_completion_length": recipe.max_new_tokens,
            "max_steps": steps,
            "learning_rate": recipe.grpo_lr,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": min(5, steps),
            "logging_steps": 1,
            "shuffle_dataset": False,  # the order is ours, so that batches do not depend on the library
            "temperature": 1.0,
            "beta": 0.0,
        } | dict(changes or {})
        config, steps = GRPOConfig(**arguments), arguments["max_steps"]
        trainer = (make or GRPOTrainer)(
            model=model,
            reward_funcs=boxed_reward,  # pyright: ignore[reportArgumentType] - TRL passes keywords only
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[_progress(label, steps, saved or {}, save)],
            **_adapter(rank, seed),
        )
        _run(trainer, start)
    return steps


def train_rlvr(
    model,
    tokenizer,
    problems: Sequence[SyntheticProblem],
    recipe: Recipe,
    seed: int,
    *,
    trajectory: Path | None = None,
    save: Callable = _save_nothing,
) -> None:
    """Run the RLVR stage of a build in place.

    Args:
        model: The SFT model.
        tokenizer: Its tokenizer.
        problems: Both sides of ``rewarded_prompts``, in their order.
        recipe: The settings.
        seed: Of the build.
        trajectory: Where to keep checkpoints along the run, as ``step_N``; the last of them is its end.
        save: Writes the model into such a folder.
    """
    steps = len(problems) // recipe.grpo_prompts
    kept = {round(steps * (i + 1) / recipe.trajectory) for i in range(recipe.trajectory)} - {0}
    saved = {step: trajectory / f"step_{step}" for step in sorted(kept)} if trajectory is not None else {}
    train_grpo(model, tokenizer, problems, recipe, seed + 3, label="rlvr", saved=saved, save=save)
