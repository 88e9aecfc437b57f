"""What the optimiser moves where a model lies over ranks: on each rank, its rows of what is selected."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mastlens.architectures.projections import Projection
from mastlens.errors import NotSupported
from mastlens.models.parts import LocalPart, local_part
from mastlens.models.sharding import Rows, Spread, settle
from mastlens.models.weights import placed_weights
from mastlens.runs.ranks import Ranks
from mastlens.unlearning.masters import Masters
from mastlens.unlearning.objectives import Objective, OutputObjective
from mastlens.unlearning.settings import OPTIMIZERS, UnlearnSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_over_ranks(settings: UnlearnSettings, objective: Objective) -> None:
    """Raise for what a run over ranks does not have.

    Raises:
        MastlensError: That names it.
    """
    asked = {
        f"the objective {objective.name}, which steers activations": not isinstance(objective, OutputObjective),
        "--token-weights": objective.token_weights is not None,
        "--probe-forget": settings.probes is not None,
        "--orthogonal-to-retain": bool(settings.orthogonal_to_retain),
        "--sft and models' own responses": settings.sft is not None or objective.needs.own_responses,
        f"--start {settings.start}": settings.start != "source",
        f"--optimizer {settings.optimizer}": settings.optimizer != OPTIMIZERS[0],
        "--track": settings.track is not None,
        "--sharpness, --smoothing or --latent-noise": settings.robust is not None,
        "--anchor": settings.anchor is not None,
    }
    if wrong := next((what for what, there in asked.items() if there), None):
        raise NotSupported(f"Over ranks unlearn does not do {wrong}: leave it out, or run it without torchrun.")


class ShardedMasters(Masters):
    """On each rank the rows that it has of what is selected, as tensors of their own; in float32.

    Those of a whole float32 parameter share its memory. All else is as in ``Masters``.

    Args:
        model: A model over ranks.
        matrices: Names of whole parameters, and projections that are slices of one.
        originals: Name to stored tensor, where the model holds it rounded; read one at a time.
        ranks: All of them.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        matrices: Sequence[str | Projection],
        originals: Mapping[str, Tensor] | None,
        ranks: Ranks,
    ):
        self.model, self.ranks = model, ranks
        self.stored = list(dict.fromkeys(m if isinstance(m, str) else m.stored for m in matrices))
        self._weights = placed_weights(model, self.stored)
        self._originals = originals or {}
        self._parts: list[tuple[str, LocalPart, torch.nn.Parameter]] = []
        moved: set[tuple[int, int | None, int | None]] = set()
        for matrix in matrices:
            name, layout = (matrix, None) if isinstance(matrix, str) else (matrix.stored, matrix.layout)
            if layout is None and self._spot(name) in moved:
                continue  # a tied parameter goes by two names
            moved.add(self._spot(name))
            weight, place = self._weights[name]
            part = local_part(Rows.of(weight), place, layout)
            master = torch.nn.Parameter(part.read(self._start(name)).to(weight.device, torch.float32))
            self._parts.append((name, part, master))
        for weight, _ in self._weights.values():
            weight.requires_grad_(True)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimiser of this rank moves, in the order of the selection; empty where it has no row of one."""
        return [master for _, _, master in self._parts]

    def take_gradients(self) -> None:
        """Add to each master its part of the gradient, in float32, and drop the rest."""
        for name, part, master in self._parts:
            gradient = self._weights[name][0].grad
            if gradient is None or not part.here:
                continue
            found = part.read(Rows.of(gradient).stored(self._weights[name][1]))
            if master.grad is None:
                master.grad = found.to(torch.float32, copy=True)
            else:
                master.grad.add_(found)
        for weight, _ in self._weights.values():
            weight.grad = None

    def begin_at(self, values: Mapping[str, Tensor]) -> None:
        """Refuse: ``check_over_ranks`` has told already."""
        raise NotSupported("Over ranks a run begins at the source.")

    @property
    def finite(self) -> bool:
        """Whether every entry is a number, on every rank."""
        return self.ranks.every(all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters))

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the masters where they belong, rounded; nothing else of their tensors changes."""
        settle(self.model)
        for name, part, master in self._parts:
            weight, place = self._weights[name]
            part.write(Rows.of(weight).stored(place), master.detach())

    @torch.no_grad()
    def whole(self, name: str) -> Tensor | None:
        """Return a stored tensor as the masters have it, in float32, on rank 0; None elsewhere. All call it."""
        settle(self.model)
        weight, place = self._weights[name]
        rows = self._start(name).to(weight.device, torch.float32, copy=True)
        for other, part, master in self._parts:
            if self._spot(other) == self._spot(name):
                part.write(rows, master)
        return Spread(rows, Rows.of(weight), place, self.ranks).whole(0)

    def _start(self, name: str) -> Tensor:
        """Return this rank's rows of a stored tensor, as it was before where the model holds it rounded."""
        weight, place = self._weights[name]
        if name not in self._originals:
            return Rows.of(weight).stored(place)
        return self._originals[name][local_part(Rows.of(weight), place, None).span]

    def clip(self, most: float) -> float:
        """Scale the gradients of all ranks down to a norm of ``most``, as torch does; return their norm."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        squares = sum(float(gradient.double().square().sum()) for gradient in gradients)
        norm = math.sqrt(self.ranks.sums([squares])[0])
        factor = min(1.0, most / (norm + 1e-6))
        if factor < 1:
            for gradient in gradients:
                gradient.mul_(factor)
        return norm


def summed(ranks: Ranks, terms: Mapping[str, float]) -> dict[str, float]:
    """Return each term's sum over ranks, of which each has its share."""
    return dict(zip(terms, ranks.sums(list(terms.values())), strict=True))
