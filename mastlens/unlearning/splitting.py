"""Micro-batches: the texts of a step gone through some at a time, with the same gradient to rounding.

A term that is a mean over sequences, or over tokens, is the sum over micro-batches of its value there times the share
of the sequences, or tokens, that they hold. So nothing but memory depends on how a step is split. What a pass keeps for
the way back is measured on one text, not guessed from an architecture.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mastlens.errors import BadSetting, NotSupported, unknown
from mastlens.unlearning.objectives import Objective
from mastlens.unlearning.settings import SWITCH

AUTO = SWITCH[0]
SEQUENCES, TOKENS, LATER_TOKENS = "sequences", "tokens", "later tokens"
"""What a term can be a mean over; later tokens are all but the first of each solution."""

_BUDGET = 1e9  # bytes that ``auto`` lets a micro-batch keep on a CPU; not what happens to be free, which differs by run
_SHARE = 0.25  # of a GPU's memory


@dataclass(frozen=True)
class Splitting:
    """How a step is split.

    Attributes:
        size: Texts a micro-batch at the most; None for no limit.
        tokens: Tokens a micro-batch at the most, padding included, but for a text that is longer; None for no limit.
        checkpointed: Whether the activations of layers are computed again on the way back.
    """

    size: int | None = None
    tokens: float | None = None
    checkpointed: bool = False

    def parts(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the places of the texts of each micro-batch; texts of similar length together where there are several.

        Args:
            lengths: Tokens of each text of the step.
        """
        whole = list(range(len(lengths)))
        if self._fits(len(whole), max(lengths, default=0)):
            return [whole]
        parts: list[list[int]] = []
        for place in sorted(whole, key=lambda place: (lengths[place], place)):
            # Ascending: the length of a part is that of its last text.
            if not parts or not self._fits(len(parts[-1]) + 1, lengths[place]):
                parts.append([])
            parts[-1].append(place)
        return parts

    def _fits(self, texts: int, longest: int) -> bool:
        return texts <= 1 or (
            (self.size is None or texts <= self.size) and (self.tokens is None or texts * longest <= self.tokens)
        )


def choose_splitting(
    objective: Objective,
    micro_batch: int | str,
    checkpoint_activations: str,
    *,
    longest: int,
    device: torch.device,
    kept: Callable[[bool], float],
) -> Splitting:
    """Return how the steps of a run are split.

    Args:
        objective: The objective; where it is no mean, a step is not split.
        micro_batch: Texts a micro-batch, or ``auto``: as many as keep no more than a fixed share of the memory.
        checkpoint_activations: ``on``, ``off``, or ``auto``: where one text alone would keep more than that.
        longest: Tokens of the longest text.
        device: Where the model is.
        kept: Bytes a token that a pass keeps for the way back, without and with activations computed again.
    """
    auto = micro_batch == AUTO
    on = checkpoint_activations == "on"
    if not auto and checkpoint_activations != AUTO:
        return Splitting(int(micro_batch) if objective.over else None, checkpointed=on)
    budget = _BUDGET
    if device.type == "cuda":
        budget = _SHARE * torch.cuda.get_device_properties(device).total_memory
    if checkpoint_activations == AUTO:
        on = longest * kept(False) > budget
    if not objective.over:
        return Splitting(checkpointed=on)
    if not auto:
        return Splitting(size=int(micro_batch), checkpointed=on)
    return Splitting(tokens=budget / max(kept(on), 1.0), checkpointed=on)


def check_splitting(objective: Objective, micro_batch: int | str, checkpoint_activations: str, batch_size: int) -> None:
    """Raise unless these can be, and the objective can be split where it is to be."""
    if micro_batch != AUTO and not (isinstance(micro_batch, int) and micro_batch >= 1):
        raise BadSetting(f"A micro-batch (--micro-batch) is a number of texts from 1, or auto; it is {micro_batch!r}.")
    if checkpoint_activations not in SWITCH:
        raise unknown("way to checkpoint activations", checkpoint_activations, SWITCH)
    if isinstance(micro_batch, int) and micro_batch < batch_size and not objective.over:
        raise NotSupported(
            f"The objective {objective.name} does not say what it is a mean over, so its steps cannot be split: leave "
            '--micro-batch out, or give its class over = "sequences" or over = "tokens".'
        )


def shares(over: str, solutions: Sequence[int], parts: Sequence[Sequence[int]]) -> list[float]:
    """Return what each micro-batch counts in a mean; exactly 1 where there is one.

    Args:
        over: What the mean is over.
        solutions: Counted tokens of each text of the step.
        parts: Places of the texts of each micro-batch.
    """
    counts = {
        SEQUENCES: [1] * len(solutions),
        TOKENS: list(solutions),
        LATER_TOKENS: [max(count - 1, 0) for count in solutions],
    }[over]
    if not sum(counts):
        counts = list(solutions)
    return [sum(counts[place] for place in part) / sum(counts) for part in parts]


def kept_bytes(forward: Callable[[], Any], own: Collection[int]) -> int:
    """Return the bytes of all that a forward pass keeps for the way back, parameters apart.

    Args:
        forward: Runs the pass and returns what holds on to its graph.
        own: Addresses of the model's parameters (``weight_storages``).
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = forward()
    del graph
    return sum(kept.values())
