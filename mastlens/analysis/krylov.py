"""Top singular subspaces by block Krylov iteration in mixed precision, with a bound on their error.

Single precision finds the subspace to about 1e-5 at a third of the cost of double precision; a few steps in double
precision, started from there, take it to the tolerance. What counts is the check afterwards: residuals in float64
and the gaps around them bound the angle to the true subspace, however the iteration came there.

Block Krylov: Musco and Musco, arXiv:1504.05477. The bound: ``residual_bound``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_OVERSAMPLE = 8  # columns beyond k: what converges slowest is then beyond the subspace, and the gap at k is seen
_SINGLE_STEPS = 8
_SINGLE_STEPS_AT_MOST = 24
_SINGLE_REACH = 1e-3  # below this, more single precision is lost in its own rounding
_DOUBLE_STEPS = (2, 4, 5, 6, 8, 12, 16)  # where the space in double precision is looked at
_COPY_BYTES = 32 << 20  # a float64 copy of the matrix is kept below this, and made block by block above it
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class RitzPairs:
    """Approximate leading singular triples, vectors as rows, singular values descending.

    Attributes:
        left: Orthonormal rows.
        right: Orthonormal rows; ``left @ weight`` is ``values`` times these.
        values: Singular values of these rows.
        beyond: The approximate singular value that follows.
        error: Bound on the sine of the largest angle between the leading k and the true subspace, left and right.
        residual: Norm of ``right W' - values * left`` over the leading k.
    """

    left: Float[Tensor, "block rows"]
    right: Float[Tensor, "block cols"]
    values: Float[Tensor, " block"]
    beyond: float
    error: float
    residual: float


def leading_singular_value(weight: Float[Tensor, "rows cols"], *, tolerance: float = 1e-9, seed: int = 0) -> float:
    """Return the largest singular value to the relative ``tolerance``, by the full spectrum where iterating fails.

    A Ritz value is wrong by less than r^2 / d, with r its residual and d its distance to what lies beyond the block,
    so that it is known long before its vector is.
    """
    flat = weight if weight.shape[0] <= weight.shape[1] else weight.T
    rows = flat.shape[0]
    block = min(1 + _OVERSAMPLE, rows)
    if _SINGLE_STEPS_AT_MOST * block <= rows:
        start = torch.randn(block, rows, generator=torch.Generator().manual_seed(seed)).to(flat.device)
        single = _Space(_Operator(lambda x: x @ flat, lambda y: y @ flat.T), start)
        double = _Space(_double_precision(flat), single.grow(_SINGLE_STEPS_AT_MOST // 2).pairs(1).left.double())
        for steps in _DOUBLE_STEPS:
            pairs = double.grow(steps - double.steps).pairs(1)
            value = float(pairs.values[0])
            if min(pairs.residual, pairs.residual**2 / max(value - pairs.beyond, 1e-300)) <= tolerance * value:
                return value
    return float(torch.linalg.matrix_norm(weight.double(), 2))


def block_krylov(weight: Float[Tensor, "rows cols"], rank: int, seed: int) -> Iterator[RitzPairs]:
    """Yield ever better approximations of the leading ``rank`` (and some more) singular triples.

    Args:
        weight: The matrix, float32.
        rank: k.
        seed: Of the random start.
    """
    rows = weight.shape[0]
    block = min(rank + max(_OVERSAMPLE, rank // 2), rows)
    start = torch.randn(block, rows, generator=torch.Generator().manual_seed(seed)).to(weight.device)
    single = _Space(_Operator(lambda x: x @ weight, lambda y: y @ weight.T), start)
    steps = min(_SINGLE_STEPS, rows // block)
    pairs = single.grow(steps).pairs(rank)
    while pairs.error > _SINGLE_REACH and single.steps + steps <= min(_SINGLE_STEPS_AT_MOST, rows // block):
        pairs = single.grow(steps).pairs(rank)
    double = _Space(_double_precision(weight), pairs.left.double())
    for steps in _DOUBLE_STEPS:
        if steps * block <= rows:
            yield double.grow(steps - double.steps).pairs(rank)


@dataclass(frozen=True)
class _Operator:
    """The matrix as a linear map on rows: ``x -> x W`` and ``y -> y W'``."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


def _double_precision(weight: Tensor) -> _Operator:
    if weight.numel() * 8 <= _COPY_BYTES:
        wide = weight.double()
        return _Operator(lambda x: x @ wide, lambda y: y @ wide.T)
    height = max(1, _BLOCK_BYTES // (8 * weight.shape[1]))
    parts = range(0, weight.shape[0], height)

    def forward(x: Tensor) -> Tensor:
        total = x.new_zeros(x.shape[0], weight.shape[1])
        for i in parts:
            total.addmm_(x[:, i : i + height], weight[i : i + height].double())
        return total

    def adjoint(y: Tensor) -> Tensor:
        return torch.cat([y @ weight[i : i + height].double().T for i in parts], dim=1)

    return _Operator(forward, adjoint)


class _Space:
    """The Krylov space of a block of rows: grown step by step, its Rayleigh-Ritz pairs taken when they are wanted."""

    def __init__(self, operator: _Operator, start: Tensor):
        self.operator = operator
        self.block = start.shape[0]
        self.steps = 0
        self._next = start
        self._basis: list[Tensor] = []
        self._images: list[Tensor] = []

    def grow(self, steps: int) -> "_Space":
        for _ in range(steps):
            if self._images:
                self._next = self.operator.adjoint(self._images[-1])
            self._basis.append(_orthonormal(self._next, self._basis))
            self._images.append(self.operator.forward(self._basis[-1]))
            self.steps += 1
        return self

    def pairs(self, rank: int) -> RitzPairs:
        basis, images = torch.cat(self._basis), torch.cat(self._images)
        squares, vectors = torch.linalg.eigh(images @ images.T)
        leading = vectors.flip(1)[:, : self.block].T
        values = squares.flip(0).clamp_min(0).sqrt()
        tiny = torch.finfo(values.dtype).tiny
        left, right = leading @ basis, (leading @ images) / values[: self.block, None].clamp_min(tiny)
        beyond = float(values[self.block]) if self.steps > 1 else 0.0
        residual = self.operator.adjoint(right) - values[: self.block, None] * left
        norm = float(torch.linalg.matrix_norm(residual[:rank], 2))
        error = residual_bound(residual, values[: self.block], beyond, rank)
        return RitzPairs(left, right, values[: self.block], beyond, error, norm)


def _orthonormal(fresh: Tensor, basis: list[Tensor]) -> Tensor:
    """Return orthonormal rows that span ``fresh`` without what ``basis`` spans; projected twice, which is enough."""
    if basis:
        before = torch.cat(basis)
        fresh = fresh - (fresh @ before.T) @ before
        fresh = fresh - (fresh @ before.T) @ before
    return torch.linalg.qr(fresh.T)[0].T.contiguous()


def residual_bound(
    residual: Float[Tensor, "block rows"], values: Float[Tensor, " block"], beyond: float, rank: int
) -> float:
    r"""Bound the sine of the largest angle between the leading ``rank`` Ritz vectors and the true subspace.

    Split the space into the leading k Ritz vectors, the other Ritz vectors of the block, and the complement C. The
    residual r1 of the leading ones lies in C, where no singular value exceeds ``beyond`` = c; with the residual r2
    of the others, d = s_k - c and g = s_k - s_{k+1}, the equations of the invariant subspace (Stewart and Sun,
    Matrix Perturbation Theory, V.2) give, where r2^2 < d g,

        tan <= (r1 / d) (1 + r2 / g) / (1 - r2^2 / (d g))

    and in any case Wedin's r1 / g. Both hold up to terms of second order in r1.

    Args:
        residual: ``right @ W' - values * left``, one row a Ritz vector.
        values: Ritz values of the block, descending.
        beyond: The Ritz value that follows the block; 0 where none is known.
        rank: k.
    """
    first = float(torch.linalg.matrix_norm(residual[:rank], 2))
    kept = float(values[rank - 1])
    following = float(values[rank]) if len(values) > rank else beyond
    gap = kept - following
    if not gap > 0:
        return float("inf")
    bound = first / gap
    if beyond and len(values) > rank:
        second = float(torch.linalg.matrix_norm(residual[rank:], 2))
        distance = kept - beyond
        if (coupled := second**2 / (distance * gap)) < 1:
            bound = min(bound, first / distance * (1 + second / gap) / (1 - coupled))
    return bound
