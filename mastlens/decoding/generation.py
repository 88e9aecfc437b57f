"""Responses, greedy or sampled: batches of left-padded rows with a key-value cache, kept full.

In float32 a response does not depend on what else is in its batch: rounding differs by parts in 10^6, and only two
tokens whose logits are that close could change places. In bfloat16 they tie often; there, and only there, the batch
size is a setting that decides the result.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mastlens.architectures.rotation import rows_alone, turning_length
from mastlens.decoding.sampling import Sampling, draw
from mastlens.errors import BadSetting, NotFound, NotSupported
from mastlens.models.memory import does_not_fit, let_go, out_of_memory, rows_that_fit
from mastlens.problems.answers import boxed
from mastlens.problems.encoding import AUTO, check_batch_size, check_vocabulary, context_length
from mastlens.problems.templates import turn_end
from mastlens.problems.thinking import CLOSER, OPENER, decode_response, ids_open

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.decoding.reflection import TokenPenalty
    from mastlens.decoding.rolling import Choose, Prefilled


@dataclass(frozen=True)
class Response:
    """What a model wrote.

    Attributes:
        text: The response without special tokens.
        tokens: Number of generated tokens, the end of sequence included.
        stopped: Why it ends: ``end`` (of sequence), ``answer`` (a complete box, where that was asked for), ``length``.
        ids: The generated token ids; empty where an engine, or a record, has none.
    """

    text: str
    tokens: int
    stopped: str
    ids: tuple[int, ...] = field(default=(), compare=False)  # the same text is the same response

    @property
    def truncated(self) -> bool:
        """Whether it was cut off before an end."""
        return self.stopped == "length"


def check_generation(max_new_tokens: int, batch_size: int | str) -> None:
    """Raise unless both numbers make sense."""
    if max_new_tokens < 1:
        raise BadSetting(f"max_new_tokens (--max-new-tokens) is at least 1, it is {max_new_tokens}.")
    check_batch_size(batch_size)


def sampling_of(samples: int, temperature: float, top_p: float, seed: int) -> Sampling | None:
    """Return how responses are drawn; None for greedy.

    Raises:
        MastlensError: If the numbers make no sense, or ask for several greedy responses.
    """
    if samples < 1:
        raise BadSetting(f"The number of samples (--samples) is at least 1, it is {samples}.")
    if temperature:
        return Sampling(temperature, top_p, seed)
    if samples > 1 or top_p != 1:
        raise BadSetting(
            f"{samples} samples with top_p {top_p:g} are asked for at temperature 0, where all responses are the "
            "greedy one. Give --temperature, e.g. 0.7."
        )
    return None


@torch.no_grad()
def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 256,
    batch_size: int | str = 32,
    sampling: Sampling | None = None,
    names: Sequence[str] | None = None,
    penalty: "TokenPenalty | None" = None,
    stop_at_answer: bool = False,
    progress: str | None = None,
    finished: Callable[[int, Response], None] | None = None,
    prefilled: "Prefilled | None" = None,
    written: Callable[[int, str], None] | None = None,
) -> list[Response]:
    r"""Return the response to each prompt, in the order given.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Decodes the responses.
        prompts: Token ids.
        max_new_tokens: Where a response is cut off; less where the model's context ends before.
        batch_size: Rows at a time; ``auto`` for as many as fit. Where memory runs out, half as many go on.
        sampling: How to draw; None for greedy.
        names: Names each response's random stream; their places in ``prompts`` by default.
        penalty: Taken off some tokens' logits before each choice; None for none.
        stop_at_answer: End a response at its first complete ``\boxed{...}`` behind any thinking.
        progress: Label of a progress bar; None for none.
        finished: Called with each prompt's place and its response as soon as it ends.
        prefilled: Called with prompts that were just read, once each, where the model's rows are decoded by ``roll``.
        written: Called with each prompt's place and its response so far, after each token.

    Raises:
        MastlensError: If a prompt leaves no room in the model's context.
    """
    from mastlens.decoding.rolling import can_roll, roll
    from mastlens.decoding.turning import across_turn

    check_generation(max_new_tokens, batch_size)
    check_vocabulary(model, prompts)
    ending = _Ending(model, tokenizer, prompts, max_new_tokens, stop_at_answer, written)
    choose = _chooser(sampling, names or [str(place) for place in range(len(prompts))], max_new_tokens)
    if penalty is not None:
        choose = penalty.before(choose)
    rolls, turn = can_roll(model), turning_length(model.config.get_text_config())
    size = _rows(model, prompts, max_new_tokens) if batch_size == AUTO else int(batch_size)
    responses: dict[int, Response] = {}
    with tqdm(total=len(prompts), desc=progress, disable=progress is None, unit="item", smoothing=0) as bar:
        while waiting := [item for item in range(len(prompts)) if item not in responses]:
            part, short = _Waiting(waiting, choose, ending), False
            rows: Any = roll if rolls else partial(_generate, rooms=part.rooms, end=min(ending.ends))
            if turn is not None:
                rows = partial(across_turn, rows=rows, turn=turn, rooms=part.rooms)
            elif rolls and prefilled is not None:
                rows = partial(roll, prefilled=part.shown_to(prefilled))
            asked = [prompts[item] for item in waiting]
            try:
                for place, ids in rows(model, asked, batch_size=size, choose=part.choose, over=part.over):
                    item = waiting[place]
                    responses[item] = ending.response(item, ids)
                    if finished is not None:
                        finished(item, responses[item])
                    bar.update(1)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                short = True
            if short:
                if size == 1:
                    raise does_not_fit(f"A response to {max(map(len, asked))} tokens")
                let_go()
                size = max(1, min(size, len(waiting)) // 2)
    return [responses[item] for item in range(len(prompts))]


def _rows(model: "PreTrainedModel", prompts: Sequence[Sequence[int]], most: int) -> int:
    """Return how many rows fit, by their keys and values at full length."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    return rows_that_fit(model.device, float(each * (max(map(len, prompts), default=0) + most)))


class _Waiting:
    """The prompts that have no response yet, by their places among all."""

    def __init__(self, items: Sequence[int], choose: "Choose", ending: "_Ending") -> None:
        self.items, self._choose, self._ending = items, choose, ending
        self.rooms = [ending.rooms[item] for item in items]

    def choose(self, logits: Tensor, places: Sequence[int], steps: Sequence[int]) -> Tensor:
        """Return the next tokens."""
        return self._choose(logits, [self.items[place] for place in places], steps)

    def over(self, place: int, written: list[int]) -> bool:
        """Return whether the last token written ends the response."""
        return self._ending.over(self.items[place], written)

    def shown_to(self, prefilled: "Prefilled") -> "Prefilled":
        """Return what takes prompts of these, and hands them on by their places among all."""
        return lambda prefill: prefilled(replace(prefill, items=[self.items[place] for place in prefill.items]))


def _chooser(sampling: Sampling | None, names: Sequence[str], most: int) -> "Choose":
    """Return what picks the next tokens."""
    if sampling is None:
        return lambda logits, items, steps: logits.argmax(dim=-1)
    streams: dict[int, np.ndarray] = {}

    def choose(logits: Tensor, items: Sequence[int], steps: Sequence[int]) -> Tensor:
        for item in items:
            if item not in streams:
                streams[item] = sampling.uniforms(names[item], most)
        # Rows that have ended may go on for some steps; what they draw is thrown away.
        uniforms = [streams[item][min(step, most - 1)] for item, step in zip(items, steps, strict=True)]
        return draw(logits, torch.tensor(uniforms, dtype=torch.float64), sampling)

    return choose


class _Ending:
    """Where each response ends."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        prompts: Sequence[Sequence[int]],
        most: int,
        at_answer: bool,
        written: Callable[[int, str], None] | None = None,
    ) -> None:
        self.tokenizer, self._written = tokenizer, written
        self.ends = frozenset(end_tokens(model, tokenizer))
        limit = context_length(model.config)
        self.rooms = [most if limit is None else min(most, limit - len(prompt)) for prompt in prompts]
        for item, room in enumerate(self.rooms):
            if room < 1:
                raise NotSupported(
                    f"Item {item}: the prompt has {len(prompts[item])} tokens and the model's context is {limit}."
                )
        # Only a token with a closing brace can complete a box; <0x7D> is one too, where bytes are tokens.
        self.closing = (
            {token for text, token in tokenizer.get_vocab().items() if "}" in text or text == "<0x7D>"}
            if at_answer
            else set()
        )
        # A prompt may open the thinking at its end, or have closed it.
        self.opened = [at_answer and ids_open(prompt, tokenizer) for prompt in prompts]

    def over(self, item: int, written: list[int]) -> bool:
        """Return whether the last token written ends the response."""
        if self._written is not None:
            self._written(item, self._decode(written))
        return (
            written[-1] in self.ends
            or len(written) >= self.rooms[item]
            or (written[-1] in self.closing and self._answered(item, written))
        )

    def response(self, item: int, written: list[int]) -> Response:
        """Return the finished response."""
        if written[-1] in self.ends:
            return Response(self._decode(written[:-1]), len(written), "end", tuple(written))
        answered = written[-1] in self.closing and self._answered(item, written)
        return Response(self._decode(written), len(written), "answer" if answered else "length", tuple(written))

    def _answered(self, item: int, written: list[int]) -> bool:
        text = self._decode(written)
        _, closed, said = text.rpartition(CLOSER)
        thinking = not closed and (self.opened[item] or OPENER in text)
        return not thinking and boxed(said) is not None

    def _decode(self, ids: list[int]) -> str:
        return decode_response(ids, self.tokenizer)


def end_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the tokens that end a response: the tokenizer's, the generation configuration's, the chat template's.

    Raises:
        MastlensError: If neither names one.
    """
    return ends_among(getattr(model.generation_config, "eos_token_id", None), tokenizer)


def ends_among(stated: int | list[int] | None, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return what ``end_tokens`` does, where a generation configuration states these."""
    ends = stated if isinstance(stated, list) else [stated]
    ends = [int(e) for e in [tokenizer.eos_token_id, *ends, turn_end(tokenizer)] if e is not None]
    if not ends:
        raise NotFound("Neither the tokenizer nor the generation config names an end-of-sequence token.")
    return list(dict.fromkeys(ends))


def _generate(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    choose: "Choose",
    over: Callable[[int, list[int]], bool],
    rooms: Sequence[int],
    end: int,
) -> Iterator[tuple[int, list[int]]]:
    """Do what ``roll`` does through ``generate`` of transformers, batch by batch: any decoder that it can run."""
    from transformers import GenerationConfig
    from transformers.generation import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

    class Chosen(LogitsProcessor):
        """Leaves the chosen token alone, for a greedy search to find."""

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            tokens = choose(scores.float(), chosen, [input_ids.shape[1] - width] * len(chosen))
            return scores.new_full(scores.shape, -torch.inf).scatter(1, tokens[:, None], 0.0)

    class Over(StoppingCriteria):
        """Ends rows one by one."""

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            for row, ids in enumerate(input_ids[:, width:].tolist()):
                if row not in ended and over(chosen[row], ids):
                    ended[row] = ids
            return torch.tensor([row in ended for row in range(len(chosen))], device=input_ids.device)

    order = sorted(range(len(prompts)), key=lambda item: (-len(prompts[item]), item))
    # Where the context ends before max_new_tokens, only prompts with equal room go together.
    for room, group in groupby(order, key=lambda item: rooms[item]):
        alike = list(group)
        for start in range(0, len(alike), batch_size):
            chosen = alike[start : start + batch_size]
            width = len(prompts[chosen[0]])
            ended: dict[int, list[int]] = {}
            input_ids = torch.full((len(chosen), width), end)  # any id will do for padding: it is masked
            mask = torch.zeros_like(input_ids)
            for row, item in enumerate(chosen):
                input_ids[row, width - len(prompts[item]) :] = torch.tensor(list(prompts[item]))
                mask[row, width - len(prompts[item]) :] = 1
            # What the checkpoint's own configuration asks for (penalties, sampling) would fill every gap of ours.
            stated, model.generation_config = model.generation_config, GenerationConfig()
            try:
                with rows_alone(model):
                    model.generate(  # pyright: ignore[reportCallIssue]
                        input_ids=input_ids.to(model.device),
                        attention_mask=mask.to(model.device),
                        generation_config=GenerationConfig(
                            do_sample=False, max_new_tokens=room, pad_token_id=end, use_cache=True
                        ),
                        logits_processor=LogitsProcessorList([Chosen()]),
                        stopping_criteria=StoppingCriteriaList([Over()]),
                    )
            finally:
                model.generation_config = stated
            yield from ((chosen[row], ids) for row, ids in ended.items())
