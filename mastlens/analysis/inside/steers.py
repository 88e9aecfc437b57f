"""A direction added to the states of a model, or taken out of them, at every token that it reads and writes.

Adding (activation addition: Turner et al. 2023, arXiv:2308.10248; Rimsky et al. 2023, arXiv:2312.06681) makes x + d v
of a state x, v one gap long, so that a dose d of 1 is as far as two kinds of texts are apart. Taking out (directional
ablation: Arditi et al. 2024, arXiv:2406.11717) makes x - d (x . u) u, u = v / |v|: nothing is left along it at 1.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.errors import BadFile, BadSetting, NotTogether, unknown
from mastlens.models.backends.recording import Point
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import counted_states
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.reading import read_tensors

WHOLE = -1
"""The head of an activation that is taken whole."""
_PARTS = 6  # of a direction's name
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Direction:
    """A direction of one activation.

    Attributes:
        name: ``MODEL/PROBE/SITE/LAYER/HEAD/POSITION``, as ``inside direct`` has it.
        site: The activation, by its name in ``HookedModel``.
        layer: Its layer; -1 outside of them.
        head: Its head; ``WHOLE`` for all of it.
        vector: The direction, float32, as long as the two kinds of texts are apart.
    """

    name: str
    site: str
    layer: int
    head: int
    vector: Float[Tensor, " width"]

    @property
    def point(self) -> Point:
        """Return where it is, as ``HookedModel`` has it."""
        return self.site, self.layer


def read_direction(path: str | os.PathLike[str], name: str) -> Direction:
    """Read one of the directions that ``inside direct`` wrote.

    Args:
        path: ``inside_directions.safetensors``.
        name: Which of them.

    Raises:
        MastlensError: If there is no such file or direction, or its two kinds of texts are not apart.
    """
    vectors = read_tensors(path, "Directions of inside direct")
    if name not in vectors:
        raise unknown("direction", name, sorted(vectors), of=str(path))
    parts, vector = name.split("/"), vectors[name].float()
    whole = len(parts) == _PARTS and all(part.removeprefix("-").isdigit() for part in parts[3:])
    if not whole or vector.dim() != 1 or not bool(vector.isfinite().all()):
        raise BadFile(
            f"{path}: {name!r} is no direction as inside direct writes it, MODEL/PROBE/SITE/LAYER/HEAD/POSITION."
        )
    if not bool(vector.any()):
        raise BadSetting(
            f"{name} of {path} is zero: both kinds of texts have one state there. Take another --direction."
        )
    return Direction(name, parts[2], int(parts[3]), int(parts[4]), vector)


@dataclass(frozen=True)
class Steer:
    """What is done to an activation: a function of it, as ``HookedModel.watch`` takes one.

    Attributes:
        direction: Along what.
        dose: How far: in lengths of the direction; of ``project`` the share that is taken out.
        project: Whether it is taken out, and not added.
    """

    direction: Direction
    dose: float
    project: bool = False

    def __call__(self, value: Tensor) -> Tensor:
        """Return the activation as it is steered, at every token alike."""
        head = self.direction.head
        if head == WHOLE:
            return self._moved(value)
        if value.dim() != 4 or head >= value.shape[2]:
            raise NotTogether(f"{self.direction.name}: {self.direction.site} of this model has no head {head}.")
        new = value.clone()
        new[:, :, head] = self._moved(value[:, :, head])
        return new

    def _moved(self, states: Tensor) -> Tensor:
        vector = self.direction.vector.to(states.device)
        if states.shape[-1] != len(vector):
            raise NotTogether(
                f"{self.direction.name} has {len(vector)} entries, and {self.direction.site} of this model has "
                f"{states.shape[-1]}: it is a direction of another model."
            )
        wide = states.float()
        if not self.project:
            return (wide + self.dose * vector).to(states.dtype)
        unit = vector / torch.linalg.vector_norm(vector)
        return (wide - self.dose * (wide @ unit)[..., None] * unit).to(states.dtype)


@contextmanager
def steered(hooked: HookedModel, steer: Steer) -> Iterator[None]:
    """Within, every pass of the model goes on with the steered activation: reading, and writing token by token.

    Raises:
        MastlensError: If the model has no such activation.
    """
    with hooked.watch(steer.direction.site, layers=(), replace={steer.direction.point: steer}):
        yield


@torch.no_grad()
def random_directions(
    hooked: HookedModel,
    texts: Iterable[Sequence[EncodedProblem]],
    like: Direction,
    *,
    draws: int,
    seed: int,
    batch_size: int | str,
) -> list[Direction]:
    """Return directions of the same length that mean nothing, and lie as the states do.

    Each is a sum of the states' deviations from their mean, at the tokens that solutions are predicted from, with
    normal weights: its law is the normal one with the states' covariance. Directions drawn evenly would lie where
    states hardly ever are, and do nothing.

    Args:
        hooked: The model.
        texts: The texts, split by split.
        like: The direction beside which they stand.
        draws: How many.
        seed: Decides them; a text's weights depend on it and on the text's place alone.
        batch_size: Texts at a time.
    """
    width = len(like.vector)
    sums, weights, mean, count = torch.zeros(draws, width).double(), torch.zeros(draws).double(), 0.0, 0
    for split, encoded in enumerate(texts if draws else ()):
        batches = by_length(hooked.model, encoded, batch_size, None)
        for items, batch in batches:
            with batches.fitting():
                with hooked.watch(like.site, layers=like.layer) as view:
                    counted_states(hooked.model, batch)
                counted = torch.nn.functional.pad(batch.is_solution[:, 1:], (0, 1))
                states = view[like.point][counted]
                states = (states if like.head == WHOLE else states[:, like.head]).cpu().double()
                if states.dim() != 2 or states.shape[1] != width:
                    Steer(like, 1.0)(view[like.point])  # says what is wrong
                tokens = counted.sum(dim=1).tolist()
                own = [
                    np.random.default_rng([seed, split, item]).normal(size=(draws, n))
                    for item, n in zip(items, tokens, strict=True)
                ]
                drawn = torch.from_numpy(np.concatenate(own, axis=1))
                sums, weights = sums + drawn @ states, weights + drawn.sum(dim=1)
                mean, count = mean + states.sum(dim=0), count + len(states)
    found = []
    for number in range(draws):
        vector = sums[number] - weights[number] * mean / count
        size = float(torch.linalg.vector_norm(vector))
        scaled = vector * (float(torch.linalg.vector_norm(like.vector.double())) / max(size, _TINY))
        found.append(Direction(f"random {number + 1}", *like.point, like.head, scaled.float()))
    return found
