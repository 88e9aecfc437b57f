"""The elastic anchor: the shared blocks of what is selected, and their pull back to the source."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mastlens.analysis.scores.scorers.seta import SECOND_TASK, block_means, standardised
from mastlens.models.gradients import mean_gradients
from mastlens.problems.encoding import EncodedProblem
from mastlens.unlearning.anchor import Anchor
from mastlens.unlearning.masters import Masters

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Anchoring:
    """Pulls the shared blocks of the masters to where they are when it is made.

    One more copy of what is selected is held, in float32.

    Args:
        anchor: How.
        masters: What is learnt, at the source's values.
        model: The model, at the source's values.
        sides: The problems to forget and, where there are any, to keep; those of before the first step.
        batch_size: Problems a backward pass, where gradients are read.
    """

    def __init__(
        self,
        anchor: Anchor,
        masters: Masters,
        model: "PreTrainedModel",
        sides: Mapping[str, Sequence[EncodedProblem]],
        batch_size: int,
    ):
        self.anchor, self.masters = anchor, masters
        self.source = [parameter.detach().clone() for parameter in masters.parameters]
        gradients = []
        if anchor.keep:
            for problems in sides.values():
                mean = mean_gradients(model, problems, masters.stored, batch_size=batch_size)
                gradients.append([block_means(flat(part), anchor.block) for part in masters.read(mean)])
        self.own = own_blocks(gradients, [layer_of(name) for name in masters.names], anchor.keep)
        """For each master which of its blocks, row by row of blocks, are free; empty where all are anchored."""

    def record(self) -> dict[str, int]:
        """Return how many blocks there are, and how many of them are free."""
        size = self.anchor.block
        shapes = [flat(part).shape for part in self.source]
        blocks = sum(math.ceil(rows / size) * math.ceil(cols / size) for rows, cols in shapes)
        return {"blocks": blocks, "free_blocks": sum(int(own.sum()) for own in self.own)}

    @torch.no_grad()
    def pull(self) -> float:
        """Add the gradient of the anchor's term to that of the masters, and return the term."""
        total = 0.0
        for number, (parameter, source) in enumerate(zip(self.masters.parameters, self.source, strict=True)):
            drift, size = flat(parameter - source), self.anchor.block
            squares = block_sums(drift.square(), size)
            far = (squares / block_sums(flat(source).square(), size).clamp_min(torch.finfo(squares.dtype).tiny)).sqrt()
            weights = self.anchor.strength * (1 + far.tanh())
            if self.own:
                weights = weights.masked_fill(self.own[number].view_as(weights).to(weights.device), 0.0)
            total += float((weights * squares).cpu().double().sum())
            spread = weights.repeat_interleave(size, 0).repeat_interleave(size, 1)[: len(drift), : drift.shape[1]]
            gradient = (2 * spread * drift).view_as(parameter)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return total


def own_blocks(means: Sequence[Sequence[Tensor]], layers: Sequence[int], keep: float) -> list[Tensor]:
    """Return which blocks of each matrix are the forget side's own.

    Args:
        means: Of the forget and, where there is one, the retain side: for each matrix the mean of |gradient| in each of
            its blocks (``block_means``).
        layers: The layer of each matrix.
        keep: Share of all blocks that a side keeps.
    """
    if not means:
        return []
    scores = [standardised(list(side), list(layers)) for side in means]
    chosen = scores[0]
    if len(scores) > 1:
        pairs = zip(*scores, strict=True)
        chosen = [SECOND_TASK * forget + (1 - SECOND_TASK) * (forget - retain).abs() for forget, retain in pairs]
    own = _largest(chosen, keep)
    if len(scores) > 1:
        own &= ~_largest(scores[1], keep)
    return list(own.split([len(one) for one in chosen]))


def _largest(scores: Sequence[Tensor], keep: float) -> Tensor:
    """Return where the largest share of all scores is; of equal ones the first."""
    pooled = torch.cat(list(scores))
    kept = torch.zeros(len(pooled), dtype=torch.bool)
    count = max(1, math.ceil(keep * len(pooled) - 1e-9))  # a share of a count is not always what it is on paper
    kept[torch.argsort(pooled, descending=True, stable=True)[:count]] = True
    return kept


def block_sums(matrix: Tensor, size: int) -> Tensor:
    """Return the sum of each block of a matrix, (rows of blocks, columns of blocks)."""
    rows, cols = matrix.shape
    full = torch.nn.functional.pad(matrix, (0, -cols % size, 0, -rows % size))
    return full.view(full.shape[0] // size, size, full.shape[1] // size, size).sum((1, 3))


def flat(tensor: Tensor) -> Tensor:
    """Return a tensor as a matrix: experts that are stored together stand below each other."""
    return tensor.reshape(-1, tensor.shape[-1])


def layer_of(name: str) -> int:
    """Return the layer that a parameter's name says, -1 outside of the layers."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else -1
