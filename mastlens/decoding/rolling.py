"""A decoding loop whose batch stays full: finished rows leave, waiting prompts take their places.

``generate`` of transformers keeps a batch together until its last row has ended. Here rows are aligned at their
ends (left-padded), so any of them can leave or join at any step; positions come from each row's own length, never
from its place in the batch.
"""

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.generation import GenerationMixin

from mastlens.architectures.rotation import rows_alone
from mastlens.models.memory import tokens_that_fit
from mastlens.problems.encoding import AUTO, context_length, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GONE = 4  # the batch is rearranged when one row in so many has ended
_ROOM = 32  # tokens that a cache makes room for at once
_NEEDED = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache"}

Choose = Callable[[Float[Tensor, "rows vocabulary"], Sequence[int], Sequence[int]], Int[Tensor, " rows"]]
"""From the logits of the next token, each row's item, and how many tokens each has written, to the next tokens."""


class RowCache(DynamicLayer):
    """Keys and values of one layer, whose rows can be taken apart and put together.

    New tokens are written into room that is there already, not copied together with all that came before.
    """

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()
        self._room: tuple[Tensor, Tensor] | None = None
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; return all."""
        held = self.get_seq_length()
        if not held:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        size = held + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < size:
            self._room = (_with_room(self.keys, size), _with_room(self.values, size))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, held:size] = new
        self.keys, self.values = (room[:, :, :size] for room in self._room)
        return self.keys, self.values

    def rows(self, rows: Int[Tensor, " chosen"], first: int = 0) -> "RowCache":
        """Return a copy of some rows, from a position on."""
        assert self.keys is not None
        assert self.values is not None
        return RowCache(self.keys[rows, :, first:], self.values[rows, :, first:])


def _with_room(held: Tensor | None, size: int) -> Tensor:
    assert held is not None
    room = held.new_empty((*held.shape[:2], size + _ROOM, held.shape[3]))
    room[:, :, : held.shape[2]] = held
    return room


@dataclass(frozen=True)
class Prefill:
    """Prompts that were just read, and stay as they are until this is let go of.

    Attributes:
        items: Which prompts.
        lengths: Tokens of each.
        layers: Keys and values of each layer, a row a prompt, the prompts at their ends.
        logits: Of the first token behind each prompt, float32.
    """

    items: Sequence[int]
    lengths: Int[Tensor, " rows"]
    layers: Sequence[RowCache]
    logits: Float[Tensor, "rows vocabulary"]


Prefilled = Callable[[Prefill], None]


def can_roll(model: "PreTrainedModel") -> bool:
    """Return whether the model's rows may leave and join: full attention everywhere, and an ordinary forward pass.

    Sliding windows, states that are no keys and values, and models that prepare their inputs in a way of their own
    are left to ``generate`` of transformers.
    """
    if model.config.is_encoder_decoder or not set(inspect.signature(model.forward).parameters) >= _NEEDED:
        return False
    prepare = "prepare_inputs_for_generation"
    if getattr(type(model), prepare, None) is not getattr(GenerationMixin, prepare):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def roll(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    choose: Choose,
    over: Callable[[int, list[int]], bool],
    prefilled: Prefilled | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Yield (which prompt, tokens written) for each prompt, as they end; the longest prompts begin.

    Args:
        model: One that ``can_roll``, in evaluation mode.
        prompts: Token ids.
        batch_size: Rows at a time.
        choose: Picks the next tokens.
        over: Says of a prompt and what was written for it, after each token, whether that ends it.
        prefilled: Called with the prompts that were read, some at a time, before anything is written for them.
    """
    batch = _Batch(model, prompts, prefilled)
    waiting = deque(sorted(range(len(prompts)), key=lambda item: (-len(prompts[item]), item)))
    ended: set[int] = set()
    while True:
        live = [row for row, item in enumerate(batch.items) if item not in ended]
        if not live and not waiting:
            return
        if _GONE * (len(batch.items) - len(live)) >= len(batch.items):
            coming = [waiting.popleft() for _ in range(min(batch_size - len(live), len(waiting)))]
            batch.keep(live)
            logits = batch.read(coming)
        else:
            coming = batch.items
            logits = batch.step()
        if not coming:
            continue
        tokens = choose(logits, coming, [len(batch.written[item]) for item in coming])
        batch.tokens[len(batch.items) - len(coming) :] = tokens
        for item, token in zip(coming, tokens.tolist(), strict=True):
            if item in ended:
                continue
            batch.written[item].append(token)
            if over(item, batch.written[item]):
                ended.add(item)
                yield item, batch.written[item]


class _Batch:
    """The rows under way: whose they are, their last tokens, and their cache."""

    def __init__(self, model: "PreTrainedModel", prompts: Sequence[Sequence[int]], prefilled: Prefilled | None) -> None:
        self.model, self.prompts, self.prefilled = model, prompts, prefilled
        self.items: list[int] = []
        self.written: dict[int, list[int]] = {}
        self.tokens = torch.zeros(0, dtype=torch.long, device=model.device)
        self.lengths = torch.zeros_like(self.tokens)  # positions held for each row, padding aside
        self.layers: list[RowCache] = []
        self.furthest = (context_length(model.config) or 2**31) - 1
        self.last_only = "logits_to_keep" in inspect.signature(model.forward).parameters

    def step(self) -> Float[Tensor, "rows vocabulary"]:
        """Feed each row its last token; return the logits of the next."""
        self.lengths = self.lengths + 1
        return self._forward(self.tokens[:, None], self.lengths, self.layers)

    def keep(self, live: Sequence[int]) -> None:
        """Let all rows go but ``live``, and the positions that only rows now gone had."""
        if len(live) == len(self.items):
            return
        rows = torch.tensor(list(live), dtype=torch.long, device=self.tokens.device)
        self.items = [self.items[row] for row in live]
        self.tokens, self.lengths = self.tokens[rows], self.lengths[rows]
        width = int(self.lengths.max()) if live else 0
        self.layers = [layer.rows(rows, layer.get_seq_length() - width) for layer in self.layers] if live else []

    def read(self, coming: Sequence[int]) -> Float[Tensor, "coming vocabulary"]:
        """Read the prompts of new rows, put them behind the others, and return the logits of their first tokens."""
        logits = [torch.zeros(0, 1)]
        groups = [self.layers] if self.layers else []
        # Of similar length together: padding is read like everything else.
        most = tokens_that_fit(self.tokens.device, backward=False, each=None)
        for part in pack((len(self.prompts[item]) for item in coming), AUTO, most):
            prompts = [self.prompts[item] for item in coming[part]]
            lengths = torch.tensor([len(prompt) for prompt in prompts])
            ids = torch.zeros((len(prompts), int(lengths.max())), dtype=torch.long)  # any id will do for padding
            for row, prompt in zip(ids, prompts, strict=True):
                row[len(row) - len(prompt) :] = torch.tensor(list(prompt))
            lengths = lengths.to(self.tokens.device)
            groups.append([RowCache() for _ in DynamicCache(config=self.model.config).layers])
            logits.append(self._forward(ids.to(self.tokens.device), lengths, groups[-1]))
            self.lengths = torch.cat([self.lengths, lengths])
            if self.prefilled is not None:
                self.prefilled(Prefill(coming[part], lengths, groups[-1], logits[-1]))
        if len(groups) > 1:
            self.layers = [_joined(layers) for layers in zip(*groups, strict=True)]
        elif groups:
            self.layers = groups[0]
        self.items = [*self.items, *coming]
        self.tokens = torch.cat([self.tokens, self.tokens.new_zeros(len(coming))])
        self.written |= {item: [] for item in coming}
        return torch.cat(logits[1:] or logits)

    def _forward(
        self, ids: Int[Tensor, "rows new"], lengths: Int[Tensor, " rows"], layers: list[RowCache]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Return the logits of the next token; ``lengths`` counts the new ids, which stand at the rows' ends."""
        width = ids.shape[1] + layers[0].get_seq_length()
        places = torch.arange(width, device=ids.device) - (width - lengths[:, None])
        with rows_alone(self.model):
            output = self.model(
                input_ids=ids,
                attention_mask=(places >= 0).long(),
                # A row that has ended goes on until it leaves the batch; it must not run out of the context.
                position_ids=places[:, -ids.shape[1] :].clamp(0, self.furthest),
                past_key_values=Cache(layers=list(layers)),
                use_cache=True,
                **({"logits_to_keep": 1} if self.last_only else {}),
            )
        return output.logits[:, -1].float()


def _joined(layers: Sequence[RowCache]) -> RowCache:
    """Return one layer with the rows of several under each other, aligned at their ends, zeros in front."""
    held = [(layer.keys, layer.values) for layer in layers if layer.keys is not None and layer.values is not None]
    width = max(keys.shape[-2] for keys, _ in held)
    return RowCache(
        *(
            torch.cat([torch.nn.functional.pad(part, (0, 0, width - part.shape[-2], 0)) for part in parts])
            for parts in zip(*held, strict=True)
        )
    )
