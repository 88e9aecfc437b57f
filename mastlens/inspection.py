"""A look at a checkpoint: architecture, dtypes, and every attention projection with its shape."""

import os
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mastlens.lineage import Checkpoint


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint holds.

    Attributes:
        table: One row a projection: ``layer``, ``projection``, ``name``, ``rows``, ``cols``, ``heads``,
            ``head_dim``, ``dtype``, ``bias``.
        summary: ``architecture``, ``dtypes``, ``layers``, ``parameters``, ``heads``, ``groups``, ``head_dim``,
            ``fused``, ``tied``, ``biases``, ``fingerprint``.
    """

    table: pd.DataFrame
    summary: dict[str, Any]


def inspect(path: "str | os.PathLike[str] | Checkpoint") -> Inspection:
    """Look at a checkpoint without loading the model.

    Args:
        path: A folder, a hub id with an optional ``@revision``, or ``organism:NAME/STAGE``.
    """
    checkpoint = Checkpoint(path)
    projections = checkpoint.projections
    rows = [
        {
            "layer": p.layer,
            "projection": p.projection,
            "name": p.name,
            "rows": p.rows,
            "cols": p.cols,
            "heads": p.heads,
            "head_dim": p.head_dim,
            "dtype": str(checkpoint.tensors[p.name].dtype).removeprefix("torch."),
            "bias": p.name.removesuffix("weight") + "bias" in checkpoint.tensors,
        }
        for p in projections
    ]
    table = pd.DataFrame(rows)
    counts = {stored.name: _numel(stored.shape) for stored in checkpoint.tensors.values()}
    summary = {
        "path": checkpoint.spec,
        "architecture": checkpoint.model_type,
        "dtypes": list(checkpoint.dtypes),
        "layers": len({p.layer for p in projections}),
        "parameters": sum(counts.values()),
        "attention_parameters": sum(p.numel for p in projections),
        "heads": projections[0].heads,
        "groups": projections[1].heads,
        "head_dim": projections[0].head_dim,
        "fused": False,
        "tied": bool(checkpoint.config.get("tie_word_embeddings")) and "lm_head.weight" not in counts,
        "biases": sorted(set(table.loc[table["bias"], "projection"]), key="qkvo".index),
        "fingerprint": checkpoint.fingerprint,
    }
    return Inspection(table, summary)


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
