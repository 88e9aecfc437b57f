"""A model on texts, point by point: the states at some tokens, and what they do to the response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from mastlens.analysis.inside.tally import ALL
from mastlens.errors import BadSetting, NotSupported
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import read_solutions
from mastlens.problems.encoding import Batch, EncodedProblem

Spot: TypeAlias = tuple[str, int, int, int]
"""Site, layer, head (-1: the whole activation) and position in the response (-1: all of it)."""
WHOLE = -1
_BY_HEAD = 4  # dimensions of an activation that lies by heads: batch, position, head, entry
_OF_PAIRS = ("scores", "pattern")  # of two tokens, not of one


@dataclass(frozen=True)
class Signals:
    """What a model made of texts, float32 on the CPU.

    Attributes:
        states: Spot to the state of each text, its mean over all tokens at position ``ALL``.
        slopes: Spot to the gradient of the text's summed log-probability at it, summed over all tokens there.
    """

    states: Mapping[Spot, np.ndarray]
    slopes: Mapping[Spot, np.ndarray]


def check_positions(
    encoded: Sequence[EncodedProblem], lines: Sequence[int], positions: Sequence[int], source: str
) -> None:
    """Check that every text has a token at each position that something comes before.

    Raises:
        MastlensError: If one has not (with its line).
    """
    for ids, line in zip(encoded, lines, strict=True):
        first = 0 if ids.prompt else 1
        lacking = [one for one in positions if one != ALL and not first <= one < len(ids.solution)]
        if lacking:
            raise BadSetting(
                f"{source}, line {line}: the response has {len(ids.solution)} tokens, none at position {lacking[0]} "
                "that is predicted from another. Leave the text out, or take earlier --positions."
            )


def read_signals(
    hooked: HookedModel,
    encoded: Sequence[EncodedProblem],
    *,
    sites: Sequence[str],
    layers: Sequence[int] | None,
    positions: Sequence[int],
    batch_size: int | str,
    progress: str | None,
) -> Signals:
    """Return states and slopes of every text: one way forth and back.

    Args:
        hooked: The model.
        encoded: The texts.
        sites: Names of activations.
        layers: In which layers; None for all.
        positions: At which tokens of the response.
        batch_size: Texts at a time.
        progress: Label of a progress bar; None for none.

    Raises:
        MastlensError: For a site or a layer that the model does not have, or a site that is no state of a token.
    """
    if wrong := [site for site in sites if site in _OF_PAIRS]:
        raise NotSupported(f"{wrong[0]} is of two tokens, and a probe is about states of one: take another of --sites.")
    states: dict[Spot, np.ndarray] = {}
    slopes: dict[Spot, np.ndarray] = {}
    batches = by_length(hooked.model, encoded, batch_size, progress, backward=True)
    for items, batch in batches:
        with batches.fitting():
            with torch.enable_grad(), hooked.watch(*sites, layers=layers, gradients=True) as view:
                logprobs = read_solutions(hooked.model, batch).logprobs
                gradients = view.gradients(logprobs.values.sum())
            for position in positions:
                at = _at(batch, position)
                for point in view.points:
                    value = _over(view[point].detach(), at) / at.sum(dim=1).view(-1, *[1] * (view[point].dim() - 2))
                    for into, found in ((states, value), (slopes, _over(gradients[point], at))):
                        for head, part in _by_head(found):
                            spot = (*point, head, position)
                            into.setdefault(spot, np.zeros((len(encoded), part.shape[1]), dtype=np.float32))
                            into[spot][items] = part.cpu().numpy()
    return Signals(states, slopes)


def _at(batch: Batch, position: int) -> Tensor:
    """Return True at the states that the tokens at a position are predicted from."""
    counted = batch.is_solution[:, 1:]
    if position != ALL:
        counted = counted & (batch.is_solution.cumsum(dim=1)[:, 1:] == position + 1)
    return torch.nn.functional.pad(counted, (0, 1))


def _over(value: Tensor, at: Tensor) -> Tensor:
    """Return the sum over the tokens that are looked at, float32."""
    wide = value.float().flatten(2)
    return torch.einsum("bpd,bp->bd", wide, at.float()).view(len(value), *value.shape[2:])


def _by_head(value: Tensor) -> list[tuple[int, Tensor]]:
    if value.dim() == _BY_HEAD - 1:
        return [(head, value[:, head]) for head in range(value.shape[1])]
    return [(WHOLE, value.flatten(1))]
