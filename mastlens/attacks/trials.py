"""One model under one attack: the model is changed or asked otherwise, and tested each time."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.attacks.codes import linear_weights, quantised_weights
from mastlens.attacks.measuring import Prompted, measure
from mastlens.attacks.prompting import PLAIN, Prompt, prompt_variants
from mastlens.attacks.quantising import find_format
from mastlens.attacks.reinforcing import reinforce
from mastlens.attacks.relearning import curve_points, relearning_steps
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensWarning
from mastlens.models.weights import named_weights, swapped
from mastlens.problems.encoding import context_length, encode_problems
from mastlens.problems.reading import Problem

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FULL = "unquantised"
"""The variant of ``quantise`` that is no attack."""


@dataclass(frozen=True)
class Trial:
    """A model under attack and what it is tested on.

    Attributes:
        attack: Name of the attack.
        role: The model's part in the comparison: edited, source or control.
        model: The model.
        tokenizer: Its tokenizer.
        tested: Name to problems of every split.
        sources: Name to file of every split, for messages.
        settings: Everything that decides the result.
        batch_size: Items a batch.
        bar: Shows what was tested.
        tables: Where the results go, one table a test.
    """

    attack: str
    role: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    tested: Mapping[str, Sequence[Problem]]
    sources: Mapping[str, str]
    settings: Mapping[str, Any]
    batch_size: int
    bar: "tqdm[Any]"
    tables: list[pd.DataFrame]

    @property
    def context(self) -> int | None:
        """The model's context length in tokens, or None."""
        return context_length(self.model.config)

    def encode(self, problems: Sequence[Problem], source: str) -> list[Prompted]:
        """Return the problems as they are asked without any attack."""
        chat_template = self.settings["chat_template"]
        encoded = encode_problems(
            problems, self.tokenizer, context=self.context, chat_template=chat_template, source=source
        )
        return [Prompted(ids) for ids in encoded]

    def test(self, variant: str, step: int = 0, *, baseline: bool = False, prompt: Prompt | None = None) -> None:
        """Test the model as it is now, and keep the result.

        Args:
            variant: The variant of the attack.
            step: The step of the attack; 0 where it has none.
            baseline: Whether this is the model without the attack.
            prompt: How problems are put; None for as they are.
        """
        prompted = {
            split: self.encode(problems, self.sources[split]) if prompt is None else [prompt(p) for p in problems]
            for split, problems in self.tested.items()
        }
        asked = [one.ids for put in prompted.values() for one in put]
        longest = max(len(ids.prompt) + len(ids.solution) for ids in asked)
        if self.context is not None and longest > self.context:
            warnings.warn(
                f"{variant} is left out: it makes {longest} tokens of a problem with its solution, and the context "
                f"holds {self.context}.",
                MastlensWarning,
                stacklevel=2,
            )
            return
        found = measure(
            self.model,
            self.tokenizer,
            self.tested,
            prompted,
            max_new_tokens=self.settings["max_new_tokens"],
            batch_size=self.batch_size,
        )
        keys = {"attack": self.attack, "variant": variant, "model": self.role, "step": step, "baseline": baseline}
        self.tables.append(pd.DataFrame(keys, index=found.index).join(found))
        self.bar.set_postfix_str(f"{self.role}, {variant}, step {step}")
        self.bar.update(1)


def try_relearning(trial: Trial, problems: Sequence[Problem]) -> None:
    """Fine-tune the trial's model on the problems, or reward it for them, and test it along the way.

    Args:
        trial: The trial; its model is changed.
        problems: What to learn.
    """
    steps = trial.settings["steps"]
    points, variant = set(curve_points(steps)), f"lr {trial.settings['lr']:g}"
    shared = {key: trial.settings[key] for key in ("lr", "steps", "seed")}
    shared["batch_size"] = trial.settings["train_batch_size"]

    def after_step(step: int) -> None:
        if step in points:
            trial.test(variant, step)

    trial.test(variant, baseline=True)
    if trial.attack == "relearn-rlvr":
        more = {key: trial.settings[key] for key in ("max_new_tokens", "chat_template")}
        reinforce(trial.model, trial.tokenizer, problems, **shared, **more, after_step=after_step)
        return
    encoded = [one.ids for one in trial.encode(problems, "the --train file")]
    for step in relearning_steps(trial.model, encoded, **shared):
        after_step(step.step)


def try_quantising(trial: Trial, checkpoint: Checkpoint) -> None:
    """Round the trial's model to every format in turn, and test it; its weights come back each time.

    Args:
        trial: The trial.
        checkpoint: The checkpoint of its model, which says what is a matrix.
    """
    trial.test(FULL, baseline=True)
    matrices = linear_weights(checkpoint, embeddings=trial.settings["embeddings"])
    for name in trial.settings["formats"]:
        weights = named_weights(trial.model, list(matrices))
        with swapped(trial.model, quantised_weights(weights, matrices, find_format(name))):
            trial.test(name)


def try_prompts(trial: Trial, examples: Mapping[str, Sequence[Problem]]) -> None:
    """Ask the trial's model in every way that its tokenizer and context allow.

    Args:
        trial: The trial.
        examples: Name to solved problems to show.
    """
    variants = prompt_variants(
        trial.tokenizer,
        [problem for problems in trial.tested.values() for problem in problems],
        examples=examples,
        shots=trial.settings["shots"],
        prefills=trial.settings["prefills"],
        context=trial.context,
        max_new_tokens=trial.settings["max_new_tokens"],
        chat_template=trial.settings["chat_template"],
    )
    for variant, prompt in variants.items():
        trial.test(variant, baseline=variant == PLAIN, prompt=prompt)
