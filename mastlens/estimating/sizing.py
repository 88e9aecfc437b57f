"""What a command takes over ranks, on paper: from a model's configuration alone, before there are weights or GPUs.

Everything here follows from the shapes of the model that transformers makes of a configuration, without memory (torch's
meta device), and from how FSDP2 shards it: every rank has an even part of each weight; a block is whole while it is
computed, beside the buffer that it was gathered in and the one of the block before it; what lies outside the blocks is
whole from the first pass on. What texts take in memory is not in it: it depends on them, and is measured
(``estimate``). ``python -m benchmarks.scale`` holds it against what is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mastlens.models.suffix import largest_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GATHERED = 4
"""Copies of a block that stand beside each other at the most: whole and gathered, of this one and of the next."""

FORWARD, BACK = 2, 2
"""Operations that an entry takes for a token: a product and a sum; and as many for the gradient of what it reads."""

_SUM = 4  # bytes of an entry of a sum of gradients, float32
_STEP = 20  # bytes a selected entry that a run keeps: gradient, two moments, master and the copy of the last good step
_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")


@dataclass(frozen=True)
class Shape:
    """A model's size.

    Attributes:
        parameters: Entries of all weights, tied ones once.
        blocks: How many blocks there are.
        largest: Entries of the largest block.
        outside: Entries outside the blocks: embeddings, last norm, output embedding.
        active: Entries that a token is multiplied with: neither the experts that it is not sent to, nor embeddings that
            are only looked up.
        attention: Entries of the matrices of attention.
        cached: Entries that a token leaves in the cache of keys and values.
    """

    parameters: int
    blocks: int
    largest: int
    outside: int
    active: int
    attention: int
    cached: int

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
        named = list(model.named_parameters())
        stacked = sum(value.numel() for name, value in named if ".experts." in name)
        idle = stacked * (1 - chosen / experts) if experts and chosen else 0
        first, last = model.get_input_embeddings(), model.get_output_embeddings()
        looked_up = 0 if last is None or last.weight is first.weight else first.weight.numel()
        attention = sum(value.numel() for name, value in named if "attn" in name and value.dim() == 2)
        active = round(whole - idle - looked_up)
        return cls(whole, len(sizes), max(sizes), whole - sum(sizes), active, attention, len(sizes) * _cached(text))


def _cached(config: Any) -> int:
    latent = getattr(config, "kv_lora_rank", None)
    if latent:
        return latent + config.qk_rope_head_dim
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * (getattr(config, "num_key_value_heads", None) or heads) * size


def _entries(modules: Sequence[nn.Module]) -> int:
    return sum({id(value): value.numel() for module in modules for value in module.parameters()}.values())


@dataclass(frozen=True)
class Passes:
    """How often a command goes through the model.

    Attributes:
        forward: Times that a token goes through all blocks.
        back: Times that it goes back.
        models: Checkpoints that are run.
        state: Bytes that a rank keeps of each selected entry that it has, a side.
        sides: Whether each set of problems has a state of its own.
    """

    forward: float
    back: float = 0.0
    models: int = 1
    state: int = 0
    sides: bool = False


def passes_of(command: str, shape: Shape, itemsize: int, patches: int | None = None) -> Passes:
    """Return how often a command over ranks goes through the model.

    Args:
        command: ``couple``, ``unlearn``, ``causal-map`` or ``token-differences``.
        shape: Of the model.
        itemsize: Bytes of an entry in memory.
        patches: Matrices that ``causal-map`` puts back; None for four of each block.
    """
    patches = 4 * shape.blocks if patches is None else patches
    known = {
        "couple": Passes(1.0, 1.0, state=_SUM, sides=True),
        "unlearn": Passes(2.0, 1.0, state=_STEP - (4 if itemsize == 4 else 0)),  # once for the reference
        # In each of two directions each matrix, from its block on, half of the blocks in the mean; and whole passes for
        # what is there before, for the gradient, and for the six groups.
        "causal-map": Passes(2 * (patches / 2 + 8), 2.0, models=2, state=_SUM),
        "token-differences": Passes(3.0, models=3),
    }
    return known[command]


@dataclass(frozen=True)
class Sizing:
    """What one rank takes and does, in bytes and operations.

    Attributes:
        weights: Its rows of all weights.
        gathered: Of the blocks that are whole at a time, and of what lies outside them.
        states: Sums of gradients of ``couple``; of ``unlearn`` all that a run keeps of what is selected.
        read: From the checkpoints: its rows.
        received: From other ranks, each time that a batch goes there, and back where the command does.
        exchanged: The same of all batches.
        arithmetic: Operations (a product, a sum) with weights, its texts' attention to each other left out.
    """

    weights: float
    gathered: float
    states: float
    read: float
    received: float
    exchanged: float
    arithmetic: float

    @property
    def memory(self) -> float:
        """All of it but what texts take."""
        return self.weights + self.gathered + self.states


def sizing(
    command: str,
    shape: Shape,
    *,
    ranks: int,
    itemsize: int,
    selected: int,
    sides: int = 1,
    tokens: int | float = 0,
    batches: int = 1,
    patches: int | None = None,
) -> Sizing:
    """Return what one rank takes and does.

    Args:
        command: ``couple``, ``unlearn``, ``causal-map`` or ``token-differences``.
        shape: Of the model.
        ranks: How many there are; 1 for one process, which gathers nothing.
        itemsize: Bytes of an entry in memory.
        selected: Entries whose gradients are wanted.
        sides: Sets of problems: 2 with retain problems.
        tokens: Of all texts, divided among the ranks.
        batches: That a rank goes through.
        patches: Matrices that ``causal-map`` puts back; None for four of each block.
    """
    passes = passes_of(command, shape, itemsize, patches)
    weights = shape.parameters * itemsize / ranks
    gathered = 0.0 if ranks == 1 else float((GATHERED * shape.largest + shape.outside) * itemsize)
    others = shape.parameters * itemsize * (ranks - 1) / ranks
    entry = FORWARD * passes.forward * shape.active + BACK * passes.back * (shape.active + selected)
    return Sizing(
        weights=weights,
        gathered=gathered,
        states=passes.state * (sides if passes.sides else 1) * selected / ranks,
        read=passes.models * weights,
        received=(1 + bool(passes.back)) * others,
        exchanged=(passes.forward + passes.back) * others * batches,
        arithmetic=entry * tokens / ranks,
    )
