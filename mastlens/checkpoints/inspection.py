"""A look at a checkpoint: architecture, dtypes, and every attention projection with its shape."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.architectures.configuration import complete_config, read_size
from mastlens.architectures.projections import ORDER
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.settings import InspectSettings
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes

if TYPE_CHECKING:
    from mastlens.plots.cards.card import Card


@dataclass(frozen=True, repr=False)
class Inspection(Carded):
    """What a checkpoint holds.

    Attributes:
        table: One row a projection: ``layer``, ``projection``, ``name``, ``rows``, ``cols``, ``heads``,
            ``head_dim``, ``dtype``, ``bias``, and whether its output passes through a norm of its own (``norm``), its
            tensor holds other projections too (``fused``), and the file has it as (in, out) (``transposed``).
        summary: ``architecture``, ``dtypes``, ``coded`` (what the files hold in place of weights, to in how many
            tensors), ``layers``, ``layers_without_projections``, ``parameters``,
            ``attention_parameters``, ``heads`` (of q), ``groups`` (heads of k), ``head_dim`` (of q), ``fused``,
            ``transposed``, ``tied``, the projections with ``biases`` and with ``norms``, ``fingerprint`` (of
            the weights), ``behaviour`` (of weights, configuration, tokenizer, chat template and generation settings).
    """

    table: pd.DataFrame
    summary: dict[str, Any]

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import inspection_card

        return inspection_card(self.table, self.summary)


@takes(InspectSettings)
def inspect(settings: InspectSettings) -> Inspection:
    """Look at a checkpoint without loading the model."""
    checkpoint = Checkpoint(settings.path)
    if settings.verify:
        checkpoint.verify()
    projections = checkpoint.projections
    config = complete_config(checkpoint.config)
    table = pd.DataFrame(
        {
            "layer": p.layer,
            "projection": p.projection,
            "name": p.name,
            "rows": p.rows,
            "cols": p.cols,
            "heads": p.heads,
            "head_dim": p.head_dim,
            "dtype": str(checkpoint.tensors[p.stored].dtype).removeprefix("torch."),
            "bias": p.bias is not None,
            "norm": p.norm is not None,
            "fused": p.fused,
            "transposed": p.layout.transposed,
        }
        for p in projections
    )
    first = {p.projection: p for p in reversed(projections)}
    layers = range(read_size(config, "num_hidden_layers"))
    output = any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in checkpoint.tensors)
    summary = {
        "path": checkpoint.spec,
        "architecture": checkpoint.model_type,
        "dtypes": list(checkpoint.dtypes),
        "coded": checkpoint.coded,
        "layers": len(layers),
        "layers_without_projections": sorted(set(layers) - {p.layer for p in projections}),
        "parameters": sum(math.prod(stored.shape) for stored in checkpoint.tensors.values()),
        "attention_parameters": sum(p.numel for p in projections),
        "heads": first["q"].heads,
        "groups": first["k"].heads,
        "head_dim": first["q"].head_dim,
        "fused": any(p.fused for p in projections),
        "transposed": any(p.layout.transposed for p in projections),
        "tied": bool(getattr(config, "tie_word_embeddings", False)) and not output,
        "biases": sorted({p.projection for p in projections if p.bias}, key=ORDER.index),
        "norms": sorted({p.projection for p in projections if p.norm}, key=ORDER.index),
        "fingerprint": checkpoint.fingerprint,
        "behaviour": checkpoint.behaviour_digest,
    }
    return Inspection(table, summary)
