r"""The engine that runs vLLM, for GPUs: from a checkpoint on disk.

vLLM batches, rounds and draws in ways of its own: its responses are as good as those of transformers and need not be
the same. Two evaluations that are compared should come from one engine.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mastlens.decoding.engines.interface import Decoding, Engine, Finished
from mastlens.decoding.generation import Response, end_tokens
from mastlens.errors import MissingPackage, NotSupported
from mastlens.problems.answers import boxed
from mastlens.problems.encoding import AUTO
from mastlens.problems.thinking import CLOSER, OPENER, decode_response, ids_open, special_tags

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class VllmEngine(Engine):
    """vLLM on a checkpoint's folder.

    Attributes:
        folder: The checkpoint's folder.
        tokenizer: Decodes the responses.
        ends: Tokens that end a response.
    """

    name: ClassVar[str] = "vllm"
    in_memory: ClassVar[bool] = False

    folder: str
    tokenizer: "PreTrainedTokenizerBase"
    ends: tuple[int, ...]

    @classmethod
    def open(cls, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> "VllmEngine":
        """Return the engine for a checkpoint's folder; the model says which tokens end a response."""
        return cls(str(folder), tokenizer, tuple(end_tokens(model, tokenizer)))

    def respond(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        names: Sequence[str],
        finished: Finished,
        progress: str | None = None,
    ) -> None:
        """Write a response to each prompt (see ``Engine``); they are all handed over at the end.

        Raises:
            MastlensError: If vLLM is not installed, or a penalty is asked for.
        """
        if decoding.penalty is not None:
            raise NotSupported("A penalty on reflection tokens works with the engine 'transformers' only.")
        try:
            vllm: Any = importlib.import_module("vllm")
        except ImportError as error:
            raise MissingPackage(
                "engine='vllm' (--engine vllm) needs vLLM, which is not installed here (it wants a GPU): pip install "
                "vllm. Or leave the engine at 'transformers'."
            ) from error
        common = {
            "max_tokens": decoding.max_new_tokens,
            "stop_token_ids": list(self.ends),
            "skip_special_tokens": True,
            "spaces_between_special_tokens": False,
        }
        sampling = decoding.sampling
        parameters = [
            vllm.SamplingParams(temperature=0.0, **common)
            if sampling is None
            else vllm.SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed_of(name) % 2**63,  # vLLM takes a signed number
                **common,
            )
            for name in names
        ]
        # The checkpoint's generation config may ask for penalties: "vllm" means not to read it.
        engine = vllm.LLM(
            model=self.folder,
            generation_config="vllm",
            **({} if decoding.batch_size == AUTO else {"max_num_seqs": decoding.batch_size}),  # its own default
            seed=0,
            trust_remote_code=False,
        )
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = engine.generate(asked, parameters, use_tqdm=progress is not None)
        for place, (output, prompt) in enumerate(zip(outputs, prompts, strict=True)):
            opened = decoding.stop_at_answer and ids_open(prompt, self.tokenizer)
            finished(place, self._response(output.outputs[0], decoding.stop_at_answer, opened))

    def _response(self, completion: Any, stop_at_answer: bool, opened: bool) -> Response:
        ids = list(completion.token_ids)
        if stop_at_answer:
            for count, token in enumerate(ids, start=1):
                if "}" not in str(self.tokenizer.decode([token])):
                    continue
                text = decode_response(ids[:count], self.tokenizer)
                _, closed, rest = text.rpartition(CLOSER)
                if (closed or not (opened or OPENER in text)) and boxed(rest) is not None:
                    return Response(text, count, "answer")
        # Tags of thinking that are special tokens are left out of vLLM's own text.
        text = decode_response(ids, self.tokenizer) if special_tags(self.tokenizer) else str(completion.text)
        return Response(text, len(ids), "end" if completion.finish_reason == "stop" else "length")
