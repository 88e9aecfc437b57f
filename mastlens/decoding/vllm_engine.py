"""Responses through vLLM, for GPUs: the same arguments and results as ``generate``, from a checkpoint on disk."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mastlens.decoding.generation import Response, check_generation
from mastlens.decoding.sampling import Sampling
from mastlens.errors import MissingPackage
from mastlens.problems.answers import boxed
from mastlens.problems.thinking import CLOSER, OPENER, ids_open

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def generate_vllm(
    path: str,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    ends: Sequence[int],
    max_new_tokens: int = 256,
    batch_size: int = 256,
    sampling: Sampling | None = None,
    names: Sequence[str] | None = None,
    stop_at_answer: bool = False,
    progress: bool = False,
) -> list[Response]:
    r"""Return the response to each prompt, in the order given.

    vLLM batches, rounds and draws in ways of its own: its responses are as good as ``generate``'s and need not be
    the same. Two evaluations that are compared should come from one engine.

    Args:
        path: Folder of the checkpoint.
        tokenizer: Decodes the responses.
        prompts: Token ids.
        ends: Tokens that end a response.
        max_new_tokens: Where a response is cut off.
        batch_size: Rows at a time.
        sampling: How to draw; None for greedy.
        names: Names each response's random stream; their places in ``prompts`` by default.
        stop_at_answer: Cut a response behind its first complete ``\boxed{...}`` after any thinking.
        progress: Show vLLM's progress bar.

    Raises:
        MastlensError: If vLLM is not installed.
    """
    check_generation(max_new_tokens, batch_size)
    try:
        vllm: Any = importlib.import_module("vllm")
    except ImportError as error:
        raise MissingPackage(
            "engine='vllm' (--engine vllm) needs vLLM, which is not installed here (it wants a GPU): pip install "
            "vllm. Or leave the engine at 'transformers'."
        ) from error
    names = names or [str(place) for place in range(len(prompts))]
    common = {
        "max_tokens": max_new_tokens,
        "stop_token_ids": list(ends),
        "skip_special_tokens": True,
        "spaces_between_special_tokens": False,
    }
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
    engine = vllm.LLM(model=path, generation_config="vllm", max_num_seqs=batch_size, seed=0, trust_remote_code=False)
    asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    outputs = engine.generate(asked, parameters, use_tqdm=progress)
    opened = [stop_at_answer and ids_open(prompt, tokenizer) for prompt in prompts]
    return [
        _response(tokenizer, output.outputs[0], stop_at_answer, was)
        for output, was in zip(outputs, opened, strict=True)
    ]


def _response(
    tokenizer: "PreTrainedTokenizerBase", completion: Any, stop_at_answer: bool, opened: bool = False
) -> Response:
    ids = list(completion.token_ids)
    if stop_at_answer:
        for count, token in enumerate(ids, start=1):
            if "}" not in str(tokenizer.decode([token])):
                continue
            text = str(tokenizer.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False))
            _, closed, said = text.rpartition(CLOSER)
            if (closed or not (opened or OPENER in text)) and boxed(said) is not None:
                return Response(text, count, "answer")
    return Response(str(completion.text), len(ids), "end" if completion.finish_reason == "stop" else "length")
