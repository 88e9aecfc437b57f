"""Greedy generation in left-padded batches with a key-value cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from mastlens.errors import MastlensError
from mastlens.problems import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Response:
    """What a model wrote.

    Attributes:
        text: The response without special tokens.
        tokens: Number of generated tokens, the end of sequence included.
        truncated: Whether it was cut off before an end of sequence.
    """

    text: str
    tokens: int
    truncated: bool


def check_generation(max_new_tokens: int, batch_size: int) -> None:
    """Raise unless both numbers make sense."""
    if max_new_tokens < 1:
        raise MastlensError(f"max_new_tokens (--max-new-tokens) is at least 1, it is {max_new_tokens}.")
    if batch_size < 1:
        raise MastlensError(f"The batch size (--batch-size) is at least 1, it is {batch_size}.")


@torch.no_grad()
def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 256,
    batch_size: int = 32,
    progress: str | None = None,
) -> list[Response]:
    """Return the greedy response to each prompt, in the order given.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Decodes the responses.
        prompts: Token ids.
        max_new_tokens: Where a response is cut off; less where the model's context ends before.
        batch_size: Prompts a batch; prompts of similar length go together.
        progress: Label of a progress bar; None for none.

    Raises:
        MastlensError: If a prompt leaves no room in the model's context.
    """
    from transformers import GenerationConfig

    check_generation(max_new_tokens, batch_size)
    ends = _end_tokens(model, tokenizer)
    limit = context_length(model.config)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    responses: dict[int, Response] = {}
    with tqdm(total=len(prompts), desc=progress, disable=progress is None, unit="item") as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            width = max(len(prompts[i]) for i in chosen)
            room = max_new_tokens if limit is None else min(max_new_tokens, limit - width)
            if room < 1:
                raise MastlensError(
                    f"Item {chosen[-1]}: the prompt has {width} tokens and the model's context is {limit}."
                )
            # Any id will do for padding: it is masked, and after the end it is cut off.
            input_ids = torch.full((len(chosen), width), ends[0])
            mask = torch.zeros((len(chosen), width), dtype=torch.long)
            for row, i in enumerate(chosen):
                input_ids[row, width - len(prompts[i]) :] = torch.tensor(list(prompts[i]))
                mask[row, width - len(prompts[i]) :] = 1
            # A configuration of our own: the checkpoint's may ask for sampling or penalties.
            config = GenerationConfig(
                do_sample=False, max_new_tokens=room, eos_token_id=ends, pad_token_id=ends[0], use_cache=True
            )
            output = model.generate(  # pyright: ignore[reportCallIssue]
                input_ids=input_ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
            )
            for i, ids in zip(chosen, output[:, width:].tolist(), strict=True):
                responses[i] = _decode(tokenizer, ids, ends)
            bar.update(len(chosen))
    return [responses[i] for i in range(len(prompts))]


def _end_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    stated = getattr(model.generation_config, "eos_token_id", None)
    ends = stated if isinstance(stated, list) else [stated]
    ends = [int(e) for e in [tokenizer.eos_token_id, *ends] if e is not None]
    if not ends:
        raise MastlensError("Neither the tokenizer nor the generation config names an end-of-sequence token.")
    return list(dict.fromkeys(ends))


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int], ends: list[int]) -> Response:
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    kept = ids if stop is None else ids[:stop]
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Response(str(text), len(ids) if stop is None else stop + 1, stop is None)
