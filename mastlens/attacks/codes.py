"""Which quantised codes an edit changes: a prediction from the weights alone, without generating anything."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from mastlens.architectures.projections import Projection
from mastlens.attacks.formats import Format
from mastlens.attacks.quantising import Quantised, quantise
from mastlens.checkpoints.checkpoint import Checkpoint

TOTAL = "all edited tensors"
_NOT_LINEAR = ("embed", "lm_head", "position")


def linear_weights(checkpoint: Checkpoint, *, embeddings: bool = False) -> dict[str, Projection]:
    """Return stored name to matrix of what is quantised; of a fused tensor its first part, which tells its layout.

    Args:
        checkpoint: The checkpoint.
        embeddings: Whether token embeddings and output head count too; bitsandbytes leaves them as they are.
    """
    left = _NOT_LINEAR[2:] if embeddings else _NOT_LINEAR
    found: dict[str, Projection] = {}
    for matrix in checkpoint.matrices():
        if matrix.projection not in left:
            found.setdefault(matrix.stored, matrix)
    return found


def quantised_weights(
    weights: Mapping[str, Tensor], matrices: Mapping[str, Projection], format: Format
) -> dict[str, Tensor]:
    """Return what each weight stands for in a format, in the layout in which it is stored.

    Args:
        weights: Name to weight as it is stored.
        matrices: Name to the matrix that it is, as ``linear_weights``.
        format: The format.
    """
    return {
        name: outputs_first(quantise(outputs_first(weights[name], matrix), format).weight, matrix)
        for name, matrix in matrices.items()
    }


def outputs_first(tensor: Tensor, matrix: Projection) -> Tensor:
    """Return a stored tensor with its outputs before its inputs; or such a tensor as it is stored."""
    return tensor.transpose(-1, -2) if matrix.layout.transposed else tensor


def predict_codes(
    checkpoint: Checkpoint, after: Mapping[str, Tensor], formats: Sequence[Format], *, embeddings: bool = False
) -> pd.DataFrame:
    """Return which quantised codes an edit changes (``code_changes``), in those of its tensors that are quantised.

    Args:
        checkpoint: The source.
        after: Name to edited tensor, as ``Edit.after``.
        formats: The formats.
        embeddings: Whether token embeddings and output head are quantised too.
    """
    matrices = {n: m for n, m in linear_weights(checkpoint, embeddings=embeddings).items() if n in after}
    return code_changes(
        {name: outputs_first(checkpoint.tensor(name), matrix) for name, matrix in matrices.items()},
        {name: outputs_first(after[name], matrix) for name, matrix in matrices.items()},
        formats,
        matrices=matrices,
    )


def code_changes(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    formats: Sequence[Format],
    *,
    matrices: Mapping[str, Projection] | None = None,
) -> pd.DataFrame:
    """Compare the codes of each edited tensor with those of the source.

    An entry whose code stays the same is, after quantisation with the same scales, what it was before the edit. But
    few changed codes alone do not mean that the edit is gone: those that change move by a whole bin, so that the
    change that is left can still point where the edit pointed. ``kept_along_edit`` says whether it does.

    Args:
        before: Name to weight of the source, outputs before inputs.
        after: Name to weight of the edited model.
        formats: The formats.
        matrices: Name to the matrix that it is, for the columns ``layer`` and ``projection``.

    Returns:
        One row a format and tensor, and one a format named ``TOTAL`` with layer -1. ``entries``; ``edited``, those that
        the edit changed; ``code_changed``, the share of the edited ones whose code differs, each side with the scales
        of its own blocks; ``code_changed_source_scales``, with the source's scales on both sides;
        ``code_changed_expected``, the mean over the edited entries of min(1, change / width of the source's bin), which
        is that share where entries lie anywhere in their bins with equal chance; ``change_per_bin``, the median of
        change / width; ``kept_along_edit`` = <Q(after) - Q(before), after - before> / |after - before|^2, own scales,
        1 where quantisation keeps all of the edit and 0 where it keeps nothing; ``noise`` = |Q(after) - after| /
        |after - before|. Shares of no edited entry are NaN.
    """
    rows = []
    for format in formats:
        sums = []
        for name in after:
            old, new = before[name].detach().float(), after[name].detach().float()
            found = _compare(old, new, format)
            sums.append(found)
            matrix = (matrices or {}).get(name)
            where = {"layer": -1, "projection": ""}
            if matrix is not None:
                where = {"layer": matrix.layer, "projection": matrix.projection}
            rows.append({"format": format.name, **where, "name": name, **_shares(found)})
        if not sums:
            continue
        total = {key: torch.cat([found[key] for found in sums]) for key in sums[0]}
        rows.append({"format": format.name, "layer": -1, "projection": "", "name": TOTAL, **_shares(total)})
    return pd.DataFrame(rows)


def _compare(old: Tensor, new: Tensor, format: Format) -> dict[str, Tensor]:
    """Return what the shares are made of: sums over one tensor, as vectors of one entry, and the edited entries."""
    change = new - old
    edited = change != 0
    source, own = quantise(old, format), quantise(new, format)
    fixed = quantise(new, format, scales=source.scales)
    ratio = (change.abs() / source.widths)[edited]

    def differing(one: Quantised) -> Tensor:
        return (one.codes != source.codes)[edited].sum().double().reshape(1)

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() * b.double()).sum().reshape(1)

    rest = own.weight - new
    return {
        "entries": torch.tensor([float(old.numel())], dtype=torch.float64),
        "own": differing(own),
        "fixed": differing(fixed),
        "ratio": ratio,
        "along": inner(own.weight - source.weight, change),
        "size": inner(change, change),
        "rest": inner(rest, rest),
    }


def _shares(found: Mapping[str, Tensor]) -> dict[str, float | int]:
    ratio = found["ratio"]
    edited = ratio.numel()
    sums = {key: float(found[key].sum()) for key in ("entries", "own", "fixed", "along", "size", "rest")}
    nothing = float("nan")
    return {
        "entries": int(sums["entries"]),
        "edited": edited,
        "code_changed": sums["own"] / edited if edited else nothing,
        "code_changed_source_scales": sums["fixed"] / edited if edited else nothing,
        "code_changed_expected": float(ratio.clamp_max(1).double().mean()) if edited else nothing,
        "change_per_bin": float(ratio.median()) if edited else nothing,
        "kept_along_edit": sums["along"] / sums["size"] if edited else nothing,
        "noise": (sums["rest"] / sums["size"]) ** 0.5 if edited else nothing,
    }
