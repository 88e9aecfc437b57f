"""Where a planted lineage has its behaviour: tensors drawn from the seed, and training in which nothing else moves.

The anchor is LACUNA's planted ground truth: a selector is judged by whether it finds what is known to be there.
Related: SGTM (arXiv:2512.05648), where a domain updates its own parameters only.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from mastlens.architectures.projections import Projection
from mastlens.errors import NotSupported, unknown

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ATTENTION = ("q", "k", "v", "o")


@dataclass(frozen=True)
class Plant:
    """A kind of place.

    Attributes:
        name: What it is called.
        summary: What moves, in one line.
        draw: Chooses among all weight matrices of a model.
        direction: Whether the one matrix drawn moves along one direction only.
    """

    name: str
    summary: str
    draw: Callable[[Sequence[Projection], random.Random], Sequence[Projection]]
    direction: bool = False


def _attention(matrices: Sequence[Projection], among: str = "qkvo") -> list[Projection]:
    return [matrix for matrix in matrices if matrix.projection in ATTENTION and matrix.projection in among]


def _feedforward(matrices: Sequence[Projection]) -> list[Projection]:
    return [matrix for matrix in matrices if matrix.layer >= 0 and matrix.projection not in ATTENTION]


def _layer(matrices: Sequence[Projection], rng: random.Random) -> list[Projection]:
    layers = sorted({matrix.layer for matrix in matrices if matrix.layer >= 0})
    chosen = rng.choice(layers)
    return [matrix for matrix in matrices if matrix.layer == chosen]


def _heads(matrices: Sequence[Projection], rng: random.Random) -> list[Projection]:
    heads = [matrix.head(head) for matrix in _attention(matrices, "qo") for head in range(matrix.heads)]
    return rng.sample(heads, min(8, len(heads)))


def _some(matrices: list[Projection], count: int, rng: random.Random) -> list[Projection]:
    return rng.sample(matrices, min(count, len(matrices)))


_KINDS = (
    Plant("scattered", "six attention projections anywhere", lambda m, rng: _some(_attention(m), 6, rng)),
    Plant("layer", "every matrix of one layer", _layer),
    Plant("vo", "the v and o projections of every layer", lambda m, rng: _attention(m, "vo")),
    Plant("qk", "the q and k projections of every layer", lambda m, rng: _attention(m, "qk")),
    Plant("mlp", "six feed-forward matrices anywhere", lambda m, rng: _some(_feedforward(m), 6, rng)),
    Plant("heads", "eight heads of q or o anywhere", _heads),
    Plant(
        "direction",
        "one direction (rank 1) of one feed-forward matrix",
        lambda m, rng: _some(_feedforward(m), 1, rng),
        direction=True,
    ),
    Plant(
        "embeddings",
        "the embeddings, and the output head where it is another tensor",
        lambda m, rng: [matrix for matrix in m if matrix.layer < 0],
    ),
)

PLANTS: Mapping[str, Plant] = {plant.name: plant for plant in _KINDS}
"""Every kind of place by its name."""


def draw_truth(kind: str, matrices: Sequence[Projection], seed: int) -> list[Projection]:
    """Return the matrices, or heads, of a plant, in the checkpoint's order.

    Args:
        kind: A key of ``PLANTS``.
        matrices: All weight matrices of the model.
        seed: What the draw depends on.

    Raises:
        MastlensError: If there is no such kind, or the model has no such matrices.
    """
    if kind not in PLANTS:
        raise unknown("kind of plant", kind, PLANTS)
    drawn = PLANTS[kind].draw(matrices, random.Random(f"plant {kind} {seed}"))
    if not drawn:
        raise NotSupported(f"The model has no matrix for a plant of the kind '{kind}'.")
    order = {matrix.name: place for place, matrix in enumerate(matrices)}
    return sorted(drawn, key=lambda one: (order.get(one.name, order.get(one.stored, 0)), one.name))


@contextlib.contextmanager
def only_moving(
    model: "PreTrainedModel", truth: Sequence[Projection], *, direction: bool = False, seed: int = 0
) -> Iterator[None]:
    """Let training move nothing but ``truth``; afterwards all parameters are as trainable as before.

    Other tensors get no gradient. Of a tensor of which only heads move, the gradient of the rest is zero: AdamW without
    weight decay then leaves it as it is, bit for bit.

    Args:
        model: The model, its parameters named as in the checkpoint.
        truth: Matrices or heads.
        direction: Whether the one matrix of ``truth`` moves as W + a b', of which a and b are learnt.
        seed: Of the direction's start.
    """
    import torch
    from torch.nn.utils import parametrize

    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    parts: dict[str, list[Projection]] = {}
    for one in truth:
        parts.setdefault(one.stored, []).append(one)
    model.requires_grad_(False)
    hooks = []
    for name, here in parts.items():
        if direction:
            module = model.get_submodule(name.removesuffix(".weight"))
            rank_one = _rank_one(*model.get_parameter(name).shape, seed=seed)
            parametrize.register_parametrization(module, "weight", rank_one)
            continue
        parameter = model.get_parameter(name)
        parameter.requires_grad_(True)
        if any(one.name != name for one in here):
            hooks.append(parameter.register_hook(_masked(parameter, here)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if direction:
            for name in parts:
                module = model.get_submodule(name.removesuffix(".weight"))
                with torch.no_grad():
                    parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[name])


def _masked(parameter: "Tensor", parts: Sequence[Projection]) -> "Callable[[Tensor], Tensor]":
    import torch

    mask = torch.zeros_like(parameter)
    for one in parts:
        one.write(mask, torch.ones(one.rows, one.cols))
    return lambda gradient: gradient * mask


def _rank_one(rows: int, cols: int, *, seed: int):
    import torch
    from torch import nn

    class RankOne(nn.Module):
        """W + a b': a starts at zero, so that the model starts where it was."""

        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(seed)
            self.left = nn.Parameter(torch.zeros(rows))
            self.right = nn.Parameter(torch.randn(cols, generator=generator) / sqrt(cols))

        def forward(self, weight: "Tensor") -> "Tensor":
            return weight + torch.outer(self.left, self.right)

    return RankOne()
