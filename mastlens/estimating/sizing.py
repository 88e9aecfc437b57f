"""What a command takes over ranks, on paper: from a model's configuration alone, before there are weights or GPUs.

Everything here follows from the shapes of the model that transformers makes of a configuration, without memory (torch's
meta device), and from how FSDP2 shards it: every rank has an even part of each weight; a block is whole while it is
computed, beside the buffer that it was gathered in and the one of the block before it; what lies outside the blocks is
whole from the first pass on. What texts take is not in it: it depends on them, and is measured (``estimate``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mastlens.models.suffix import largest_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GATHERED = 3
"""Copies of a block that stand beside each other at the most: whole, gathered, and gathered for the next one."""

_SUM = 4  # bytes of an entry of a sum of gradients, float32
_STEP = 20  # bytes a selected entry that a run keeps: gradient, two moments, master and the copy of the last good step


@dataclass(frozen=True)
class Shape:
    """A model's size.

    Attributes:
        parameters: Entries of all weights, tied ones once.
        blocks: How many blocks there are.
        largest: Entries of the largest block.
        outside: Entries outside the blocks: embeddings, last norm, output embedding.
        active: Entries that a token passes through: all but the experts that it is not sent to.
    """

    parameters: int
    blocks: int
    largest: int
    outside: int
    active: int

    @classmethod
    def of(cls, config: "PretrainedConfig") -> "Shape":
        """Return the size of the model that transformers makes of a configuration; no memory is taken for it."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        layers = largest_layers(model)
        sizes = [_entries([layer]) for layer in layers] if layers is not None else [0]
        whole = _entries([model])
        text = config.get_text_config()
        experts = next((n for key in _EXPERTS if (n := getattr(text, key, None))), 0)
        chosen = getattr(text, "num_experts_per_tok", None) or 0
        stacked = sum(value.numel() for name, value in model.named_parameters() if ".experts." in name)
        idle = stacked * (1 - chosen / experts) if experts and chosen else 0
        return cls(whole, len(sizes), max(sizes), whole - sum(sizes), round(whole - idle))


_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")


def _entries(modules: Sequence[nn.Module]) -> int:
    return sum({id(value): value.numel() for module in modules for value in module.parameters()}.values())


@dataclass(frozen=True)
class Sizing:
    """What one rank takes and does, in bytes.

    Attributes:
        weights: Its rows of all weights.
        gathered: Of the blocks that are whole at a time, and of what lies outside them.
        states: Sums of gradients of ``couple``; of ``unlearn`` all that a run keeps of what is selected.
        read: From the checkpoint: its rows.
        received: From other ranks, for one pass forwards and back.
    """

    weights: float
    gathered: float
    states: float
    read: float
    received: float

    @property
    def memory(self) -> float:
        """All of it but what texts take."""
        return self.weights + self.gathered + self.states


def sizing(command: str, shape: Shape, *, ranks: int, itemsize: int, selected: int, sides: int = 1) -> Sizing:
    """Return what one rank takes and does.

    Args:
        command: ``couple``, ``unlearn``, ``causal-map`` or ``token-differences``.
        shape: Of the model.
        ranks: How many there are; 1 for one process, which gathers nothing.
        itemsize: Bytes of an entry in memory.
        selected: Entries whose gradients are wanted.
        sides: Sets of problems: 2 with retain problems.
    """
    weights = shape.parameters * itemsize / ranks
    gathered = 0.0 if ranks == 1 else float((GATHERED * shape.largest + shape.outside) * itemsize)
    kept = {"couple": _SUM * sides, "unlearn": _STEP - (4 if itemsize == 4 else 0), "causal-map": _SUM}
    passes = {"token-differences": 1}.get(command, 2)
    others = (ranks - 1) / ranks
    return Sizing(
        weights=weights,
        gathered=gathered,
        states=kept.get(command, 0) * selected / ranks,
        read=weights,
        received=passes * shape.parameters * itemsize * others,
    )
