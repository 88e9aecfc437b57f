"""Checkpoints that were never trained: a run's updates recombined by its rank-1 models, and AlphaRL's."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from mastlens.analysis.increments.subspaces import principal_subspaces
from mastlens.analysis.trajectories.relex import Rank1
from mastlens.analysis.trajectories.steps import Steps, tied_output
from mastlens.errors import UnknownName

_TOLERANCE = 1e-6  # sine of the angle to the first singular vectors: below what float32 weights can hold
_ROWS = 4096  # rows that are in float64 at a time


class _Computed(Mapping[str, torch.Tensor]):
    """Tensors that are computed when they are asked for, so that one at a time is in memory."""

    def __init__(self, names: list[str], compute: Callable[[str], torch.Tensor]):
        self._names, self._compute = dict.fromkeys(names), compute

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # asking computes nothing

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def extrapolated(steps: Steps, models: Mapping[str, Rank1], step: int | float) -> Mapping[str, torch.Tensor]:
    """Return every tensor at ``step`` by its rank-1 line (RELEX's ``extrapolate``, ``fit_reconstruct`` inside)."""
    return _combined(steps, {name: model.extrapolation(step) for name, model in models.items()})


def reconstructed(steps: Steps, models: Mapping[str, Rank1], step: int) -> Mapping[str, torch.Tensor]:
    """Return every tensor of an observed step with its update projected on its direction (RELEX's ``reconstruct``).

    Raises:
        MastlensError: If the run has no such step.
    """
    if step not in steps.numbers:
        raise UnknownName(f"The run has no step {step}; it has {', '.join(map(str, steps.numbers))}.")
    index = steps.numbers.index(step)
    return _combined(steps, {name: model.reconstruction(index) for name, model in models.items()})


def _combined(steps: Steps, combinations: Mapping[str, np.ndarray]) -> Mapping[str, torch.Tensor]:
    """Return theta_0 + sum of combination[t] * delta_t per tensor, summed in float64, rounded to theta_T's dtype."""

    def compute(name: str) -> torch.Tensor:
        weights = torch.from_numpy(combinations[name])
        result = torch.empty(steps.last.tensors[name].shape, dtype=steps.last.tensors[name].dtype)
        for rows, before, deltas in steps.parts(name, len(weights)):
            wide = before.double().reshape(-1)
            for weight, delta in zip(weights.tolist(), deltas, strict=True):
                wide.add_(delta, alpha=weight)
            part = wide.reshape(before.shape).to(result.dtype)
            if not result.dim():
                return part
            result[rows] = part
        return result

    return _with_tied(steps, compute)


def matrix_rank1(steps: Steps) -> Mapping[str, torch.Tensor]:
    """Return theta_0 + |D|_F u v' for every tensor's whole update D (AlphaRL, arXiv:2510.00553).

    (u, v) is the first pair of singular vectors of D, rescaled to the full update's norm. A vector's update is of
    rank 1 as it stands and is taken whole.
    """

    def compute(name: str) -> torch.Tensor:
        before, after = steps.start.tensor(name), steps.last.tensor(name)
        if before.dim() != 2:
            return after
        update = after.float() - before.float()
        norm = float(torch.linalg.vector_norm(update, dtype=torch.float64))
        if norm == 0.0:
            return after
        top = principal_subspaces(update, 1, tolerance=_TOLERANCE)
        left, right = top.left[:, 0], top.right[:, 0]
        sign = 1.0 if float(left.float() @ (update @ right.float())) > 0 else -1.0
        for rows in torch.arange(len(before)).split(_ROWS):
            after[rows] = (before[rows].double() + sign * norm * torch.outer(left[rows], right)).to(after.dtype)
        return after

    return _with_tied(steps, compute)


def _with_tied(steps: Steps, compute: Callable[[str], torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Let an output embedding that is tied to the input be the predicted input, as it was in training."""
    names, tied = list(steps.names), tied_output(steps.last)
    if tied is None:
        return _Computed(names, compute)
    embedding = next(
        name for name in names if "embed" in name and steps.last.tensors[name].shape == steps.last.tensors[tied].shape
    )
    return _Computed([*names, tied], lambda name: compute(embedding if name == tied else name))
