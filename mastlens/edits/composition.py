"""Edits made from edits: two in one, and one that goes further or less far."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mastlens.checkpoints.digests import fingerprint_of, tensor_digest
from mastlens.edits.edit import Edit, listed
from mastlens.errors import BadSetting, NotTogether
from mastlens.models.weights import same_bits


def scale(edit: Edit, by: float) -> Edit:
    """Return the edit before + by * (after - before); see ``Edit.scale``."""
    check_scale(by)
    after = {name: interpolated(name, edit.before[name], edit.after[name], by) for name in edit.names}
    settings = {**edit.settings, "scaled_by": [*edit.settings.get("scaled_by", []), by]}
    return Edit.of_changed(edit.before, after, edit.source, settings, edit.digests)


def check_scale(by: float) -> None:
    """Raise unless a scale is a finite number."""
    if not math.isfinite(by):
        raise BadSetting(f"The scale must be a finite number, it is {by}.")


def interpolated(name: str, before: Tensor, after: Tensor, by: float) -> Tensor:
    """Return before + by * (after - before) in ``before``'s dtype, computed in float64 and rounded once.

    At ``by`` = 1 it is ``after`` itself, and where both are equal it is ``before``, bit for bit.

    Raises:
        MastlensError: If the result is too large for the dtype.
    """
    after = after.to(before.dtype)
    if by == 1:
        return after
    a, b = before.double(), after.double()
    wanted = rounded(name, a + by * (b - a), before.dtype)
    return torch.where(a == b, before, wanted)


def rounded(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Round a tensor once to ``dtype``.

    Raises:
        MastlensError: If an entry is too large for it.
    """
    result = value.to(dtype)
    if not bool(torch.isfinite(result.double()).all()):
        raise BadSetting(f"{name} does not fit {str(dtype).removeprefix('torch.')} any more: scale it by less.")
    return result


def compose(first: Edit, following: Edit) -> Edit:
    """Return the edit of ``first``'s source that does what ``first`` and then ``following`` do.

    Args:
        first: The earlier edit.
        following: An edit of the checkpoint that ``first`` gives, or of the same source on other tensors.

    Raises:
        MastlensError: If they do not fit, with the tensors where they do not, or undo each other.
    """
    shared = [name for name in following.names if name in first.after]
    if following.source != first.source:
        digests = _check_follows(first, following, shared)
    elif shared:
        raise NotTogether(
            f"Both edits were made for the checkpoint with fingerprint {first.source[:12]}, and both change "
            f"{len(shared)} tensors: {listed(shared)}. Make the second on what the first gives, or on other tensors."
        )
    else:
        digests = first.digests or following.digests
    return Edit.of_changed(
        {**following.before, **first.before},
        {**first.after, **following.after},
        first.source,
        {"kind": "composed", "edits": [dict(first.settings), dict(following.settings)]},
        digests,
    )


def _check_follows(first: Edit, following: Edit, shared: list[str]) -> Mapping[str, str]:
    """Raise unless ``following`` was made on what ``first`` gives; return the digests of ``first``'s source."""
    says = "The second edit was not made on what the first one gives"
    differing = [name for name in shared if not same_bits(following.before[name], first.after[name])]
    if differing:
        raise NotTogether(
            f"{says}: of {len(shared)} tensors that both change, {len(differing)} are not what the second expects: "
            f"{listed(differing)}. Name the edit that was made first first."
        )
    source = first.digests or _replaced(following.digests, first.before)
    if not source:
        if not shared:
            raise NotTogether(
                "The edits belong to two checkpoints, and nothing says that the second is what the first one gives: "
                "neither keeps digests of its source, and they share no tensor "
                f"({listed(first.names)}; {listed(following.names)})."
            )
        return {}  # what the second alone changes is compared with the checkpoint when the edit is applied
    given = _replaced(source, first.after)
    if fingerprint_of(source) != first.source or fingerprint_of(given) != following.source:
        expected = following.digests or {name: tensor_digest(t) for name, t in following.before.items()}
        others = sorted(name for name, line in expected.items() if given.get(name) != line)
        raise NotTogether(
            f"{says} ({fingerprint_of(given)[:12]}), but on the checkpoint with fingerprint {following.source[:12]}. "
            + (f"They differ in {len(others)} tensors: {listed(others)}." if others else "")
        )
    return source


def _replaced(digests: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the digests of a checkpoint with other tensors in it; none where none are known."""
    return {**digests, **{name: tensor_digest(tensor) for name, tensor in tensors.items()}} if digests else {}
