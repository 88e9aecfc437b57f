"""Activations of one model put in place of another's: exactly, one at a time, and to first order, all at once.

To first order (attribution patching, Nanda 2023; Syed et al. 2023, arXiv:2310.10348) the effect of putting b in place
of an activation a is <df/da, b - a>, for all activations out of one way forth and back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mastlens.analysis.causal.patching import located, read_batch
from mastlens.analysis.causal.settings import DIRECTIONS
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.models.backends.recording import Point
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import read_solutions
from mastlens.models.memory import float64_device
from mastlens.models.suffix import PartialForward, partial_forward
from mastlens.problems.encoding import Batch, EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WHOLE = -1
"""The head of an activation that is taken whole."""
Place = tuple[str, int, int]
"""Site, layer and head of what is exchanged."""
_BY_HEAD = 4  # dimensions of an activation that lies by heads: batch, position, head, entry


@dataclass(frozen=True)
class Seen:
    """Activations of a model on a batch, gradients of the solutions' log-probability at them, and that itself."""

    values: Mapping[Point, Tensor]
    gradients: Mapping[Point, Tensor]
    sums: np.ndarray


@dataclass
class Exchanged:
    """What exchanging did, item by item; every array has one row a place.

    Attributes:
        unpatched: Direction to each solution's summed log-probability, [items].
        counts: Solution tokens of each item.
        effects: (direction, place) to the change of these by exact patching, [items]; empty without it.
        first_order: (direction, place) to the same as gradients predict it, [items].
        drawn: (direction, place) to the sum over items of the same where RLVR is a random change, [draws].
    """

    unpatched: dict[str, np.ndarray]
    counts: np.ndarray
    effects: dict[tuple[str, Place], np.ndarray] = field(default_factory=dict)
    first_order: dict[tuple[str, Place], np.ndarray] = field(default_factory=dict)
    drawn: dict[tuple[str, Place], np.ndarray] = field(default_factory=dict)


class Exchange:
    """A pair of models whose activations are exchanged at some sites.

    Args:
        pair: The models.
        sites: Names of activations, as ``HookedModel`` has them.
        layers: In which layers; None for all.
        exact: Whether to patch, too.

    Raises:
        MastlensError: For a site or a layer that the models do not have.
    """

    def __init__(self, pair: Pair, sites: Sequence[str], layers: Sequence[int] | None, *, exact: bool):
        self.pair, self.sites, self.layers, self.exact = pair, tuple(dict.fromkeys(sites)), layers, exact
        self.models = HookedModel(pair.source), HookedModel(pair.changed)

    def run(self, encoded: Sequence[EncodedProblem], *, batch_size: int | str, progress: str | None) -> Exchanged:
        """Exchange activations on every text."""
        items = len(encoded)
        found = Exchanged({way: np.zeros(items) for way in DIRECTIONS}, np.zeros(items))
        suffixes = [self._suffix(model, encoded) for model in self.models] if self.exact else []
        batches = by_length(self.pair.source, encoded, batch_size, progress, backward=True)
        drawn: dict[tuple[str, Place], list[np.ndarray]] = {}
        for chosen, batch in batches:
            with batches.fitting():
                parts: dict[tuple[str, Place], list[np.ndarray]] = {}
                found.counts[chosen] = batch.is_solution[:, 1:].sum(dim=1).cpu().numpy()
                before = self._seen(0, batch)
                for turn in range(1 + self.pair.draws):
                    self.pair.take(turn)
                    after = self._seen(1, batch)
                    for way, (own, other) in {"restore": (after, before), "insert": (before, after)}.items():
                        predicted = _first_order(own, other)
                        if turn == RLVR:
                            found.unpatched[way][chosen] = own.sums
                            for place, values in predicted.items():
                                found.first_order.setdefault((way, place), np.zeros(items))[chosen] = values
                        else:
                            for place, value in predicted.items():
                                parts.setdefault((way, place), []).append(value.sum())
                    if turn == RLVR and self.exact:
                        self._patch(found, chosen, batch, (before, after), suffixes)
                for key, values in parts.items():
                    drawn.setdefault(key, []).append(np.array(values))
        found.drawn = {key: np.sum(values, axis=0) for key, values in drawn.items()}
        return found

    def _seen(self, which: int, batch: Batch) -> Seen:
        hooked = self.models[which]
        with torch.enable_grad(), hooked.watch(*self.sites, layers=self.layers, gradients=True) as view:
            logprobs = read_solutions(hooked.model, batch).logprobs
            gradients = view.gradients(logprobs.values.sum())
        values, wide = logprobs.values.detach(), float64_device(logprobs.rows.device)
        empty = torch.zeros(logprobs.size, dtype=torch.float64, device=wide)
        sums = empty.index_add(0, logprobs.rows.to(wide), values.to(wide).double())
        return Seen({point: view[point].detach() for point in view.points}, gradients, sums.cpu().numpy())

    @torch.no_grad()
    def _patch(
        self,
        found: Exchanged,
        chosen: Sequence[int],
        batch: Batch,
        seen: tuple[Seen, Seen],
        suffixes: Sequence[PartialForward],
    ) -> None:
        for way, which in (("restore", 1), ("insert", 0)):
            hooked, other, suffix = self.models[which], seen[1 - which], suffixes[which]
            with suffix.recording():
                base, _, known = read_batch(hooked.model, batch, known=False)
            for point, value in other.values.items():
                for head in range(value.shape[2]) if value.dim() == _BY_HEAD else (WHOLE,):
                    with suffix.above(max(point[1], 0)), hooked.watch("z", layers=(), replace=_put(point, head, value)):
                        sums, _, _ = read_batch(hooked.model, batch, known=known)
                    key = way, (*point, head)
                    found.effects.setdefault(key, np.zeros(len(found.counts)))[chosen] = sums - base
            suffix.clear()

    def _suffix(self, hooked: HookedModel, encoded: Sequence[EncodedProblem]) -> PartialForward:
        model: PreTrainedModel = hooked.model
        names = list(located((one.stored for one in self.pair.rlvr.projections), model).values())
        # A model whose layers cannot be run apart takes every pass whole.
        starts = None if self.layers is None else sorted({max(layer, 0) for layer in self.layers})
        return partial_forward(model, names, encoded, starts=starts) or PartialForward([])


def _put(point: Point, head: int, value: Tensor):
    """Return the replacement that puts another model's activation, or one head of it, in the place of the own."""

    def replace(old: Tensor) -> Tensor:
        if head == WHOLE:
            return value
        new = old.clone()
        new[:, :, head] = value[:, :, head]
        return new

    return {point: replace}


def _first_order(own: Seen, other: Seen) -> dict[Place, np.ndarray]:
    """Return what each exchange does to each item's log-probability to first order, float64."""
    found: dict[Place, np.ndarray] = {}
    for (name, layer), value in own.values.items():
        change = (other.values[name, layer] - value).double() * own.gradients[name, layer].double()
        if change.dim() == _BY_HEAD:
            for head, part in enumerate(change.sum(dim=(1, 3)).T.cpu().numpy()):
                found[name, layer, head] = part
        else:
            found[name, layer, WHOLE] = change.flatten(1).sum(dim=1).cpu().numpy()
    return found
