"""The steps of one training run: checkpoints in order, with their step numbers, read one tensor at a time."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.folders import resolve_folder
from mastlens.checkpoints.lineage import check_pair
from mastlens.checkpoints.tying import OUTPUTS, find_tie
from mastlens.errors import BadSetting, NotFound, NotTogether

_NUMBER = re.compile(r"(?:^|[/@_.-])(?:global_step|checkpoint|step|iter)[_-]?0*(\d+)(?:/.*)?$")
_BUDGET = 64 << 20  # entries of all steps together that are in memory at a time
_WIDE = 1 << 16  # columns that are in float64 at a time

Source = str | os.PathLike[str] | Checkpoint


@dataclass(frozen=True)
class Steps:
    """A run: the checkpoint it started from and those that were saved along it.

    Attributes:
        start: theta_0.
        checkpoints: theta_t, by step.
        numbers: Step number of each, ascending.
        start_number: Step number of theta_0.
        fitted: How many of them a fit may look at.
    """

    start: Checkpoint
    checkpoints: tuple[Checkpoint, ...]
    numbers: tuple[int, ...]
    start_number: int
    fitted: int

    @property
    def last(self) -> Checkpoint:
        """The last checkpoint."""
        return self.checkpoints[-1]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every tensor that is analysed and predicted: the floating ones, without an output tied to the input."""
        tied = tied_output(self.last)
        return tuple(n for n, stored in self.last.tensors.items() if stored.dtype.is_floating_point and n != tied)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Role to fingerprint, for the run record."""
        numbered = zip(self.numbers, self.checkpoints, strict=True)
        return {"start": self.start.fingerprint} | {f"step {n}": c.fingerprint for n, c in numbered}

    def parts(self, name: str, count: int | None = None) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Yield a tensor of the whole run, some rows at a time.

        Args:
            name: The tensor.
            count: How many steps to read; by default all.

        Yields:
            The rows, theta_0 in its own dtype, and the updates theta_t - theta_0, flat, float32 (float64 where
            the checkpoints are): (count, entries).
        """
        shape = self.start.tensors[name].shape
        checkpoints = self.checkpoints[:count]
        height = shape[0] if shape else 1
        each = max(1, self.start.tensors[name].numel // max(height, 1))
        rows = max(1, _BUDGET // (each * (len(checkpoints) + 1)))
        for first in range(0, max(height, 1), rows):
            where = slice(first, min(first + rows, height))
            before = self.start.rows(name, where.start, where.stop)
            deltas = torch.stack(
                [_widen(c.rows(name, where.start, where.stop)).sub_(_widen(before)).reshape(-1) for c in checkpoints]
            )
            yield where, before, deltas

    def gram(self, name: str) -> np.ndarray:
        """Return the inner products of all updates of one tensor, float64, (steps, steps)."""
        return sum((inner_products(deltas) for _, _, deltas in self.parts(name)), np.zeros((len(self.numbers),) * 2))


def _widen(value: torch.Tensor) -> torch.Tensor:
    return value.clone() if value.dtype == torch.float64 else value.to(torch.float32, copy=True)


def inner_products(updates: torch.Tensor) -> np.ndarray:
    """Return the Gram matrix of the rows of ``updates``, accumulated in float64."""
    total = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for part in updates.split(_WIDE, dim=1):
        wide = part.double()
        total += wide @ wide.T
    return ((total + total.T) / 2).numpy()


def tied_output(checkpoint: Checkpoint) -> str | None:
    """Return the name of a stored output embedding that is the input embedding once more."""
    tied = find_tie(checkpoint)
    return next((name for name in checkpoint.tensors if name.endswith(OUTPUTS) and tied), None)


def open_steps(
    paths: Sequence[Source],
    *,
    start: Source | None = None,
    numbers: Sequence[int] | None = None,
    window: int | float | None = None,
) -> Steps:
    """Open a run.

    Args:
        paths: theta_0 first, then the checkpoints along the run. A folder of ``step_N`` folders stands for these, in
            the order of N. With ``start``, all of them are steps.
        start: theta_0, where it is not the first path.
        numbers: Step numbers of the checkpoints after theta_0, in their order; by default read from their names
            (``step_N``, ``checkpoint-N``, ``global_step_N``, also as a revision), and sorted by these.
        window: How much of the run a fit may look at: a number of checkpoints, or a share of them as a fraction.

    Raises:
        MastlensError: If there are fewer than two steps, a number cannot be read or occurs twice, or the checkpoints
            are not one run.
    """
    sources = [source for path in paths for source in _expand(path)]
    if start is None:
        if not sources:
            raise NotFound("There is no checkpoint. Give theta_0, then the steps, or a folder of steps.")
        if isinstance(paths[0], str | os.PathLike) and sources[0] is not paths[0] and _number(sources[0]) != 0:
            raise BadSetting(
                f"{paths[0]} is a folder of steps, and none of them is step 0. Say what the run started from: give it "
                "first, or as --start PATH."
            )
        start, sources = sources[0], sources[1:]
    if len(sources) < 2:
        raise BadSetting(f"A trajectory needs two steps or more after theta_0; there are {len(sources)}.")
    if numbers is None:
        found = [_number(source) for source in sources]
        if None in found:
            raise BadSetting(
                f"{_spec(sources[found.index(None)])} does not say which step it is, as step_N or checkpoint-N would. "
                "Give the numbers: --steps 10,20,..."
            )
        order = sorted(range(len(sources)), key=lambda i: found[i] or 0)
        sources, counted = [sources[i] for i in order], [found[i] or 0 for i in order]
    else:
        counted = [int(number) for number in numbers]
        if len(counted) != len(sources):
            raise BadSetting(f"There are {len(counted)} step numbers for {len(sources)} checkpoints after theta_0.")
    if repeated := [b for a, b in pairwise(counted) if b <= a]:
        raise BadSetting(f"Step {repeated[0]} does not come after the step before it. Steps must ascend.")
    first = _number(start)
    last = Checkpoint(sources[-1])
    steps = Steps(
        start=Checkpoint(start).named_as(last),
        checkpoints=(*(Checkpoint(source).named_as(last) for source in sources[:-1]), last),
        numbers=tuple(counted),
        # Where theta_0's name has a number of an earlier run's counting, this run starts at 0.
        start_number=first if first is not None and first < counted[0] else 0,
        fitted=_window(window, len(sources)),
    )
    _check(steps)
    return steps


def _spec(source: Source) -> str:
    return source.spec if isinstance(source, Checkpoint) else os.fspath(source)


def _number(source: Source) -> int | None:
    match = _NUMBER.search(_spec(source).rstrip("/"))
    return int(match[1]) if match else None


def _expand(path: Source) -> list[Source]:
    """Return a folder of steps as its steps, anything else as itself."""
    if isinstance(path, Checkpoint):
        return [path]
    folder = resolve_folder(path) if os.fspath(path).startswith("organism:") else Path(path)
    if not folder.is_dir() or any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return [path]
    children = [
        child
        for child in folder.iterdir()
        if _number(child) is not None and any((child / n).is_file() for n in ("config.json", "adapter_config.json"))
    ]
    return [*sorted(children, key=lambda child: _number(child) or 0)] or [path]


def _window(window: int | float | None, count: int) -> int:
    if window is None:
        return count
    fitted = int(window * count + 1e-9) if isinstance(window, float) and window <= 1 else int(window)
    if not 2 <= fitted <= count:
        raise BadSetting(
            f"--window {window} leaves {fitted} of {count} steps to fit; a line needs two or more, and at most all."
        )
    return fitted


def _check(steps: Steps) -> None:
    shapes = {name: stored.shape for name, stored in steps.start.tensors.items()}
    for checkpoint in steps.checkpoints:
        own = {name: stored.shape for name, stored in checkpoint.tensors.items()}
        if own != shapes:
            differing = sorted(set(shapes.items()) ^ set(own.items()))[0][0]
            raise NotTogether(
                f"{differing} is not the same in {steps.start.spec} and {checkpoint.spec}, in name and shape. The "
                "checkpoints are not one run."
            )
    check_pair("first", steps.start, "last", steps.last)
