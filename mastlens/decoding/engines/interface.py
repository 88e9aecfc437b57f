"""What an engine is: something that writes responses to prompts of token ids."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mastlens.decoding.generation import Response, check_generation
from mastlens.decoding.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.decoding.reflection import TokenPenalty

Finished = Callable[[int, Response], None]
"""Takes a finished response and the place of its prompt among those that were asked."""


@dataclass(frozen=True)
class Decoding:
    r"""How responses are written, whatever writes them.

    Attributes:
        max_new_tokens: Where a response is cut off.
        batch_size: Prompts at a time; ``auto`` for as many as fit.
        sampling: How to draw; None for greedy.
        stop_at_answer: End a response at its first complete ``\boxed{...}`` behind any thinking.
        penalty: Taken off some tokens' logits before each choice (see ``reflection_penalty``); None for none.
    """

    max_new_tokens: int = 1024
    batch_size: int | str = 32
    sampling: Sampling | None = None
    stop_at_answer: bool = False
    penalty: "TokenPenalty | None" = None

    def __post_init__(self) -> None:
        check_generation(self.max_new_tokens, self.batch_size)


class Engine(ABC):
    """Anything that writes responses: a subclass with a name and these two methods.

    Attributes:
        name: What it is called in settings.
        in_memory: Whether it decodes the model in memory, with whatever edit is in it, rather than a folder.
    """

    name: ClassVar[str]
    in_memory: ClassVar[bool]

    @classmethod
    @abstractmethod
    def open(cls, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> "Engine":
        """Return the engine for a checkpoint.

        Args:
            model: The checkpoint in memory, in evaluation mode.
            tokenizer: Its tokenizer.
            folder: Its folder.
        """

    @abstractmethod
    def respond(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        names: Sequence[str],
        finished: Finished,
        progress: str | None = None,
    ) -> None:
        """Write a response to each prompt and hand it over as soon as it is finished.

        Args:
            prompts: Token ids.
            decoding: How.
            names: One a prompt: with the seed it decides a sampled response, whatever else is in the batch.
            finished: Takes the responses.
            progress: Label of a progress bar; None for none.
        """
