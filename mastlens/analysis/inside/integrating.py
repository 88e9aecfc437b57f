"""Attribution patching by integrated gradients: the gradient between an activation and the one put in its place.

Along the straight line from an activation a to another b, the effect of putting b there is the integral of
<df/da, b - a> (integrated gradients, Sundararajan et al. 2017, arXiv:1703.01365; of circuits, Hanna et al. 2024,
arXiv:2403.17806): the first order takes the gradient at a alone. An activation that lies by heads is moved as a whole,
and each head is given its part; the parts add up to the effect of exchanging all of it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mastlens.analysis.inside.exchanging import WHOLE, Place
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.models.backends.recording import Point
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import counted_states, read_solutions
from mastlens.models.memory import float64_device
from mastlens.problems.encoding import Batch, EncodedProblem

_BY_HEAD = 4  # dimensions of an activation that lies by heads: batch, position, head, entry


def integrated_effects(
    pair: Pair,
    encoded: Sequence[EncodedProblem],
    *,
    sites: Sequence[str],
    layers: Sequence[int] | None,
    steps: int,
    batch_size: int | str,
    progress: str | None,
) -> dict[tuple[str, Place], np.ndarray]:
    """Return (direction, place) to what integrated gradients say of each exchange, item by item, float64.

    Args:
        pair: The models.
        encoded: The texts.
        sites: Names of activations.
        layers: In which layers; None for all.
        steps: Points between the two activations, in the middles of equal parts: one way forth and back for each,
            activation by activation.
        batch_size: Texts at a time.
        progress: Label of a progress bar; None for none.
    """
    pair.take(RLVR)
    before, after = HookedModel(pair.source), HookedModel(pair.changed)
    found: dict[tuple[str, Place], np.ndarray] = {}
    batches = by_length(pair.source, encoded, batch_size, progress, backward=True)
    for items, batch in batches:
        with batches.fitting():
            seen = [_activations(hooked, batch, sites, layers) for hooked in (before, after)]
            for way, hooked, own, other in (("restore", after, seen[1], seen[0]), ("insert", before, seen[0], seen[1])):
                for point, value in own.items():
                    change = other[point] - value
                    slope = _mean_slope(hooked, batch, point, value, change, steps)
                    for head, part in _by_head(change.to(slope.device).double() * slope):
                        key = way, (*point, head)
                        found.setdefault(key, np.zeros(len(encoded)))[items] = part
    return found


@torch.no_grad()
def _activations(
    hooked: HookedModel, batch: Batch, sites: Sequence[str], layers: Sequence[int] | None
) -> Mapping[Point, Tensor]:
    with hooked.watch(*dict.fromkeys(sites), layers=layers) as view:
        counted_states(hooked.model, batch)
    return {point: view[point] for point in view.points}


def _mean_slope(hooked: HookedModel, batch: Batch, point: Point, value: Tensor, change: Tensor, steps: int) -> Tensor:
    """Return the mean gradient of the solutions' log-probability on the way, float64."""
    wide = float64_device(value.device)
    total = torch.zeros(value.shape, dtype=torch.float64, device=wide)
    for step in range(steps):
        here = value + change * ((step + 0.5) / steps)
        replace = {point: lambda old, here=here: here}
        with torch.enable_grad(), hooked.watch(point[0], layers=point[1], gradients=True, replace=replace) as view:
            total += view.gradients(read_solutions(hooked.model, batch).logprobs.values.sum())[point].to(wide).double()
    return total / steps


def _by_head(product: Tensor) -> list[tuple[int, np.ndarray]]:
    if product.dim() == _BY_HEAD:
        return list(enumerate(product.sum(dim=(1, 3)).T.cpu().numpy()))
    return [(WHOLE, product.flatten(1).sum(dim=1).cpu().numpy())]
