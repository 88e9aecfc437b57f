"""The sign null: an increment with its own magnitudes and singular values, the signs of rows and columns redrawn.

If every row and every column of an increment D is multiplied by a random sign, each entry keeps its magnitude and its
place, and the matrix keeps its singular values; only how its signs lie to the weight's directions is chance. Rounding
to nearest is symmetric, so the turned increment is as likely to have been stored as the one that was: what storage let
through, and where, is kept exactly, in whatever type, also where the checkpoints' types differ. A random increment of
any kind that does not prefer a sign (dense, sparse, heavy-tailed, of few directions, of one head) is a draw of its own
sign null, and no scale has to be solved for.

E and F diagonal with entries +-1, U and V fixed: U'(EDF)V = (EU)'D(FV). So a draw costs one product with D, all draws
are one product, and no random matrix is ever made. The means are exact: with the squared entries d of D, p the squared
row lengths of U and q those of V, E|U'(EDF)V|^2 = p'dq, E|U'(EDF)|^2 = p'd1, E|(EDF)V|^2 = 1'dq.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.analysis.increments.nulls import Null, Reading, seeded

DRAWS = 16
"""Turned increments behind a spread: its standard error is 18 % of it, and the tail allows for that."""


@dataclass(frozen=True)
class SignNulls:
    """What redrawn signs give for the readings outside of the subspaces.

    Attributes:
        whole: Of the whole increment, those readings that were asked for.
        heads: Of each head, ``off_principal``; empty unless asked for.
        heads_shared: Of each head, ``off_principal_shared``.
    """

    whole: dict[Reading, Null]
    heads: tuple[Null, ...] = ()
    heads_shared: tuple[Null, ...] = ()


def random_signs(
    increment: Float[Tensor, "rows cols"], *, draws: int, seed: int, name: str
) -> tuple[Float[Tensor, "draws rows"], Float[Tensor, "draws cols"]]:
    """Return signs of the rows and of the columns, decided by the seed and the name."""
    shape = (draws, sum(increment.shape))
    drawn = torch.randint(0, 2, shape, generator=seeded(seed, "signs", name), dtype=torch.float32)
    rows, cols = drawn.mul_(2).sub_(1).to(increment.device).split(list(increment.shape), dim=1)
    return rows, cols


def turned_signs(
    increment: Float[Tensor, "rows cols"], *, draws: int, seed: int, name: str
) -> list[tuple[Float[Tensor, "rows 1"], Float[Tensor, " cols"]]]:
    """Return for each draw the signs of the rows, as a column, and those of the columns."""
    left, right = random_signs(increment, draws=draws, seed=seed, name=name)
    return [(a[:, None], b) for a, b in zip(left, right, strict=True)]


def entry_signs(
    increment: Float[Tensor, "rows cols"], *, draws: int, seed: int, name: str
) -> Iterator[Float[Tensor, "rows cols"]]:
    """Yield matrices of +-1: the sign of every entry on its own."""
    generator = seeded(seed, "entries", name)
    for _ in range(draws):
        yield torch.randint(0, 2, increment.shape, generator=generator).mul_(2).sub_(1).float().to(increment.device)


def sign_nulls(
    increment: Float[Tensor, "rows cols"],
    left: Float[Tensor, "rows k"],
    right: Float[Tensor, "cols k"],
    *,
    full: bool = False,
    heads: int = 0,
    side: Literal["rows", "cols"] = "rows",
    draws: int = DRAWS,
    seed: int = 0,
    name: str = "",
) -> SignNulls:
    """Return the laws of the off-principal readings under redrawn signs. 2 rows cols k draws flops, in float32.

    Args:
        increment: D, float32.
        left: U_k.
        right: V_k.
        full: Also the left, right and diagonal readings.
        heads: Also head by head, so many of them; 0 for none.
        side: Where the heads lie.
        draws: Turned increments.
        seed: Decides them, together with ``name``.
        name: Of the tensor and increment.
    """
    (rows, cols), k = increment.shape, left.shape[1]
    u, v = left.float(), right.float()
    squares = increment.square()
    energy = float(squares.sum())
    row_signs, col_signs = random_signs(increment, draws=draws, seed=seed, name=name)
    turned_u = (row_signs[:, None, :] * u.T).reshape(draws * k, rows)
    turned_v = (col_signs[:, None, :] * v.T).reshape(draws * k, cols)
    p, q = u.square().sum(1), v.square().sum(1)

    def null(mean: Tensor, drawn: Tensor, of: float | Tensor) -> list[Null]:
        """Return the laws of 1 - drawn / of; one statistic a column."""
        means = (mean.double() / of).reshape(-1)
        sds = (drawn.double().reshape(draws, -1) / of - means).square().mean(0).sqrt()
        pairs = zip(means.tolist(), sds.tolist(), strict=True)
        # Single precision cannot tell a spread of 1e-6 of the mean from none: the subspace is then everything.
        return [Null(1 - m, sd if sd > 1e-6 * m else 0.0, "beta", "signs", draws=draws) for m, sd in pairs]

    if not energy:
        return SignNulls({})
    if heads and side == "cols":  # the heads of the output projection: seen from the right, they lie on rows
        flipped = sign_nulls(increment.T, right, left, heads=heads, draws=draws, seed=seed, name=f"{name}/heads")
        whole = sign_nulls(increment, left, right, full=full, draws=draws, seed=seed, name=name).whole
        return SignNulls(whole, flipped.heads, flipped.heads_shared)
    from_right = (turned_v @ increment.T).reshape(draws, k, rows) if heads or full else None
    if from_right is None:
        from_left = (turned_u @ increment).reshape(draws, k, cols)
        core = from_left @ turned_v.reshape(draws, k, cols).mT
    else:
        from_left = (turned_u @ increment).reshape(draws, k, cols) if full else None
        core = turned_u.reshape(draws, k, rows) @ from_right.mT
    seen = squares @ q
    found: dict[Reading, Null] = {"joint": null(p @ seen, core.square().sum((1, 2)), energy)[0]}
    if from_left is not None and from_right is not None:
        diagonal = ((u.square().T @ squares) * v.square().T).sum()
        found["left"] = null(p @ squares.sum(1), from_left.square().sum((1, 2)), energy)[0]
        found["right"] = null(seen.sum(), from_right.square().sum((1, 2)), energy)[0]
        found["diagonal"] = null(diagonal, core.diagonal(dim1=1, dim2=2).square().sum(1), energy)[0]
    if not heads or from_right is None:
        return SignNulls(found)
    of = squares.sum(1).reshape(heads, -1).sum(1).double().clamp_min(torch.finfo(torch.float64).tiny)
    parts = from_right.reshape(draws, k, heads, -1)
    cores = torch.einsum("tahr,tbhr->thab", turned_u.reshape(draws, k, heads, -1), parts)
    means = (p * seen).reshape(heads, -1).sum(1), seen.reshape(heads, -1).sum(1)
    return SignNulls(
        found,
        tuple(null(means[0], cores.square().sum((2, 3)), of)),
        tuple(null(means[1], parts.square().sum((1, 3)), of)),
    )
