"""Steps too small for a checkpoint's precision, told before the run and not after it."""

import warnings
from collections.abc import Sequence

import torch

from mastlens.analysis.increments.precision import unit_in_last_place
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import MastlensWarning


def vanishing_share(checkpoint: Checkpoint, names: Sequence[str], reach: float) -> float:
    """Return the share of entries that a change of ``reach`` cannot move in the checkpoint's dtype.

    Half the distance to the next number decides: anything less is rounded back.

    Args:
        checkpoint: Where the tensors are stored.
        names: Weight matrices; ``...#q`` counts its whole tensor.
        reach: Largest change of an entry.
    """
    stuck = entries = 0
    for name in dict.fromkeys(name.partition("#")[0] for name in names):
        stored = checkpoint.tensor(name)
        stuck += int((unit_in_last_place(stored) / 2 > reach).sum())
        entries += stored.numel()
    return stuck / entries if entries else 0.0


def warn_of_vanishing(checkpoint: Checkpoint, names: Sequence[str], *, lr: float, steps: int) -> None:
    """Warn if most of the selected entries cannot change in the checkpoint's dtype, whatever the gradient.

    AdamW moves an entry by about the learning rate a step at most, so lr x steps is as far as it gets.
    """
    dtypes = {checkpoint.tensors[name.partition("#")[0]].dtype for name in names}
    if not dtypes - {torch.float32, torch.float64}:
        return
    share = vanishing_share(checkpoint, names, lr * steps)
    if share > 0.5:
        coarse = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        warnings.warn(
            f"{share:.0%} of the selected entries are stored so coarsely ({coarse}) that a change of lr x steps = "
            f"{lr * steps:.2g}, about the most that AdamW makes, is rounded away. Use a larger learning rate or more "
            "steps, or start from a float32 checkpoint.",
            MastlensWarning,
            stacklevel=2,
        )
