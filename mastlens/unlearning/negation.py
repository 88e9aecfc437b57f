"""Gradient-free control: take the increment back on chosen tensors (task-vector negation)."""

import os
from collections.abc import Sequence

from torch import Tensor

from mastlens.edit import Edit
from mastlens.lineage import Checkpoint, Lineage
from mastlens.unlearning.selecting import named_matrices


def negate_increment(
    *,
    sft: "str | os.PathLike[str] | Checkpoint",
    rlvr: "str | os.PathLike[str] | Checkpoint",
    names: Sequence[str],
    scale: float = 1.0,
) -> Edit:
    """Return the edit RLVR - scale * (RLVR - SFT) on the named tensors.

    At ``scale`` 1 it puts the SFT tensors back exactly, bit for bit, rather than subtracting.

    Args:
        sft: The checkpoint that RLVR started from.
        rlvr: The checkpoint to edit.
        names: The matrices; ``...#q`` for a slice of a fused tensor.
        scale: How much of the increment to take back.
    """
    lineage = Lineage.open(rlvr, sft=sft)
    old, source = lineage.increments["rlvr"]
    before: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}
    for matrix in named_matrices(source, names):
        name = matrix if isinstance(matrix, str) else matrix.stored
        a, b = old.tensor(name), source.tensor(name)
        taken = a.to(b.dtype) if scale == 1.0 else (b.float() - scale * (b.float() - a.float())).to(b.dtype)
        if isinstance(matrix, str):
            before[name], after[name] = b, taken
        else:
            before.setdefault(name, b)
            matrix.write(after.setdefault(name, b.clone()), matrix.read(taken))
    return Edit(before, after, source.fingerprint, {"kind": "negated increment", "scale": scale})
