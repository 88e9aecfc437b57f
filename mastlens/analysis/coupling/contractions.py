"""One matrix's gradients, increment and weights, each contracted with the others to a number."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.coupling.alignment import above_chance, cosine, cosine_p, expected_cosine

SIDES = ("forget", "retain")
WAGLE_MU = 1e-6
"""What WAGLE's code takes for the curvature of the retain loss, the same for every entry."""


def contract(matrices: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return one row of numbers; the columns are described at ``couple``.

    Args:
        matrices: Equal shapes (rows, cols), float64: ``delta`` (the increment), ``weight`` (after it), ``forget`` and,
            where there is one, ``retain`` (mean gradients), and where measured ``forget_fisher`` and
            ``retain_fisher``.
    """
    delta, weight = matrices["delta"], matrices["weight"]
    row: dict[str, Any] = {
        "rows": delta.shape[0],
        "cols": delta.shape[1],
        "delta_norm": float(torch.linalg.vector_norm(delta)),
        "cosine_null": expected_cosine(delta.numel()),
    }
    for side in (side for side in SIDES if side in matrices):
        gradient = matrices[side]
        row[f"{side}_grad_norm"] = float(torch.linalg.vector_norm(gradient))
        row[f"{side}_grad_abs_mean"] = float(gradient.abs().sum()) / gradient.numel()
        row[f"{side}_inner"] = float((gradient * delta).sum())
        row[f"{side}_inner_normalised"] = row[f"{side}_inner"] / delta.numel() ** 0.5
        row[f"{side}_cosine"] = cosine(gradient, delta)
        row[f"{side}_weight_inner"] = float((gradient * weight).sum())
        if f"{side}_fisher" in matrices:
            row[f"{side}_fisher"] = float(matrices[f"{side}_fisher"].sum())
    if "retain" in matrices:
        forget, retain = matrices["forget"], matrices["retain"]
        row["forget_retain_cosine"] = cosine(forget, retain)
        row["inner_minus_retain"] = row["forget_inner"] - row["retain_inner"]
        row["cosine_minus_retain"] = abs(row["forget_cosine"]) - abs(row["retain_cosine"])
        row["forget_wagle"] = float(((weight - retain / WAGLE_MU) * forget).abs().sum())
    return row


def with_chance(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the table with what chance says of each side's cosine, next to it."""
    table = pd.DataFrame(rows)
    for side in SIDES:
        if f"{side}_cosine" not in table:
            continue
        numel = np.asarray(table["rows"] * table["cols"])
        p = cosine_p(table[f"{side}_cosine"].to_numpy(), numel)
        place = int(np.flatnonzero(table.columns == f"{side}_cosine")[0])
        table.insert(place + 1, f"{side}_cosine_p", p)
        table.insert(place + 2, f"{side}_above_chance", above_chance(p))
    return table
