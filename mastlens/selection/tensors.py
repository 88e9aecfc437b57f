"""What an edit may touch: from a ranking, a pattern or names to matrices and heads."""

import os
import re
from collections.abc import Iterable, Sequence

from mastlens.architectures.projections import Projection, match_names
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import BadSetting, MastlensError, NotTogether, unknown
from mastlens.selection.ranking import read_selection


def weight_matrices(checkpoint: Checkpoint) -> list[str]:
    """Return the names of all weight matrices, embeddings included; biases and norms are no matrices."""
    return [
        name for name, stored in checkpoint.tensors.items() if len(stored.shape) >= 2 and stored.dtype.is_floating_point
    ]


def named_matrices(checkpoint: Checkpoint, names: Sequence[str]) -> list[str | Projection]:
    """Return what each name stands for: a stored tensor by its name, a part of one as its projection.

    A part is a slice of a fused tensor (``...#q``) or a single head (``...#h3``; of a slice ``...#q.h3``; of k and v
    the heads are the key-value groups).

    Raises:
        MastlensError: If a name is none of these, or what is named overlaps.
    """
    whole = set(weight_matrices(checkpoint))
    matrices = checkpoint.matrices() if any("#" in name for name in names) else ()
    parts = {p.name: p for p in (*(m for m in matrices if m.fused), *_heads_of(matrices))}
    found: list[str | Projection] = []
    for name in names:
        if name not in whole and name not in parts:
            if name in checkpoint.tensors:
                raise BadSetting(
                    f"{name} is selected but is no weight matrix of {checkpoint.spec}: it is a bias or a norm, and "
                    "those stay."
                )
            raise unknown(f"weight matrix in {checkpoint.spec}", name, [*whole, *parts])
        found.append(name if name in whole else parts[name])
    _refuse_overlap(names)
    return found


def select_tensors(
    checkpoint: Checkpoint,
    *,
    ranking: str | os.PathLike[str] | None = None,
    where: str | None = None,
    all_parameters: bool = False,
    names: Sequence[str] | None = None,
    everything: bool = False,
) -> list[str]:
    r"""Return the names of what to edit, in the checkpoint's order; ``...#q`` and ``...#h3`` for parts of a tensor.

    Exactly one of the ways is given: a ranking file, a regular expression over names, all weight matrices, the names
    themselves, or, for edits without gradients, every tensor with norms and biases.

    The expression is matched against the names of matrices, and of slices of fused tensors. Heads are matched only by
    an expression that has a ``#`` in it and matches no matrix: ``q_proj.weight#h3$``, ``#q\.h[01]$``.

    Raises:
        MastlensError: If it is not exactly one way, or what it names is empty, unknown, or overlaps.
    """
    given = [ranking is not None, where is not None, all_parameters, names is not None, everything]
    if sum(given) != 1:
        raise BadSetting(
            "Say what to edit in exactly one way: --ranking, --where, or --all-parameters; mastlens negate also takes "
            "--everything."
        )
    if everything:
        return list(checkpoint.tensors)
    if all_parameters:
        return weight_matrices(checkpoint)
    if ranking is not None:
        names = _ranked(checkpoint, ranking)
    elif where is not None:
        names = _matching(checkpoint, where)
    if not names:
        raise BadSetting("The selection is empty: there is nothing to edit.")
    named_matrices(checkpoint, names)
    order = {name: i for i, name in enumerate(checkpoint.tensors)}
    return sorted(names, key=lambda name: (order[_stored(name)], _natural(name)))


def _ranked(checkpoint: Checkpoint, ranking: str | os.PathLike[str]) -> list[str]:
    names = read_selection(ranking, checkpoint.fingerprint)
    if absent := [name for name in names if _stored(name) not in checkpoint.tensors]:
        raise NotTogether(
            f"{ranking} was made for another model: of {len(names)} selected names, {len(absent)} are not in "
            f"{checkpoint.spec}. {unknown('weight matrix', absent[0], weight_matrices(checkpoint))}"
        )
    return names


def _matching(checkpoint: Checkpoint, pattern: str) -> list[str]:
    matrices = checkpoint.matrices()
    heads = [head.name for head in _heads_of(matrices)]
    try:
        return match_names(pattern, [matrix.name for matrix in matrices])
    except MastlensError:
        if "#" not in pattern or not heads:
            raise
    return match_names(pattern, heads)


def _refuse_overlap(names: Sequence[str]) -> None:
    """Raise if an entry is selected more than once: by the same name, or by a tensor and a part of it."""
    seen = set(names)
    if len(seen) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadSetting(f"{twice} is selected twice.")
    for name in names:
        for holder in (_stored(name), re.sub(r"(#.+)\.h\d+$", r"\1", name)):
            if holder != name and holder in seen:
                raise BadSetting(f"{holder} is selected whole and in part, as {name}. Choose one.")


def _stored(name: str) -> str:
    return name.partition("#")[0]


def _natural(name: str) -> list[str | int]:
    """Return a key by which head 2 stands before head 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _heads_of(matrices: Iterable[Projection]) -> list[Projection]:
    return [matrix.head(head) for matrix in matrices for head in range(matrix.heads)]
