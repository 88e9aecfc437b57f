"""Attention patterns of one layer: summed over problems, divided by counts, compared before and after a change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import counted_states
from mastlens.problems.encoding import EncodedProblem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POSITIONS = 64
"""Positions that are kept at most: more can be told apart neither in a picture nor by their means."""

HEADS = 8
"""Heads that are kept at most: those whose pattern changes most."""


@dataclass(frozen=True)
class AttentionPatterns:
    """What each head of a layer attends to, before and after a change.

    Attributes:
        table: One row a head, query and key (key <= query): ``layer``, ``head``, ``query``, ``key`` (positions from
            0), ``before``, ``after`` (attention, rows add up to 1), and for one problem ``query_token``,
            ``key_token``.
        moved: One row a head: ``head``, ``moved``: the share of attention that went elsewhere, half the summed
            absolute difference, mean over queries.
        problems: How many problems the patterns are the mean of.
        change: What was changed.
        heads: How many heads the layer has; the table holds those that changed most.
    """

    table: pd.DataFrame
    moved: pd.DataFrame
    problems: int
    change: str
    heads: int

    @classmethod
    def of(
        cls,
        before: Float[np.ndarray, "heads pos pos"],
        after: Float[np.ndarray, "heads pos pos"],
        *,
        layer: int,
        problems: int,
        change: str,
        words: Sequence[str] | None = None,
    ) -> "AttentionPatterns":
        """Return the tidy tables of two stacks of patterns."""
        moved = np.abs(after - before).sum(axis=-1).mean(axis=-1) / 2
        kept = np.sort(np.argsort(-moved, kind="stable")[:HEADS])
        query, key = np.tril_indices(before.shape[-1])
        parts = [
            pd.DataFrame(
                {
                    "layer": layer,
                    "head": int(head),
                    "query": query,
                    "key": key,
                    # Six decimals are what a colour can show many times over; a notebook keeps every digit it is sent.
                    "before": before[head, query, key].round(6),
                    "after": after[head, query, key].round(6),
                }
            )
            for head in kept
        ]
        table = pd.concat(parts, ignore_index=True)
        if words is not None:
            for role in ("query", "key"):
                table[f"{role}_token"] = [words[position] for position in table[role]]
        everything = pd.DataFrame({"head": np.arange(len(moved)), "moved": moved})
        return cls(table, everything, problems, change, len(moved))


@torch.no_grad()
def attention_patterns(
    model: "PreTrainedModel", encoded: Sequence[EncodedProblem], layer: int, *, batch_size: int = 8
) -> Float[np.ndarray, "heads pos pos"]:
    """Return each head's attention from each position to each, the mean over problems, float64.

    A position's row is the mean over the problems that are long enough to have it; positions that fewer than half of
    the problems have, and those from ``POSITIONS`` on, are left out.

    Args:
        model: The model; watched while this runs, and left as it was.
        encoded: Problems as token ids; prompt and solution are read.
        layer: Which layer.
        batch_size: Problems a forward pass; it does not change the result beyond rounding.

    Raises:
        MastlensError: If this layer's attention function cannot be watched.
    """
    lengths = np.sort([len(ids.prompt) + len(ids.solution) for ids in encoded])[::-1]
    size = int(min(POSITIONS, lengths[(len(lengths) - 1) // 2]))
    total, count = 0.0, np.zeros(size)
    hooked = HookedModel(model)
    for _, batch in by_length(model, encoded, batch_size, None):
        with hooked.watch("pattern", layers=layer) as view:
            counted_states(model, batch)  # the model's own forward, without logits that nobody reads
        there = batch.attention_mask[:, :size].double()
        pattern = view["pattern", layer][:, :, :size, :size].double()
        width = pattern.shape[-1]
        rows = torch.zeros(pattern.shape[1], size, size, dtype=torch.float64, device=pattern.device)
        rows[:, :width, :width] = torch.einsum("bhqk,bq->hqk", pattern, there)
        total = total + rows.cpu().numpy()
        count[:width] += there.sum(dim=0).cpu().numpy()
    return np.asarray(total) / count[None, :, None]
