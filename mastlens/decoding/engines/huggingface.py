"""The engine that decodes a transformers model in memory, with whatever edit is in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mastlens.decoding.engines.interface import Decoding, Engine, Finished
from mastlens.decoding.generation import generate

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
    in_memory: ClassVar[bool] = True

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    prefilled: "Callable[[Sequence[str], Prefill], None] | None" = None
    watching: Callable[[str, str], None] | None = None

    @classmethod
    def open(cls, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> "HuggingFaceEngine":
        """Return the engine for a model in memory; its folder plays no part."""
        return cls(model, tokenizer)

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
