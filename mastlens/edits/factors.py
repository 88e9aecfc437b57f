"""An edit as a LoRA adapter: its change of each tensor as a product of two thin matrices, as far as its rank allows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from mastlens.checkpoints.adapter_settings import CONFIG
from mastlens.checkpoints.adapters import WEIGHTS, stored_transposed
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import check_place
from mastlens.checkpoints.folders import MANIFEST
from mastlens.edits.applying import opened
from mastlens.edits.settings import LoraEditSettings
from mastlens.errors import BadSetting, NotSupported
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.files import atomic_path, sha256_file, write_json, write_tensors

if TYPE_CHECKING:
    from mastlens.edits.edit import Edit
    from mastlens.plots.cards.card import Card

PREFIX = "base_model.model."
_DEPTH = 2  # dimensions of a weight matrix


@dataclass(frozen=True, repr=False)
class LoraEdit(Carded):
    """An edit that was written as a LoRA adapter.

    Attributes:
        folder: The adapter, in PEFT's format; ``BASE+FOLDER`` is the edited checkpoint.
        table: One row a tensor: ``name``, ``rows``, ``cols``, ``rank`` of the adapter, ``error`` = |D - B A| / |D| with
            D the edit's change (Frobenius), and the ``entries`` of A and B.
        settings: What made it.
    """

    folder: Path
    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.edits import lora_card

        return lora_card(self.table, str(self.folder), self.settings)


@takes(LoraEditSettings)
def lora_edit(settings: LoraEditSettings) -> LoraEdit:
    """Write an edit as a LoRA adapter, and say how far it is from the edit.

    Each tensor's change is cut at the smallest rank whose relative error is within ``error``, by its singular values;
    with ``rank`` all are cut there, whatever the error. Factors are float32; the error is measured with them as they
    are stored. What a reader merges into 16-bit weights is rounded once more.

    Raises:
        MastlensError: If the edit belongs to another checkpoint, changes what LoRA cannot (embeddings, norms, biases,
            stacked experts), or needs a rank at which the factors are no smaller than the tensor.
    """
    edit, checkpoint = opened(settings.edit), Checkpoint(settings.to)
    edit.check_source(checkpoint)
    if settings.rank is not None and settings.rank < 1:
        raise BadSetting(f"A rank (--rank) is at least 1, it is {settings.rank}.")
    if not 0 < settings.error < 1:
        raise BadSetting(f"The error (--error) is a share of the change, between 0 and 1; it is {settings.error:g}.")
    out = Path(settings.out)
    check_place(out, checkpoint.folders, overwrite=settings.overwrite)
    turned = stored_transposed(checkpoint)
    tensors: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    for name in edit.names:
        change = _change(edit, name, checkpoint)
        # PEFT takes a matrix as (out, in), however it is stored.
        left, right, error = factored(change.T if name in turned else change, settings.rank, settings.error, name)
        module = name.removesuffix(".weight")
        tensors |= {f"{PREFIX}{module}.lora_A.weight": right, f"{PREFIX}{module}.lora_B.weight": left}
        shape = dict(zip(("rows", "cols"), change.shape, strict=True))
        rows.append(
            {"name": name, **shape, "rank": len(right), "error": error, "entries": left.numel() + right.numel()}
        )
    table = pd.DataFrame(rows)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        write_tensors(temporary / WEIGHTS[0], tensors, {"edit": edit.sha256, "source": edit.source})
        write_json(temporary / CONFIG, _config(table, str(checkpoint.spec), turned=bool(turned & set(edit.names))))
        write_json(temporary / MANIFEST, {"files": {p.name: sha256_file(p) for p in sorted(temporary.iterdir())}})
    made = {"edit": edit.sha256, "source": edit.source, "to": str(checkpoint.spec)}
    return LoraEdit(out, table, made | {"rank": settings.rank, "error": settings.error})


def factored(change: Tensor, rank: int | None, error: float, name: str) -> tuple[Tensor, Tensor, float]:
    """Return B (out, rank) and A (rank, in) in float32, and |D - B A| / |D| in the Frobenius norm.

    Args:
        change: D (out, in), in float64.
        rank: Where it is cut; None for the smallest rank within ``error``.
        error: The largest relative error.
        name: What it is called in a message.

    Raises:
        MastlensError: If the rank is that of no thin matrices, or they would be no smaller than D.
    """
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    if rank is None:
        left_out = torch.cat([s.square().flip(0).cumsum(0).flip(0), s.new_zeros(1)])
        allowed = (error * torch.linalg.vector_norm(s)) ** 2
        rank = max(1, int((left_out > allowed).sum()))
    if rank * sum(change.shape) >= change.numel():
        raise NotSupported(
            f"{name} would need rank {rank} of {len(s)}, and its factors would have {rank * sum(change.shape):,} "
            f"entries where the tensor has {change.numel():,}: the edit is no smaller as LoRA. Keep it whole (edit "
            f"apply), allow a larger error (--error, now {error:g}), or cut it with --rank."
        )
    root = s[:rank].sqrt()
    left, right = (u[:, :rank] * root).float().contiguous(), (root[:, None] * v[:rank]).float().contiguous()
    apart = torch.linalg.matrix_norm(change - left.double() @ right.double())
    return left, right, float(apart / torch.linalg.matrix_norm(change))


def _change(edit: "Edit", name: str, checkpoint: Checkpoint) -> Tensor:
    """Return after - before in float64.

    Raises:
        MastlensError: If it is no weight matrix of a linear layer.
    """
    change = edit.after[name].double() - edit.before[name].double()
    ends = ("embed", "wte", "wpe", "lm_head")
    if change.ndim != _DEPTH or not name.endswith(".weight") or any(end in name for end in ends):
        raise NotSupported(
            f"{name} of {checkpoint.spec} is no weight matrix of a linear layer inside the model, which is what LoRA "
            "changes. Keep the edit whole: mastlens edit apply."
        )
    return change


def _config(table: pd.DataFrame, base: str, *, turned: bool) -> dict[str, Any]:
    """Return ``adapter_config.json`` as PEFT reads it: alpha equals the rank, so that the change is B A itself."""
    ranks = {str(row["name"]).removesuffix(".weight"): int(row["rank"]) for row in table.to_dict("records")}
    most = max(ranks.values())
    patterns = {module: rank for module, rank in ranks.items() if rank != most}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": list(ranks),
        "fan_in_fan_out": turned,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
