"""The coupling spectrum: the gradient in the coordinates of the increment's own singular directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.analysis.coupling.alignment import Chance, judged
from mastlens.analysis.increments.spectra import estimate_participation, matrix_participation, participation_ratio


def coupling_by_direction(
    delta: Float[Tensor, "rows cols"],
    gradients: Mapping[str, Float[Tensor, "rows cols"]],
    *,
    directions: int = 64,
    told: bool = True,
    name: str = "",
) -> list[dict[str, Any]]:
    """Take <G, D> apart by the singular directions of the increment D = sum_i s_i u_i v_i'.

    Each piece of the increment has norm ``singular_value`` and points along the unit matrix u_i v_i'. The
    gradient's part along it is ``coefficient`` = u_i' G v_i, and ``contribution`` = s_i u_i' G v_i: the contributions
    of a side sum to <G, D>, the ``cosine_part``s to the cosine. Beyond the first ``directions`` all others together
    are one last piece, with its norm (root of the sum of squares) as ``singular_value``, ``coefficient`` =
    contribution / norm, and in ``directions`` how many they are.

    Along directions that know nothing of the gradient coefficients have mean 0. With the gradient's own singular
    values, and directions turned at random, their standard deviation is ``coefficient_null``, of which ``z`` is the
    multiple; with the signs of the directions' entries redrawn it is the one behind ``z_stored``. ``p`` is two-sided,
    the larger of both, and ``judged_by`` says whose it is: see ``alignment`` for the laws, whose tails are heavy where
    the gradient has few directions. ``left_energy`` = |u_i' G|^2 / |G|^2 and ``right_energy`` = |G v_i|^2 / |G|^2 say
    how much of the gradient reads or writes there at all, along whatever partner; chance gives directions / rows and
    / cols.

    Pieces of a norm that float64 cannot tell from zero have no direction: everything but their contribution is NaN.

    Args:
        delta: The increment; float64 is used whatever is given.
        gradients: Side to gradient.
        directions: How many singular directions stand alone, largest first.
        told: Whether anything can be told of the increment; where not, p is NaN.
        name: Of the tensor: decides the rows that a participation is estimated from.

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
            parts = contributions / (norm * whole) if norm * whole else np.zeros(len(sizes))
        chances = _chances(gradient, left, values, right, alone, f"{side}/{name}") if norm else []
        laws = [
            judged(value, chances[i] if known[i] else [], told=told) if norm else judged(0.0, [])
            for i, value in enumerate(coefficients.tolist())
        ]
        columns: dict[str, Any] = {
            "index": np.arange(1, len(sizes) + 1),
            "directions": counts,
            "singular_value": sizes,
            "coefficient": coefficients,
            "coefficient_null": np.full(len(sizes), null),
            **{column: np.array([law[column] for law in laws]) for column in laws[0]},
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


def _chances(
    gradient: Tensor, left: Tensor, values: Tensor, right: Tensor, alone: int, name: str
) -> list[list[Chance]]:
    """Return the laws of each piece's coefficient; the participation under redrawn signs is estimated from rows."""
    rows, cols = gradient.shape
    norm = float(torch.linalg.vector_norm(gradient))
    unit, share = gradient / norm, matrix_participation(gradient)
    energies = (unit.square() @ right[:alone].T.square()) * left[:, :alone].square()
    single = unit.float()
    found = []
    for i in range(alone):
        products = single * left[:, i, None].float() * right[i].float()
        participation = estimate_participation(products, energies[:, i], name=f"{name}/{i}")
        found.append((share, float(energies[:, i].sum()) ** 0.5, participation))
    if alone < len(values):
        rest = (left[:, alone:] * values[alone:]) @ right[alone:]
        products = unit * rest / torch.linalg.vector_norm(rest).clamp_min(torch.finfo(rest.dtype).tiny)
        size = float(torch.linalg.vector_norm(products))
        found.append((share * participation_ratio(values[alone:]), size, matrix_participation(products)))
    flat = norm / (rows * cols) ** 0.5
    return [[Chance(flat, p, "rotated"), Chance(norm * size, q, "signs")] for p, size, q in found]


def _pieces(values: Float[Tensor, " all"], alone: int) -> Float[Tensor, " pieces"]:
    """Return the first values, and the sum of the others where there are any."""
    if alone == len(values):
        return values
    return torch.cat([values[:alone], values[alone:].sum()[None]])
