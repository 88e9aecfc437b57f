"""What a model says of every solution token under teacher forcing, and of the distribution that each was drawn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mastlens.models.likelihood import counted_states
from mastlens.models.sharding import in_step, ranks_of
from mastlens.problems.encoding import Batch, EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FORBIDDEN = -1e4  # in place of the logarithm of 0, whose product with 0 must be 0 and not NaN, its square included

OfTable = Callable[[Float[Tensor, "tokens vocabulary"], Int[Tensor, " tokens"]], Float[Tensor, "numbers tokens"]]
"""Some numbers for each token, out of the log-probabilities of all tokens in its place and which it is."""


@dataclass(frozen=True)
class TokenStatistics:
    """What a model says of the tokens of one solution.

    Attributes:
        logprobs: log p of each token, natural.
        means: Mean of log p over the vocabulary, sum p log p: minus the entropy.
        variances: Variance of log p over the vocabulary, sum p (log p - mean)^2.
        hits: Whether the token is the most probable one.
    """

    logprobs: Float[np.ndarray, " tokens"]
    means: Float[np.ndarray, " tokens"]
    variances: Float[np.ndarray, " tokens"]
    hits: Bool[np.ndarray, " tokens"]


def solution_tokens(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    *,
    batch_size: int | str = 32,
    progress: str | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return for every problem the log-probability of each solution token, and the entropy of what it was drawn from.

    Args:
        model: The model, in evaluation mode.
        encoded: Problems as token ids.
        batch_size: Problems a forward pass, or ``auto``; it does not change the result beyond rounding.
        progress: Label of a progress bar; None for none.

    Returns:
        Two lists of float32 arrays, in the order given; entropies -sum p log p, in nats.
    """
    found = _over_solutions(model, encoded, _logprobs_and_entropies, batch_size, progress)
    return [one[0] for one in found], [one[1] for one in found]


def solution_statistics(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    *,
    batch_size: int | str = 32,
    progress: str | None = None,
) -> list[TokenStatistics]:
    """Return what a model says of the solution tokens of every problem; arguments as in ``solution_tokens``."""
    found = _over_solutions(model, encoded, _statistics, batch_size, progress)
    return [TokenStatistics(one[0], one[1], one[2], one[3] > 0) for one in found]


@torch.no_grad()
def _over_solutions(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    of_table: OfTable,
    batch_size: int | str,
    progress: str | None,
) -> list[np.ndarray]:
    """Return for every problem an array (numbers, tokens), float32; the same on all ranks."""
    found: list[np.ndarray] = [np.zeros((0, 0), np.float32)] * len(encoded)
    batches, given = in_step(model, encoded, batch_size, progress)
    for items, batch in given:
        with batches.fitting():
            if not items:
                _of_batch(model, batch, of_table)  # the pass takes all ranks; nothing of it counts
                continue
            lengths = [len(encoded[item].solution) for item in items]
            for item, numbers in zip(items, _of_batch(model, batch, of_table).cpu().split(lengths, 1), strict=True):
                found[item] = numbers.numpy()
    if (ranks := ranks_of(model)) is not None:
        for told in ranks.all_of(found):
            found = [mine if mine.size else other for mine, other in zip(found, told, strict=True)]
    return found


def _of_batch(model: "PreTrainedModel", batch: Batch, of_table: OfTable) -> Float[Tensor, "numbers tokens"]:
    hidden, head = counted_states(model, batch)
    targets = batch.input_ids[:, 1:][batch.is_solution[:, 1:]]
    made = [
        of_table(torch.log_softmax(head(hidden[part]).float(), dim=-1), targets[part]) for part in head.parts(hidden)
    ]
    return torch.cat(made, dim=1)


def _logprobs_and_entropies(table: Tensor, targets: Tensor) -> Tensor:
    entropies = -(table.exp() * table.clamp_min(_FORBIDDEN)).sum(dim=-1)
    return torch.stack([table.gather(1, targets[:, None])[:, 0], entropies])


def _statistics(table: Tensor, targets: Tensor) -> Tensor:
    logprobs, p = table.gather(1, targets[:, None])[:, 0], table.exp()
    finite = table.clamp_min(_FORBIDDEN)
    means = (p * finite).sum(dim=-1)
    # Around the mean: the difference of two squares would round away what a peaked distribution has of it.
    variances = (p * (finite - means[:, None]).square()).sum(dim=-1)
    return torch.stack([logprobs, means, variances, (table.argmax(dim=-1) == targets).float()])
