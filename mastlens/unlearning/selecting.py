"""What an edit may touch: from a ranking, a pattern or names to matrices."""

import os
from collections.abc import Sequence

from mastlens.errors import MastlensError, unknown
from mastlens.lineage import Checkpoint
from mastlens.matrices import find_matrices
from mastlens.projections import Projection, match_names
from mastlens.selection.ranking import read_selection


def weight_matrices(checkpoint: Checkpoint) -> list[str]:
    """Return the names of all weight matrices, embeddings included; biases and norms are no matrices."""
    return [
        name for name, stored in checkpoint.tensors.items() if len(stored.shape) >= 2 and stored.dtype.is_floating_point
    ]


def named_matrices(checkpoint: Checkpoint, names: Sequence[str]) -> list[str | Projection]:
    """Return what each name stands for: a stored tensor by its name, a slice of one (``...#q``) as its projection.

    Raises:
        MastlensError: If a name is neither, or a slice is named together with the whole tensor.
    """
    whole = set(weight_matrices(checkpoint))
    slices = {p.name: p for p in _all_matrices(checkpoint) if p.fused} if any("#" in name for name in names) else {}
    found: list[str | Projection] = []
    for name in names:
        if name not in whole and name not in slices:
            if name in checkpoint.tensors:
                raise MastlensError(
                    f"{name} is selected but is no weight matrix of {checkpoint.spec}: it is a bias or a norm, and "
                    "those stay."
                )
            raise unknown(f"weight matrix in {checkpoint.spec}", name, [*whole, *slices])
        found.append(name if name in whole else slices[name])
    twice = {m.stored for m in found if isinstance(m, Projection)} & {m for m in found if isinstance(m, str)}
    if twice:
        raise MastlensError(f"{min(twice)} is selected whole and in part. Choose one.")
    return found


def select_tensors(
    checkpoint: Checkpoint,
    *,
    ranking: str | os.PathLike[str] | None = None,
    where: str | None = None,
    all_parameters: bool = False,
    names: Sequence[str] | None = None,
) -> list[str]:
    """Return the names of the matrices to edit, in the checkpoint's order; ``...#q`` for a slice of a fused tensor.

    Exactly one of the four is given: a ranking file, a regular expression over names, all weight matrices, or
    the names themselves.
    """
    given = [ranking is not None, where is not None, all_parameters, names is not None]
    if sum(given) != 1:
        raise MastlensError("Say what to edit in exactly one way: --ranking, --where, or --all-parameters.")
    if all_parameters:
        return weight_matrices(checkpoint)
    if ranking is not None:
        names = read_selection(ranking, checkpoint.fingerprint)
    elif where is not None:
        names = match_names(where, [p.name for p in _all_matrices(checkpoint)])
    if not names:
        raise MastlensError("The selection is empty: there is nothing to edit.")
    named_matrices(checkpoint, names)
    order = {name: i for i, name in enumerate(checkpoint.tensors)}
    return sorted(dict.fromkeys(names), key=lambda name: (order[name.partition("#")[0]], name))


def _all_matrices(checkpoint: Checkpoint) -> tuple[Projection, ...]:
    shapes = {name: s.shape for name, s in checkpoint.tensors.items() if s.dtype.is_floating_point}
    return find_matrices(".", checkpoint.config, shapes)
