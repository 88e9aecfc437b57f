"""Gradient-free edits: take the increment back, whole or in part, on chosen tensors (task-vector negation)."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mastlens.analysis.increments.subspaces import principal_subspaces
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.lineage import Lineage
from mastlens.edits.composition import check_scale, interpolated, rounded
from mastlens.edits.edit import FILE, Edit
from mastlens.edits.settings import NegateSettings
from mastlens.errors import BadSetting, MastlensWarning, NotSupported, NotTogether
from mastlens.runs.calls import takes
from mastlens.runs.devices import device_of
from mastlens.runs.files import sha256_json
from mastlens.runs.stages import remembered
from mastlens.selection.tensors import named_matrices, select_tensors


@takes(NegateSettings)
def negate(settings: NegateSettings) -> Edit:
    """Return the edit RLVR - scale * part of (RLVR - SFT) on what is selected.

    Computed in float64 and rounded once to the checkpoint's dtype. At ``scale`` 1 the whole increment is not
    subtracted: the SFT tensors themselves are put back, so that on everything the result is SFT bit for bit.

    A part of the increment is taken matrix by matrix: of a fused tensor slice by slice, of a head against the head's
    own base weight. The definition is that of ``off_principal`` in ``geometry``. ``out`` gets ``edit.safetensors``.

    Raises:
        MastlensError: If the checkpoints are no lineage, the selection is no good, a part is asked for without a base
            or of what is no matrix, or nothing changes.
    """
    scale, part, rank, seed = settings.scale, settings.part, settings.rank, settings.seed
    base, everything = settings.base, settings.everything
    check_scale(scale)
    if part != "all" and base is None:
        raise BadSetting(f"The {part} part is measured against the base weights. Say which: --base PATH.")
    if part != "all" and everything:
        raise NotSupported(
            f"Norms and biases have no {part} part. Use --all-parameters, which takes every weight matrix."
        )
    lineage = Lineage.open(settings.rlvr, sft=settings.sft, base=base if part != "all" else None)
    old, source = lineage.increments["rlvr"]
    selection = select_tensors(
        source,
        ranking=settings.ranking,
        where=settings.where,
        all_parameters=settings.all_parameters,
        names=settings.names,
        everything=everything,
    )
    deciding: dict[str, Any] = {"kind": "negated increment", "selection": selection, "scale": scale, "part": part}
    if part != "all":
        deciding |= {"rank": rank, "seed": seed, "base": lineage.fingerprints["base"]}
    matrices: Sequence[str | Projection] = selection if everything else named_matrices(source, selection)

    def compute() -> Edit:
        if part == "all" or lineage.base is None:
            after = _negated(
                old, source, tqdm(matrices, desc="negate", unit="tensor", disable=not settings.progress), scale
            )
        else:
            split = _Split(lineage.base, part, rank, seed, device_of(settings.device, float64=True))
            pieces = list(_single_matrices(source, matrices))
            after = split.negated(old, source, tqdm(pieces, desc="negate", disable=not settings.progress), scale)
        before = {name: source.tensor(name) for name in after}
        return Edit.of_changed(before, after, source.fingerprint, deciding, source.digests)

    def write(edit: Edit, folder: Path) -> None:
        edit.save(folder / FILE)

    recorded = {**deciding, "selection": sha256_json(selection), "tensors": len(selection)}
    return remembered(
        settings.out,
        "negate",
        outputs=[FILE],
        lineage=lineage.fingerprints if settings.out is not None else {},
        settings=recorded,
        command=settings,
        device=settings.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=lambda folder: Edit.load(folder / FILE),
    )


def _negated(
    old: Checkpoint, source: Checkpoint, matrices: Iterable[str | Projection], scale: float
) -> dict[str, Tensor]:
    after: dict[str, Tensor] = {}
    for matrix in matrices:
        name = matrix if isinstance(matrix, str) else matrix.stored
        now, then = source.tensor(name), _counterpart(old, source, name)
        if isinstance(matrix, str):
            after[name] = _taken_back(name, now, then, scale)
        else:
            taken = _taken_back(matrix.name, matrix.read(now), matrix.read(then), scale)
            matrix.write(after.setdefault(name, now), taken)
    return after


def _counterpart(old: Checkpoint, source: Checkpoint, name: str) -> Tensor:
    then, shape = old.tensor(name), source.tensors[name].shape
    if tuple(then.shape) != tuple(shape):
        raise NotTogether(f"{name} is {tuple(then.shape)} in {old.spec} and {tuple(shape)} in {source.spec}.")
    return then


def _taken_back(name: str, now: Tensor, then: Tensor, scale: float) -> Tensor:
    if not now.is_floating_point():  # whole numbers have no half way
        return then.to(now.dtype) if scale == 1 else now
    return interpolated(name, now, then, scale)


def _single_matrices(source: Checkpoint, matrices: Iterable[str | Projection]) -> Iterator[Projection]:
    """Yield the matrices that were named, and those that a whole tensor consists of.

    Raises:
        MastlensError: For a tensor that consists of no matrices.
    """
    inside: dict[str, list[Projection]] = {}
    for found in source.matrices():
        inside.setdefault(found.stored, []).append(found)
    for matrix in matrices:
        if isinstance(matrix, Projection):
            yield matrix
        elif matrix in inside:
            yield from inside[matrix]
        else:
            shape = source.tensors[matrix].shape
            raise NotSupported(f"{matrix} is {shape}, which is no matrix: it has no principal part.")


@dataclass(frozen=True)
class _Split:
    """Takes the principal part of increments, or the rest, against a base checkpoint."""

    base: Checkpoint
    part: str
    rank: int
    seed: int
    device: str

    def negated(
        self, old: Checkpoint, source: Checkpoint, matrices: Iterable[Projection], scale: float
    ) -> dict[str, Tensor]:
        after: dict[str, Tensor] = {}
        asked = lost = 0.0
        for matrix in matrices:
            stored = after[matrix.stored] if matrix.stored in after else source.tensor(matrix.stored)
            before = matrix.read(stored)
            now, then = before.double(), matrix.read(_counterpart(old, source, matrix.stored)).double()
            taken = scale * self.of(matrix, source, now - then)
            result = torch.where(taken == 0, before, rounded(matrix.name, now - taken, stored.dtype))
            asked += float(taken.square().sum())
            lost += float((result.double() - (now - taken)).square().sum())
            matrix.write(stored, result)
            after[matrix.stored] = stored
        if asked and lost > asked / 4:
            warnings.warn(
                f"Rounding to the checkpoint's dtype changes the {self.part} part by {(lost / asked) ** 0.5:.0%} of "
                "its norm: the edit is not what was asked for. Use float32 checkpoints.",
                MastlensWarning,
                stacklevel=2,
            )
        return after

    def of(self, matrix: Projection, source: Checkpoint, increment: Tensor) -> Tensor:
        """Return the part of an increment (rows, cols), in float64.

        Raises:
            MastlensError: If the matrix is smaller than the rank.
        """
        weight = matrix.read(_counterpart(self.base, source, matrix.stored))
        if self.rank > min(weight.shape) or self.rank < 1:
            raise BadSetting(
                f"--rank {self.rank} does not fit {matrix.name}, {weight.shape[0]} x {weight.shape[1]}: it has "
                f"{min(weight.shape)} singular directions."
            )
        found = principal_subspaces(weight.to(self.device), self.rank, seed=self.seed)
        left, right = found.left.cpu(), found.right.cpu()
        principal = left @ (left.T @ increment @ right) @ right.T
        return principal if self.part == "principal" else increment - principal
