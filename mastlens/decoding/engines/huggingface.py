"""The engine that decodes a transformers model in memory, with whatever edit is in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mastlens.decoding.engines.interface import Decoding, Engine, Finished, Opening
from mastlens.decoding.generation import generate
from mastlens.models.likelihood import sequence_logprobs
from mastlens.models.weights import swapped
from mastlens.problems.encoding import EncodedProblem, context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.decoding.rolling import Prefill


@dataclass(frozen=True)
class HuggingFaceEngine(Engine):
    """Our own decoding loop over a model in memory (see ``mastlens.decoding.generation``).

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        prefilled: Called with the names of responses whose prompts were just read, and with what was read; None for
            nobody.
        watching: Called with the name of a response and its text so far, after each token; None for nobody.
    """

    name: ClassVar[str] = "transformers"

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    prefilled: "Callable[[Sequence[str], Prefill], None] | None" = None
    watching: Callable[[str, str], None] | None = None

    @classmethod
    @contextmanager
    def opened(cls, opening: Opening) -> "Iterator[HuggingFaceEngine]":
        """Load the model and put the edit into it (see ``Engine``)."""
        model = opening.computing.load(opening.checkpoint)
        with swapped(model, opening.changes):
            yield cls(model, opening.tokenizer)

    @property
    def context(self) -> int | None:
        """The model's context length in tokens."""
        return context_length(self.model.config)

    def respond(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        names: Sequence[str],
        finished: Finished,
        progress: str | None = None,
    ) -> None:
        """Write a response to each prompt (see ``Engine``)."""
        watching, heard = self.prefilled, self.watching

        def shown(prefill: "Prefill") -> None:
            assert watching is not None
            watching([names[item] for item in prefill.items], prefill)

        generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=decoding.max_new_tokens,
            batch_size=decoding.batch_size,
            sampling=decoding.sampling,
            names=names,
            penalty=decoding.penalty,
            stop_at_answer=decoding.stop_at_answer,
            progress=progress,
            finished=finished,
            prefilled=None if watching is None else shown,
            written=None if heard is None else (lambda item, text: heard(names[item], text)),
        )

    def logprobs(
        self, encoded: Sequence[EncodedProblem], *, batch_size: int | str, progress: str | None = None
    ) -> np.ndarray:
        """Return the summed log-probability of each solution (see ``Engine``)."""
        return sequence_logprobs(self.model, encoded, batch_size=batch_size, progress=progress)[0]
