"""One matrix's gradients, increment and weights, each contracted with the others to a number."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.coupling.alignment import above_chance, cosine, cosine_chances, expected_cosine, judged
from mastlens.analysis.increments.precision import PrecisionFloor

SIDES = ("forget", "retain")
WAGLE_MU = 1e-6
"""What WAGLE's code takes for the curvature of the retain loss, the same for every entry."""


def contract(matrices: Mapping[str, Tensor], floor: PrecisionFloor) -> dict[str, Any]:
    """Return one row of numbers; the columns are described at ``couple``.

    Args:
        matrices: Equal shapes (rows, cols), float64: ``delta`` (the increment), ``weight`` (after it), ``forget`` and,
            where there is one, ``retain`` (mean gradients), and where measured ``forget_fisher`` and
            ``retain_fisher``.
        floor: What rounding alone makes of the increment.
    """
    delta, weight = matrices["delta"], matrices["weight"]
    norm = float(torch.linalg.vector_norm(delta))
    row: dict[str, Any] = {
        "rows": delta.shape[0],
        "cols": delta.shape[1],
        "delta_norm": norm,
        "precision_floor": floor.norm,
        "note": floor.note(norm),
        "cosine_null": expected_cosine(delta.numel()),
    }
    for side in (side for side in SIDES if side in matrices):
        gradient = matrices[side]
        row[f"{side}_grad_norm"] = float(torch.linalg.vector_norm(gradient))
        row[f"{side}_grad_abs_mean"] = float(gradient.abs().sum()) / gradient.numel()
        row[f"{side}_inner"] = float((gradient * delta).sum())
        row[f"{side}_inner_normalised"] = row[f"{side}_inner"] / delta.numel() ** 0.5
        row[f"{side}_cosine"] = cosine(gradient, delta)
        found = judged(row[f"{side}_cosine"], cosine_chances(gradient, delta), told=not row["note"])
        row |= {f"{side}_cosine_{end}": value for end, value in found.items()}
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
    """Return the table with what chance says of each side's cosines together, next to their p."""
    table = pd.DataFrame(rows)
    for side in (side for side in SIDES if f"{side}_cosine" in table):
        place = table.columns.get_loc(f"{side}_cosine_judged_by")
        assert isinstance(place, int)
        table.insert(place + 1, f"{side}_above_chance", above_chance(table[f"{side}_cosine_p"].to_numpy()))
    return table
