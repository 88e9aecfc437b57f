"""What the gradient predicts of a patch: its effect to first order, beside that of a change in a random direction."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.causal.patching import Patch, weight_rows
from mastlens.architectures.placement import Place
from mastlens.models.parts import local_part
from mastlens.models.sharding import Spread
from mastlens.runs.ranks import Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def first_order(
    patches: Sequence[Patch],
    gradients: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
) -> pd.DataFrame:
    """Return each patch's effect on the mean log-probability as the gradient predicts it, in float64.

    Args:
        patches: What is taken from the other model.
        gradients: Name of stored tensor to the gradient of the mean negative log-likelihood.
        own: Name to stored tensor of the patched model.
        other: Name to stored tensor of the other one.

    Returns:
        One row a patch: ``first_order``, ``null_sd`` (of a change of that size in a random direction), ``delta_norm``.
    """
    rows = []
    for patch in patches:
        name = patch.projection.stored
        slope, old, new = (patch.part(tensors[name].cpu()) for tensors in (gradients, own, other))
        # The increment in float32, as everywhere; sums over it in float64.
        change = (new.float() - old.float()).double()
        size, steepness = (float(torch.linalg.vector_norm(t.double())) for t in (change, slope))
        rows.append(
            {
                "first_order": -float((slope.double() * change).sum()),
                "null_sd": size * steepness / change.numel() ** 0.5,
                "delta_norm": size,
            }
        )
    return pd.DataFrame(rows)


def first_order_over_ranks(
    model: "PreTrainedModel",
    patches: Sequence[Patch],
    gradients: Mapping[str, Spread],
    own: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    ranks: Ranks,
) -> pd.DataFrame:
    """Return what ``first_order`` does: each rank with its rows, and one sum over all."""
    here = weight_rows(model, own)
    sums = np.zeros((len(patches), 4))
    for row, patch in enumerate(patches):
        name = patch.projection.stored
        part = local_part(here[name], Place(name), patch.layout)
        tensors = (gradients[name].stored, own[name], other[name])
        slope, old, new = (part.read(tensor).cpu() for tensor in tensors)
        change = (new.float() - old.float()).double()
        sums[row] = (
            (slope.double() * change).sum(),
            change.square().sum(),
            slope.double().square().sum(),
            change.numel(),
        )
    inner, size, steepness, entries = ranks.summed(sums).T
    return pd.DataFrame(
        {"first_order": -inner, "null_sd": (size * steepness / entries) ** 0.5, "delta_norm": size**0.5}
    )
