"""Responses of models whose rotary frequencies turn at some length (LongRoPE, dynamic NTK).

What was cached below that length was rotated by other frequencies than the model would use for the longer text. So a
response that crosses it is read again from its beginning, and is what the model writes without a cache.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mastlens.architectures.rotation import depends_on_every_token, rows_alone

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mastlens.decoding.rolling import Choose

Over = Callable[[int, list[int]], bool]


def across_turn(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    *,
    rows: Callable[..., Iterator[tuple[int, list[int]]]],
    turn: int,
    rooms: Sequence[int],
    batch_size: int,
    choose: "Choose",
    over: Over,
) -> Iterator[tuple[int, list[int]]]:
    """Yield what ``rows`` does, in two stages: texts up to the turn, then those that go on beyond it.

    Args:
        model: The model.
        prompts: Token ids.
        rows: A decoding loop: ``roll``, or one that takes the ``rooms`` of its prompts too.
        turn: The longest text with the frequencies of short ones.
        rooms: Most tokens that each prompt may get.
        batch_size: Rows at a time.
        choose: Picks the next tokens.
        over: Says whether a response has ended.
    """
    begun: dict[int, list[int]] = {item: [] for item in range(len(prompts))}
    short = [item for item in begun if len(prompts[item]) <= turn]

    def turned(item: int, written: list[int]) -> bool:
        return len(prompts[item]) + len(written) > turn

    until = {item: min(rooms[item], turn + 1 - len(prompts[item])) for item in short}
    asked = _Part(prompts, short, begun, until)
    stage = asked.run(rows, model, batch_size, choose, lambda item, ids: over(item, ids) or turned(item, ids))
    for item, written in stage:
        begun[item] = written
        if over(item, written):
            yield item, begun.pop(item)
    long = _Part(prompts, list(begun), begun, {item: rooms[item] - len(begun[item]) for item in begun})
    beyond = _without_cache if depends_on_every_token(model.config.get_text_config()) else rows
    yield from long.run(beyond, model, batch_size, choose, over)


class _Part:
    """Some of the prompts, with what has been written for them so far."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        items: list[int],
        begun: dict[int, list[int]],
        rooms: dict[int, int],
    ):
        self.items, self.rooms = items, [rooms[item] for item in items]
        self.begun = {item: list(begun[item]) for item in items}
        self.prompts = [[*prompts[item], *begun[item]] for item in items]

    def run(
        self, rows: Callable[..., Any], model: Any, batch_size: int, choose: "Choose", over: Over
    ) -> Iterator[tuple[int, list[int]]]:
        """Yield (which of all prompts, all that is written for it) as they end."""
        if not self.items:
            return

        def chosen(logits: Any, places: Sequence[int], steps: Sequence[int]) -> Any:
            items = [self.items[place] for place in places]
            done = [step + len(self.begun[item]) for item, step in zip(items, steps, strict=True)]
            return choose(logits, items, done)

        def ended(place: int, written: list[int]) -> bool:
            item = self.items[place]
            return over(item, [*self.begun[item], *written])

        limits = {"rooms": self.rooms} if "rooms" in getattr(rows, "keywords", {}) else {}
        loop = rows(model, self.prompts, batch_size=batch_size, choose=chosen, over=ended, **limits)
        for place, written in loop:
            item = self.items[place]
            yield item, [*self.begun[item], *written]


@torch.no_grad()
def _without_cache(
    model: Any, prompts: Sequence[Sequence[int]], *, batch_size: int, choose: "Choose", over: Over
) -> Iterator[tuple[int, list[int]]]:
    """Decode one row at a time, each token from the whole text: where every length has frequencies of its own."""
    for place, prompt in enumerate(prompts):
        written: list[int] = []
        while not written or not over(place, written):
            ids = torch.tensor([[*prompt, *written]], device=model.device)
            with rows_alone(model):
                logits = model(input_ids=ids, use_cache=False).logits[:, -1].float()
            written.append(int(choose(logits, [place], [len(written)])[0]))
        yield place, written
