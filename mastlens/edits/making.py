"""From the model in memory to the edit: rounded once to the checkpoint's dtype."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mastlens.architectures.placement import locate_tensors
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.models.weights import named_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def tied_names(checkpoint: Checkpoint, model: "PreTrainedModel", names: Sequence[str]) -> dict[str, str]:
    """Return further stored names of the named parameters, to the name that they were given by.

    A file may hold a tied matrix twice; if only one of the two changed, the model would come back untied.
    """
    every = dict(model.named_parameters(remove_duplicate=False))
    located = locate_tensors(checkpoint.tensors, {name: tuple(parameter.shape) for name, parameter in every.items()})
    where = {name: (id(every[place.parameter]), place.expert, place.half) for name, place in located.items()}
    given = {where[name]: name for name in names if name in where}
    return {other: given[spot] for other, spot in where.items() if other not in names and spot in given}


def make_edit(
    checkpoint: Checkpoint,
    model: "PreTrainedModel",
    names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    masters: Callable[[str], Tensor | None] | None = None,
) -> tuple[Edit, float]:
    """Round the model's tensors once to the checkpoint's dtype and return the edit, with the share swallowed.

    Tensors that rounding returned to what they were are left out.

    Args:
        checkpoint: Where the model comes from.
        model: The edited model.
        names: What was edited.
        settings: Kept with the edit.
        masters: Name to stored tensor in float32, where the model holds them rounded already; one at a time. Of a model
            over ranks it is None but on rank 0, whose edit is the edit.
    """
    before, after = {}, {}
    moved = swallowed = 0
    stored = list(dict.fromkeys(name.partition("#")[0] for name in names))
    master_of = named_weights(model, stored).get if masters is None else masters
    given = dict(zip(stored, stored, strict=True)) | tied_names(checkpoint, model, stored)
    for name, source in given.items():
        tensor = master_of(source)
        if tensor is None:
            continue
        old = checkpoint.tensor(name)
        # A copy: on the CPU in float32 everything else would be the parameter itself, and move with it.
        master = tensor.detach().to("cpu", torch.float32, copy=True)
        new = master.to(old.dtype)
        in_master, in_stored = master != old.float(), new != old
        moved += int(in_master.sum())
        swallowed += int((in_master & ~in_stored).sum())
        if bool(in_stored.any()):
            before[name], after[name] = old, new
    return Edit(
        before, after, checkpoint.fingerprint, settings, checkpoint.digests
    ), swallowed / moved if moved else 0.0
