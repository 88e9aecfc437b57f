"""What a model is asked, as token ids, and what a right response to it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from mastlens.problems.asking import Asked
from mastlens.problems.encoding import encode_prompt
from mastlens.problems.thinking import prompt_opens, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


@runtime_checkable
class Answerable(Protocol):
    """Anything with a question and its right answer, as ``Problem`` has them."""

    @property
    def problem(self) -> str:
        """What is asked."""
        ...

    @property
    def answer(self) -> str:
        """The right answer."""
        ...


@dataclass(frozen=True)
class Prompt:
    """A prompt and what a right response to it is.

    Attributes:
        name: Names it among the others: in a ledger, and with the seed it decides what is drawn.
        ids: Token ids.
        gold: The right answer; None where responses are not graded.
        given: What the prompt holds of the response already; it is graded with what follows.
        text: Its text; empty where only token ids were given.
        opened: Whether it ends inside an open ``<think>``.
    """

    name: str
    ids: Sequence[int]
    gold: str | None = None
    given: str = ""
    text: str = ""
    opened: bool = False

    @classmethod
    def of(
        cls,
        content: str,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        name: str,
        gold: str | None = None,
        think: str = "free",
        chat_template: Asked = True,
    ) -> "Prompt":
        """Return the prompt of a think mode.

        Args:
            content: What the user's turn holds.
            tokenizer: The tokenizer.
            name: Its name.
            gold: The right answer.
            think: The think mode (see ``mastlens.problems.thinking.THINK``).
            chat_template: Whether to use the tokenizer's chat template, where it has one.
        """
        text = render_prompt(content, tokenizer, think=think, chat_template=chat_template)
        ids = encode_prompt(content, tokenizer, think=think, chat_template=chat_template)
        return cls(name, ids, gold, text=text, opened=prompt_opens(text))


def items_of(splits: Mapping[str, Sequence[T]]) -> list[tuple[str, int, T]]:
    """Return (split, item from 0, problem) of every problem: all splits are answered in one stream.

    In one stream, sorted by length, batches are fewer and fuller.
    """
    return [(split, item, problem) for split, problems in splits.items() for item, problem in enumerate(problems)]


def problem_prompts(
    problems: Sequence[Answerable],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    think: str = "free",
    chat_template: Asked = True,
) -> list[Prompt]:
    """Return the prompts of problems, named by their places; arguments as in ``Prompt.of``."""
    return [
        Prompt.of(
            problem.problem, tokenizer, name=str(place), gold=problem.answer, think=think, chat_template=chat_template
        )
        for place, problem in enumerate(problems)
    ]
