"""Relearning by reward: some steps of GRPO, with TRL's own trainer, on problems whose answers can be checked."""

import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mastlens.attacks.relearning import check_training
from mastlens.decoding.graders import Grader, Mathematics
from mastlens.decoding.rewards import reward_of
from mastlens.errors import MissingPackage
from mastlens.problems.asking import Asked, Asking
from mastlens.problems.reading import Problem
from mastlens.problems.templates import dated_tokenizer
from mastlens.problems.thinking import has_template, prompt_opens, render_prompt
from mastlens.unlearning.loop import batch_schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLES = 8
"""Responses sampled for a prompt; their rewards are compared with each other."""


def reinforce(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    problems: Sequence[Problem],
    *,
    lr: float,
    steps: int,
    batch_size: int = 8,
    max_new_tokens: int = 256,
    chat_template: Asked = True,
    seed: int = 0,
    grader: Grader | None = None,
    after_step: Callable[[int], None],
) -> None:
    """Run GRPO on all parameters of a model in place; the reward is 1 for a right answer and 0 else.

    The solutions are not shown: the model is told only whether its own answers are right. Temperature 1, no KL term,
    constant learning rate, no weight decay, gradient norm clipped at 1.

    Args:
        model: The model; its weights are changed.
        tokenizer: Its tokenizer.
        problems: Prompts with answers.
        lr: Learning rate.
        steps: Number of steps.
        batch_size: Prompts a step; each gets ``SAMPLES`` responses.
        max_new_tokens: Longest response.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        seed: Decides the batches and the samples.
        grader: Rewards; mathematics by default.
        after_step: Called with the number of each step when it is done, the model in evaluation mode.

    Raises:
        MastlensError: If TRL is not installed.
    """
    check_training(lr=lr, steps=steps, batch_size=batch_size)
    try:
        from datasets import Dataset
        from transformers import PrinterCallback, TrainerCallback
        from trl import GRPOConfig, GRPOTrainer
    except ImportError as error:
        raise MissingPackage(
            f"relearn-rlvr needs TRL, which is not installed ({error}). pip install 'mastlens[train]'"
        ) from error
    from mastlens.organisms.posttraining import quiet_training

    templated, asking = has_template(tokenizer, chat_template), Asking.of(chat_template)
    opened = prompt_opens(render_prompt(problems[0].problem, tokenizer, chat_template=chat_template))
    schedule = batch_schedule(len(problems), batch_size, steps, seed, side=0)
    rows = [
        {
            "prompt": asking.turns(one.problem) if templated else f"{asking.text(one.problem)}\n",
            "answer": one.answer,
        }
        for batch in schedule
        for one in (problems[i] for i in batch)
    ]

    class AfterStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model.eval()
            after_step(state.global_step)
            model.train()

    model.requires_grad_(True)
    with quiet_training(), tempfile.TemporaryDirectory() as scratch:
        config = GRPOConfig(
            output_dir=scratch,
            seed=seed,
            data_seed=seed,
            use_cpu=model.device.type == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            weight_decay=0.0,
            max_grad_norm=1.0,
            per_device_train_batch_size=batch_size * SAMPLES,
            num_generations=SAMPLES,
            max_completion_length=max_new_tokens,
            max_steps=steps,
            learning_rate=lr,
            lr_scheduler_type="constant",
            shuffle_dataset=False,  # the order is ours, so that batches do not depend on the library
            temperature=1.0,
            beta=0.0,
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward_of(grader or Mathematics(), opened=opened),  # pyright: ignore[reportArgumentType] - TRL passes keywords only
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=dated_tokenizer(tokenizer),
            callbacks=[AfterStep()],
        )
        trainer.remove_callback(PrinterCallback)  # with its own bars off, the trainer prints dictionaries instead
        trainer.train()
    model.eval()
