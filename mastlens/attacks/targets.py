"""The models that go through an attack: the edited one, its source, a control, a reference."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mastlens.attacks.method import AttackMethod
from mastlens.attacks.recovery import CONTROL, EDITED, REFERENCE, SOURCE
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.errors import BadSetting, NotSupported, NotTogether
from mastlens.models.weights import same_bits


@dataclass(frozen=True)
class Target:
    """A model under attack: its part in the comparison, its checkpoint, and what is put into it."""

    role: str
    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]


def open_targets(
    model: "str | os.PathLike[str] | Checkpoint",
    edit: "str | os.PathLike[str] | Edit | None",
    source: "str | os.PathLike[str] | Checkpoint | None",
    control: "str | os.PathLike[str] | Checkpoint | None",
    reference: "str | os.PathLike[str] | Checkpoint | None" = None,
) -> list[Target]:
    """Return the edited model first, then the source, the control and the reference, those that there are."""
    checkpoint = Checkpoint(model)
    targets = [Target(EDITED, checkpoint, {})]
    if edit is not None:
        if source is not None:
            raise BadSetting("Give --edit, whose source is --model, or --source with an edited --model; not both.")
        edit = Edit.load(edit) if isinstance(edit, str | os.PathLike) else edit
        edit.check_source(checkpoint)
        targets = [Target(EDITED, checkpoint, edit.after), Target(SOURCE, checkpoint, {})]
    elif source is not None:
        targets.append(Target(SOURCE, Checkpoint(source), {}))
    for role, path in ((CONTROL, control), (REFERENCE, reference)):
        if path is not None:
            targets.append(Target(role, Checkpoint(path), {}))
    return targets


def check_targets(method: AttackMethod, targets: Sequence[Target]) -> None:
    """Raise unless an attack can be run on these models; before any of them is loaded."""
    if method.needs_source and not any(one.role == SOURCE for one in targets):
        raise BadSetting(
            f"{method.name} moves weights towards the source's: give --edit, whose source is --model, or --source."
        )
    for one in targets:
        if method.gradients and one.checkpoint.dequantised:
            raise NotSupported(
                f"{method.name} takes gradients, and {one.checkpoint.spec} ({one.role}) holds quantised codes, which "
                "have none: what would be attacked is another model. Use the checkpoint before quantisation, or an "
                "attack without gradients: prompts, samples."
            )


def originals_of(targets: Sequence[Target]) -> dict[str, Tensor]:
    """Return name to the source's tensor of what the edit changes, as stored.

    Raises:
        MastlensError: If the edited model and its source differ in their tensors' names or shapes, or in no value.
    """
    edited, source = targets[0], next(one for one in targets if one.role == SOURCE)
    if edited.tensors:
        return {name: source.checkpoint.tensor(name) for name in edited.tensors}
    here, there = edited.checkpoint, source.checkpoint.named_as(edited.checkpoint)
    for name, stored in here.tensors.items():
        if name not in there.tensors or tuple(there.tensors[name].shape) != tuple(stored.shape):
            raise NotTogether(
                f"{name} of {here.spec} is not in {source.checkpoint.spec}, or has another shape there: the two have "
                "no line between them. Give --source the checkpoint that was edited."
            )
    found = {name: there.tensor(name) for name in here.tensors}
    found = {name: tensor for name, tensor in found.items() if not same_bits(tensor, here.tensor(name))}
    if not found:
        raise BadSetting(f"{here.spec} and its source are equal in every tensor: there is no way between them.")
    return found
