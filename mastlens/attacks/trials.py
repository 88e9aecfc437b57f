"""One model under one attack: what an attack is given, and how it tests."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from mastlens.attacks.answers import Prompted, measure
from mastlens.attacks.prompting import Prompt
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.graders import Grader
from mastlens.errors import MastlensWarning
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import context_length, encode_problems
from mastlens.problems.reading import Problem

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Trial:
    """A model under attack, what it is tested on, and what the attacker has.

    Attributes:
        attack: Name of the attack.
        role: The model's part in the comparison: edited, source, control or reference.
        checkpoint: The checkpoint that the model was loaded from; it says what is a matrix.
        model: The model, in evaluation mode. Of an attack that ``trains``, it is put back afterwards.
        tokenizer: Its tokenizer.
        tested: Name to problems of every split.
        sources: Name to file of every split, for messages.
        shown: What the attacker has: a key of the attack's ``uses`` to its problems.
        max_new_tokens: Where a response is cut off.
        grader: What is right.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        seed: Decides everything that is drawn.
        batch_size: Items a batch when testing.
        bar: Shows what was tested.
        tables: Where the results go, one table a test.
        edited: Names of the tensors that the edit changes, in the checkpoint's names; the same for every role.
        originals: Name to the source's tensor of what the edit changes, for an attack that ``needs_source``.
    """

    attack: str
    role: str
    checkpoint: Checkpoint
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    tested: Mapping[str, Sequence[Problem]]
    sources: Mapping[str, str]
    shown: Mapping[str, Sequence[Problem]]
    max_new_tokens: int
    grader: Grader
    chat_template: Asked
    seed: int
    batch_size: int | str
    bar: "tqdm[Any]"
    tables: list[pd.DataFrame]
    edited: Sequence[str] = ()
    originals: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def context(self) -> int | None:
        """The model's context length in tokens, or None."""
        return context_length(self.model.config)

    def encode(self, problems: Sequence[Problem], source: str) -> list[Prompted]:
        """Return the problems as they are asked without any attack."""
        encoded = encode_problems(
            problems, self.tokenizer, context=self.context, chat_template=self.chat_template, source=source
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
        items = measure(
            self.model,
            self.tokenizer,
            self.tested,
            prompted,
            max_new_tokens=self.max_new_tokens,
            grader=self.grader,
            batch_size=self.batch_size,
        )
        self.keep(variant, items, step, baseline=baseline)

    def keep(self, variant: str, items: pd.DataFrame, step: int = 0, *, baseline: bool = False) -> None:
        """Keep the items of a test, those of ``test`` or an attack's own with the columns of ``answers.measure``.

        Args:
            variant: The variant of the attack.
            items: One row an item.
            step: The step of the attack.
            baseline: Whether this is the model without the attack.
        """
        keys = {"attack": self.attack, "variant": variant, "model": self.role, "step": step, "baseline": baseline}
        self.tables.append(pd.DataFrame(keys, index=items.index).join(items))
        self.bar.set_postfix_str(f"{self.role}, {variant}, step {step}")
        self.bar.update(1)
