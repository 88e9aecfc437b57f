"""Coupling: how the forget (and retain) gradient at the RLVR weights lies to the increment RLVR - SFT."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from mastlens.files import write_table
from mastlens.likelihood import token_logprobs
from mastlens.lineage import Checkpoint, Lineage
from mastlens.problems import (
    EncodedProblem,
    batches,
    check_tokenizer,
    context_length,
    encode_problems,
    read_problems,
)
from mastlens.projections import Projection
from mastlens.runs import hash_inputs, remembered

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel

FILE = "coupling.parquet"


@dataclass(frozen=True)
class Coupling:
    """The coupling of gradients and increment.

    Attributes:
        table: One row a projection; the columns are described at ``couple``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def plot(self) -> "go.Figure":
        """Draw the cosines by layer and projection, signed, around 0."""
        from mastlens.plots import plot_coupling

        return plot_coupling(self.table)


def couple(
    *,
    sft: "str | os.PathLike[str] | Checkpoint",
    rlvr: "str | os.PathLike[str] | Checkpoint",
    forget: str | os.PathLike[str],
    retain: str | os.PathLike[str] | None = None,
    batch_size: int = 8,
    chat_template: bool = True,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Coupling:
    """Measure how the loss gradient at the RLVR weights couples to the increment, per attention projection.

    The loss is the negative log-likelihood of the solution tokens at the RLVR weights in evaluation mode, summed
    over the whole set and divided by their count; in float32. Columns: ``layer``, ``projection``, ``name``,
    ``rows``, ``cols``, ``cosine_null`` (mean |cosine| of random directions of that many entries),
    ``forget_grad_norm``, ``forget_inner`` (gradient . increment), ``forget_cosine``; with ``retain`` also
    ``retain_grad_norm``, ``retain_inner``, ``retain_cosine``, ``forget_retain_cosine``.

    Args:
        sft: The checkpoint that RLVR started from.
        rlvr: The checkpoint after RLVR.
        forget: File of the problems to forget.
        retain: File of the problems to keep.
        batch_size: Problems a backward pass; it does not change the result beyond rounding.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        device: Where to compute.
        out: Folder for ``coupling.parquet``; None to write nothing.
        overwrite: Replace a table made from other inputs.
        progress: Show progress bars.
    """
    lineage = Lineage.open(rlvr, sft=sft)
    settings = {"chat_template": chat_template}

    def compute() -> Coupling:
        model = lineage.rlvr.load_model(device=device)
        tokenizer = lineage.rlvr.load_tokenizer()
        gradients = {}
        for side, path in (("forget", forget), ("retain", retain)):
            if path is None:
                continue
            problems = read_problems(path)
            check_tokenizer(tokenizer, problems, lineage.rlvr.spec)
            encoded = encode_problems(
                problems,
                tokenizer,
                context=context_length(model.config),
                chat_template=chat_template,
                source=str(path),
            )
            gradients[side] = mean_gradients(
                model,
                encoded,
                [p.name for p in lineage.rlvr.projections],
                batch_size=batch_size,
                progress=f"{side} gradient" if progress else None,
            )
        return Coupling(_table(lineage, gradients), settings)

    return remembered(
        out,
        "couple",
        outputs=[FILE],
        lineage=lineage.fingerprints,
        inputs=hash_inputs({"forget": forget, "retain": retain}),
        settings=settings,
        device=device,
        overwrite=overwrite,
        compute=compute,
        write=lambda result, folder: write_table(folder / FILE, result.table),
        read=lambda folder: Coupling(pd.read_parquet(folder / FILE), settings),
    )


def mean_gradients(
    model: "PreTrainedModel",
    encoded: Sequence[EncodedProblem],
    names: Sequence[str],
    *,
    batch_size: int = 8,
    progress: str | None = None,
) -> dict[str, torch.Tensor]:
    """Return the gradient of the token-mean negative log-likelihood for the named parameters alone.

    Sums over the whole set are divided once by its number of solution tokens, so the batch size does not matter.
    The model's ``requires_grad`` flags and gradients are as before when it returns.

    Args:
        model: The model, in evaluation mode.
        encoded: Problems as token ids.
        names: Parameter names.
        batch_size: Problems a backward pass.
        progress: Label of a progress bar; None for none.

    Returns:
        Name to gradient, float32.
    """
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    totals = [torch.zeros_like(p, dtype=torch.float32) for p in chosen]
    tokens = 0.0
    try:
        model.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
        with tqdm(total=len(encoded), desc=progress, disable=progress is None, unit="item") as bar:
            for where, batch in batches(encoded, batch_size, device=str(model.device)):
                logprobs = token_logprobs(model, batch)
                tokens += float(logprobs.counts.sum())
                gradients = torch.autograd.grad(-logprobs.values.sum(), chosen)
                for total, gradient in zip(totals, gradients, strict=True):
                    total.add_(gradient)
                bar.update(where.stop - where.start)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    return {name: total.div_(tokens) for name, total in zip(names, totals, strict=True)}


def _table(lineage: Lineage, gradients: dict[str, dict[str, torch.Tensor]]) -> pd.DataFrame:
    before, after = lineage.increments["rlvr"]
    rows = []
    for projection in after.projections:
        delta = (after.matrix(projection).float() - before.matrix(projection).float()).double()
        rows.append(_couple_one(projection, delta, {s: g[projection.name] for s, g in gradients.items()}))
    return pd.DataFrame(rows)


def _couple_one(projection: Projection, delta: torch.Tensor, gradients: dict[str, torch.Tensor]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "layer": projection.layer,
        "projection": projection.projection,
        "name": projection.name,
        "rows": projection.rows,
        "cols": projection.cols,
        # E|cos| of two random directions in R^n; their product with a fixed one is normal with variance 1 / n.
        "cosine_null": (2 / (math.pi * projection.numel)) ** 0.5,
    }
    wide = {side: gradient.double().cpu() for side, gradient in gradients.items()}
    for side, gradient in wide.items():
        row[f"{side}_grad_norm"] = float(torch.linalg.vector_norm(gradient))
        row[f"{side}_inner"] = float((gradient * delta).sum())
        row[f"{side}_cosine"] = cosine(gradient, delta)
    if len(wide) == 2:
        row["forget_retain_cosine"] = cosine(wide["forget"], wide["retain"])
    return row


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the cosine between two tensors, taken flat, in float64; 0 where either is zero."""
    a, b = a.double(), b.double()
    norms = float(torch.linalg.vector_norm(a)) * float(torch.linalg.vector_norm(b))
    return float((a * b).sum()) / norms if norms else 0.0
