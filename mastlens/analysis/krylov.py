"""Top singular subspaces by block Krylov iteration in mixed precision, with a bound on their error.

Single precision finds the subspace to about 1e-5 at a third of the cost of double precision; a few steps in double
precision, started from there, take it to the tolerance. What counts is the check afterwards: residuals in float64
and the gaps around them bound the angle to the true subspace, however the iteration came there.

Block Krylov: Musco and Musco, arXiv:1504.05477. The bound: ``residual_bound``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_OVERSAMPLE = 8  # columns beyond k: what converges slowest is then beyond the subspace, and the gap at k is seen
_SINGLE_STEPS = 8
_SINGLE_CYCLES = 3
_SINGLE_REACH = 1e-3  # below this, more single precision is lost in its own rounding
_DOUBLE_STEPS = (4, 6, 12)  # steps of each attempt in double precision
_COPY_BYTES = 32 << 20  # a float64 copy of the matrix is kept below this, and made block by block above it


@dataclass(frozen=True)
class RitzPairs:
    """Approximate leading singular triples, vectors as rows, singular values descending.

    Attributes:
        left: Orthonormal rows.
        right: Orthonormal rows; ``left @ weight`` is ``values`` times these.
        values: Singular values of these rows.
        beyond: The approximate singular value that follows.
        error: Bound on the sine of the largest angle between the leading k and the true subspace, left and right.
    """

    left: Float[Tensor, "block rows"]
    right: Float[Tensor, "block cols"]
    values: Float[Tensor, " block"]
    beyond: float
    error: float


def leading_singular_value(weight: Float[Tensor, "rows cols"], *, tolerance: float = 1e-9, seed: int = 0) -> float:
    """Return the largest singular value to the relative ``tolerance``, by the full spectrum where iterating fails.

    A Ritz value is wrong by less than r^2 / d, with r its residual and d its distance to what lies beyond the block,
    so that it is known long before its vector is.
    """
    flat = weight if weight.shape[0] <= weight.shape[1] else weight.T
    steps, block = 12, min(1 + _OVERSAMPLE, flat.shape[0])
    if steps * block <= flat.shape[0] // 2:
        start = torch.randn(block, flat.shape[0], generator=torch.Generator().manual_seed(seed)).to(flat.device)
        single = _Operator(lambda x: x @ flat, lambda y: y @ flat.T)
        start = _cycle(single, start, 1, steps).left.double()
        double = _double_precision(flat)
        for again in _DOUBLE_STEPS:
            pairs = _cycle(double, start, 1, again)
            value, start = float(pairs.values[0]), pairs.left
            residual = float(torch.linalg.vector_norm(double.adjoint(pairs.right[:1]) - value * pairs.left[:1]))
            if min(residual, residual**2 / max(value - pairs.beyond, 1e-300)) <= tolerance * value:
                return value
    return float(torch.linalg.matrix_norm(weight.double(), 2))


def block_krylov(weight: Float[Tensor, "rows cols"], rank: int, tolerance: float, seed: int) -> RitzPairs | None:
    """Return the leading ``rank`` (and some more) singular triples, or None where ``tolerance`` was not reached.

    Args:
        weight: The matrix, float32.
        rank: k.
        tolerance: Accepted bound on the sine of the largest angle.
        seed: Of the random start.
    """
    rows = weight.shape[0]
    block = min(rank + max(_OVERSAMPLE, rank // 2), rows)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(block, rows, generator=generator).to(weight.device)

    single = _Operator(lambda x: x @ weight, lambda y: y @ weight.T)
    for _ in range(_SINGLE_CYCLES):
        pairs = _cycle(single, start, rank, min(_SINGLE_STEPS, rows // block))
        start = pairs.left
        if pairs.error < _SINGLE_REACH:
            break
    double = _double_precision(weight)
    start = start.double()
    for steps in _DOUBLE_STEPS:
        if steps * block > rows:
            break
        pairs = _cycle(double, start, rank, steps)
        if pairs.error <= tolerance:
            return pairs
        start = pairs.left
    return None


@dataclass(frozen=True)
class _Operator:
    """The matrix as a linear map on rows: ``x -> x W`` and ``y -> y W'``."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


def _double_precision(weight: Tensor) -> _Operator:
    if weight.numel() * 8 <= _COPY_BYTES:
        wide = weight.double()
        return _Operator(lambda x: x @ wide, lambda y: y @ wide.T)
    height = max(1, _COPY_BYTES // (8 * 2 * weight.shape[1]))
    parts = range(0, weight.shape[0], height)

    def forward(x: Tensor) -> Tensor:
        total = x.new_zeros(x.shape[0], weight.shape[1])
        for i in parts:
            total.addmm_(x[:, i : i + height], weight[i : i + height].double())
        return total

    def adjoint(y: Tensor) -> Tensor:
        return torch.cat([y @ weight[i : i + height].double().T for i in parts], dim=1)

    return _Operator(forward, adjoint)


def _cycle(operator: _Operator, start: Tensor, rank: int, steps: int) -> RitzPairs:
    """Span the Krylov space of ``start`` with ``steps`` blocks and return its Rayleigh-Ritz pairs with their error."""
    block, rows = start.shape
    basis = start.new_empty(block * steps, rows)
    images: Tensor | None = None
    fresh = start
    for step in range(steps):
        here = slice(step * block, (step + 1) * block)
        basis[here] = _orthonormal(fresh, basis[: here.start])
        image = operator.forward(basis[here])
        if images is None:
            images = image.new_empty(block * steps, image.shape[1])
        images[here] = image
        if step + 1 < steps:
            fresh = operator.adjoint(image)
    assert images is not None
    squares, vectors = torch.linalg.eigh(images @ images.T)
    leading = vectors.flip(1)[:, :block].T
    values = squares.flip(0).clamp_min(0).sqrt()
    tiny = torch.finfo(values.dtype).tiny
    left, right = leading @ basis, (leading @ images) / values[:block, None].clamp_min(tiny)
    beyond = float(values[block]) if steps > 1 else 0.0
    residual = operator.adjoint(right) - values[:block, None] * left
    error = residual_bound(residual, values[:block], beyond, rank)
    return RitzPairs(left, right, values[:block], beyond, error)


def _orthonormal(fresh: Tensor, basis: Tensor) -> Tensor:
    """Return orthonormal rows that span ``fresh`` without what ``basis`` spans; projected twice, which is enough."""
    if len(basis):
        fresh = fresh - (fresh @ basis.T) @ basis
        fresh = fresh - (fresh @ basis.T) @ basis
    return torch.linalg.qr(fresh.T)[0].T


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
