"""Maps over layers and parts of what changed in the computation."""

import pandas as pd

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.honest import honest
from mastlens.plots.maps import plot_score_map
from mastlens.plots.tables import distinct, need, numbers, rows_with, where, words

_PLACE = ("split", "layer", "site", "head")
_SHORT = {"embed": "embed", "mlp_out": "MLP", "out": "rest of attention", "ln_final": "bias"}
_NULL = "○: random changes of RLVR's size give such a value (two-sided, p ≥ 0.001 for each cell)."


@honest
def plot_writers(table: pd.DataFrame, split: str | None = None, *, subtitle: str = "") -> Figure:
    """Draw the change of what each part writes to a logit difference, by layer and part.

    Args:
        table: ``inside_write.parquet``.
        split: Which split; the first by default.
        subtitle: Model, revision, dtype, seed.

    Raises:
        MastlensError: If the table has no such split, or lacks a column.
    """
    need(table, [*_PLACE, "change", "change_null", "change_distinguishable"], figure="plot_writers",
         writer="mastlens inside write")  # fmt: skip
    parts = where(table, [site != "logits" for site in words(table, "site")])
    return _map(parts, "change", split, label="change of what the part writes (logits)", subtitle=subtitle)


@honest
def plot_patches(
    table: pd.DataFrame, direction: str = "restore", split: str | None = None, *, subtitle: str = ""
) -> Figure:
    """Draw what exchanging each activation does to the solutions' log-probability, by layer and activation.

    Args:
        table: ``inside_patch.parquet``.
        direction: ``restore`` or ``insert``.
        split: Which split; the first by default.
        subtitle: Model, revision, dtype, seed.

    Raises:
        MastlensError: If the table has no such direction or split, or lacks a column.
    """
    value = "effect" if "effect" in table else "first_order"
    columns = [*_PLACE, "direction", value, f"{value}_null", f"{value}_distinguishable"]
    need(table, columns, figure="plot_patches", writer="mastlens inside patch")
    if direction not in distinct(table, "direction"):
        raise unknown("direction", direction, distinct(table, "direction"))
    label = "effect of the exchange" if value == "effect" else "effect of the exchange, to first order"
    chosen = rows_with(table, "direction", direction)
    return _map(chosen, value, split, label=f"{label} (nats per token)", subtitle=subtitle)


def _map(table: pd.DataFrame, value: str, split: str | None, *, label: str, subtitle: str) -> Figure:
    splits = distinct(table, "split")
    if split is not None and split not in splits:
        raise unknown("split", split, splits)
    chosen = rows_with(table, "split", splits[0] if split is None else split).reset_index(drop=True)
    heads = [int(head) for head in numbers(chosen, "head")]
    names = [
        f"{site}{head}" if head >= 0 else _SHORT.get(site, site)
        for site, head in zip(words(chosen, "site"), heads, strict=True)
    ]
    chosen["projection"] = names
    chosen["name"] = [f"{site} of layer {layer}" for site, layer in zip(names, words(chosen, "layer"), strict=True)]
    return plot_score_map(
        chosen, value, label=label, subtitle=subtitle, signed=True, across="part; z and a number: a head", note=_NULL
    )
