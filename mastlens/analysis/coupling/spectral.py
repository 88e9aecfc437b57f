"""The coupling spectrum: the gradient in the coordinates of the increment's own singular directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.analysis.coupling.alignment import cosine_p


def coupling_by_direction(
    delta: Float[Tensor, "rows cols"], gradients: Mapping[str, Float[Tensor, "rows cols"]], *, directions: int = 64
) -> list[dict[str, Any]]:
    """Take <G, D> apart by the singular directions of the increment D = sum_i s_i u_i v_i'.

    Each piece of the increment has norm ``singular_value`` and points along the unit matrix u_i v_i'. The
    gradient's part along it is ``coefficient`` = u_i' G v_i, and ``contribution`` = s_i u_i' G v_i: the contributions
    of a side sum to <G, D>, the ``cosine_part``s to the cosine. Beyond the first ``directions`` all others together
    are one last piece, with its norm (root of the sum of squares) as ``singular_value``, ``coefficient`` =
    contribution / norm, and in ``directions`` how many they are. A gradient of that norm without a preferred
    direction has coefficients of mean 0 and standard deviation ``coefficient_null``; ``z`` is the ratio, ``p``
    two-sided. ``left_energy`` = |u_i' G|^2 / |G|^2 and ``right_energy`` = |G v_i|^2 / |G|^2 say how much of the
    gradient reads or writes there at all, along whatever partner; chance gives directions / rows and / cols.

    Pieces of a norm that float64 cannot tell from zero have no direction: everything but their contribution is NaN.

    Args:
        delta: The increment; float64 is used whatever is given.
        gradients: Side to gradient.
        directions: How many singular directions stand alone, largest first.

    Returns:
        One row a side and piece.
    """
    delta = delta.double()
    rows, cols = delta.shape
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    alone = min(directions, len(values))
    floor = float(values[0]) * torch.finfo(torch.float64).eps * max(rows, cols) if len(values) else 0.0
    sizes = _pieces(values**2, alone).sqrt().numpy()
    known = sizes > floor
    counts = np.array([1] * alone + [len(values) - alone] * (alone < len(values)))
    whole = float(torch.linalg.vector_norm(delta))
    table = []
    for side, gradient in gradients.items():
        gradient = gradient.double()
        norm = float(torch.linalg.vector_norm(gradient))
        reads, writes = left.T @ gradient, gradient @ right.T
        contributions = _pieces(values * (reads * right).sum(dim=1), alone).numpy()
        energies = [_pieces(part, alone).numpy() for part in ((reads**2).sum(dim=1), (writes**2).sum(dim=0))]
        with np.errstate(divide="ignore", invalid="ignore"):
            coefficients = np.where(known, contributions / sizes, np.nan)
            shares = [np.where(known, energy / norm**2, np.nan) for energy in energies]
            null = norm / (rows * cols) ** 0.5
            z = coefficients / null
            p = cosine_p(coefficients / norm, np.full(len(sizes), rows * cols))
            parts = contributions / (norm * whole) if norm * whole else np.zeros(len(sizes))
        columns: dict[str, Any] = {
            "index": np.arange(1, len(sizes) + 1),
            "directions": counts,
            "singular_value": sizes,
            "coefficient": coefficients,
            "coefficient_null": np.full(len(sizes), null),
            "z": z,
            "p": p,
            "contribution": contributions,
            "cosine_part": parts,
            "left_energy": shares[0],
            "left_energy_null": counts / rows,
            "right_energy": shares[1],
            "right_energy_null": counts / cols,
        }
        cells = [column.tolist() for column in columns.values()]
        table += [{"side": side, **dict(zip(columns, row, strict=True))} for row in zip(*cells, strict=True)]
    return table


def _pieces(values: Float[Tensor, " all"], alone: int) -> Float[Tensor, " pieces"]:
    """Return the first values, and the sum of the others where there are any."""
    if alone == len(values):
        return values
    return torch.cat([values[:alone], values[alone:].sum()[None]])
