"""Gradient-free control: take the increment back on chosen tensors (task-vector negation)."""

import os
from collections.abc import Sequence

from mastlens.edit import Edit
from mastlens.lineage import Checkpoint, Lineage


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
        names: The tensors.
        scale: How much of the increment to take back.
    """
    lineage = Lineage.open(rlvr, sft=sft)
    old, source = lineage.increments["rlvr"]
    before, after = {}, {}
    for name in names:
        a, b = old.tensor(name), source.tensor(name)
        before[name] = b
        after[name] = a.to(b.dtype) if scale == 1.0 else (b.float() - scale * (b.float() - a.float())).to(b.dtype)
    return Edit(before, after, source.fingerprint, {"kind": "negated increment", "scale": scale})
