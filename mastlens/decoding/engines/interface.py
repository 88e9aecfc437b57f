"""What an engine is: something that holds a model, writes responses to prompts, and says how likely texts are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.decoding.generation import Response, check_generation
from mastlens.decoding.sampling import Sampling
from mastlens.problems.encoding import EncodedProblem

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

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


@dataclass(frozen=True)
class Opening:
    """What an engine is opened on.

    Attributes:
        checkpoint: The checkpoint.
        tokenizer: Its tokenizer.
        changes: Name to tensor of what takes the place of the checkpoint's own, in its coordinates: an edit.
        computing: Where it is computed, and in which type.
        batch_size: Prompts at a time; ``auto`` for as many as fit.
        options: The engine's own settings that were given, by name (see ``decoding.settings.Serving``).
    """

    checkpoint: Checkpoint
    tokenizer: "PreTrainedTokenizerBase"
    changes: "Mapping[str, Tensor]" = field(default_factory=dict)
    computing: Computing = field(default_factory=Computing)
    batch_size: int | str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


class Engine(ABC):
    """Anything that holds a model and lets it speak: a subclass with a name and these methods.

    Attributes:
        name: What it is called in settings.
        options: Which of the settings of engines it takes (see ``decoding.settings.Serving``).
    """

    name: ClassVar[str]
    options: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    @abstractmethod
    def opened(cls, opening: Opening) -> "AbstractContextManager[Engine]":
        """Return the engine for a checkpoint, edit included, for the length of a block: its weights are held once.

        The checkpoint is not written to. Behind the block nothing is left of the engine, whatever happened in it.
        """

    @property
    @abstractmethod
    def context(self) -> int | None:
        """The model's context length in tokens; None for no limit."""

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

    @abstractmethod
    def logprobs(
        self, encoded: Sequence[EncodedProblem], *, batch_size: int | str, progress: str | None = None
    ) -> np.ndarray:
        """Return the summed natural log-probability of each solution behind its prompt, float64, in the order given.

        Args:
            encoded: Prompts and solutions as token ids.
            batch_size: Texts a forward pass, or ``auto``; it does not change the result beyond rounding.
            progress: Label of a progress bar; None for none.
        """
