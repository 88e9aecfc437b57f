"""How far an edited model is from the one that never learnt it: distributions under teacher forcing, item by item."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mastlens.models.batching import by_length
from mastlens.models.divergence import forward_kl
from mastlens.models.likelihood import Head, read_solutions
from mastlens.problems.encoding import EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TeacherForced:
    """What a model says at the solution tokens of some problems, kept so that others can be held against it.

    Distributions over a whole vocabulary are large: kept are the states that they are made from, and the head.

    Attributes:
        encoded: The problems.
        batch_size: Problems a forward pass.
        states: For each batch the states (tokens, hidden) at its solution tokens.
        head: From there to logits.
    """

    encoded: Sequence[EncodedProblem]
    batch_size: int
    states: list[Tensor]
    head: Head


@torch.no_grad()
def teacher_forced(model: "PreTrainedModel", encoded: Sequence[EncodedProblem], *, batch_size: int) -> TeacherForced:
    """Run a model over the problems and keep what it says; the rest of the model is not kept.

    Args:
        model: The model, in evaluation mode.
        encoded: Problems as token ids.
        batch_size: Problems a forward pass.
    """
    readings = [read_solutions(model, batch) for _, batch in by_length(model, encoded, batch_size, None)]
    return TeacherForced(encoded, batch_size, [reading.hidden for reading in readings], readings[0].head)


@torch.no_grad()
def divergence(model: "PreTrainedModel", kept: TeacherForced) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how far a model's next-token distributions are from those that were kept.

    Args:
        model: The model, in evaluation mode.
        kept: What the reference said.

    Returns:
        For every problem, in the order of ``kept.encoded``: the sum over its solution tokens of KL(reference || model)
        over the whole vocabulary, in nats; the summed log-probability of its solution; the number of its tokens. The
        softmax is taken in float32, sums over tokens in float64.
    """
    divergences, logprobs = np.zeros((2, len(kept.encoded)))
    counts = np.array([len(ids.solution) for ids in kept.encoded])
    looks = by_length(model, kept.encoded, kept.batch_size, None)
    for (items, batch), states in zip(looks, kept.states, strict=True):
        reading = read_solutions(model, batch)

        def apart(logits: Tensor, part: slice, states: Tensor = states) -> Tensor:
            return forward_kl(logits, kept.head(states[part]).float())

        for into, values in ((divergences, reading.over_tokens(apart)), (logprobs, reading.logprobs.values)):
            sums = torch.zeros(reading.size, dtype=torch.float64)
            into[items] = sums.index_add(0, reading.rows.cpu(), values.cpu().double()).numpy()
    return divergences, logprobs, counts
