"""Top singular subspaces by block Krylov iteration in mixed precision, with a bound on their error.

Single precision finds the subspace to about 1e-5 at a third of the cost of double precision. One multiplication there
and back in double precision takes it some times closer and gives the residual; more of them follow only where that is
not enough. What counts is this check: residuals and the gaps around them bound the angle to the true subspace, however
the iteration came there.

Block Krylov: Musco and Musco, arXiv:1504.05477. The bound: ``residual_bound``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.analysis.singular_values import gram_matrix, leading_eigenpairs

_OVERSAMPLE = 8  # columns beyond k: what converges slowest is then beyond the subspace, and the gap at k is seen
_SINGLE_STEPS = 8
_SINGLE_STEPS_AT_MOST = 24
_SINGLE_REACH = 1e-3  # below this, more single precision is lost in its own rounding
_DOUBLE_STEPS = (1, 2, 4, 5, 6, 8, 12, 16)  # where the space in double precision is looked at
_BLOCK_BYTES = 3 << 20  # of rows in double precision at a time: what stays in the cache


@dataclass(frozen=True)
class RitzPairs:
    """Approximate leading singular triples, vectors as rows, singular values descending.

    Attributes:
        left: Orthonormal rows: ``right @ weight.T`` is ``values`` times these.
        right: Orthonormal rows.
        values: Singular values of these rows.
        beyond: The approximate singular value that follows.
        error: Bound on the sine of the largest angle between the leading k and the true subspace, left and right.
        residual: Norm of ``right W'W - values^2 * right`` over the leading k.
    """

    left: Float[Tensor, "block rows"]
    right: Float[Tensor, "block cols"]
    values: Float[Tensor, " block"]
    beyond: float
    error: float
    residual: float


def leading_singular_value(weight: Float[Tensor, "rows cols"], *, tolerance: float = 1e-9, seed: int = 0) -> float:
    """Return the largest singular value to the relative ``tolerance``, by the full spectrum where iterating fails.

    The square of a Ritz value is wrong by less than r^2 / d, with r its residual and d its distance to the square of
    what lies beyond the block, so that it is known long before its vector is.
    """
    flat = weight if weight.shape[0] <= weight.shape[1] else weight.T
    block = min(1 + _OVERSAMPLE, flat.shape[0])
    if _SINGLE_STEPS_AT_MOST * block <= flat.shape[0]:
        single = _started(flat, block, _SINGLE_STEPS_AT_MOST // 2, seed).grow(_SINGLE_STEPS_AT_MOST // 2)
        double, beyond = _refined(flat, single)
        for steps in _DOUBLE_STEPS:
            pairs = _checked(double.grow(steps - double.steps), single.operator, beyond, 1)
            square = float(pairs.values[0]) ** 2
            wrong = min(pairs.residual, pairs.residual**2 / max(square - pairs.beyond**2, 1e-300))
            if wrong <= 2 * tolerance * square:
                return float(pairs.values[0])
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
    steps, most = (min(limit, rows // block) for limit in (_SINGLE_STEPS, _SINGLE_STEPS_AT_MOST))
    single = _started(weight, block, most, seed)
    while True:
        double, beyond = _refined(weight, single.grow(steps))
        pairs = _checked(double.grow(1), single.operator, beyond, rank)
        if pairs.error <= _SINGLE_REACH or single.steps + steps > most:
            break
    yield pairs
    for steps in _DOUBLE_STEPS[1:]:
        if steps * block <= rows:
            yield _checked(double.grow(steps - double.steps), single.operator, beyond, rank)


@dataclass(frozen=True)
class _Operator:
    """The matrix as a linear map on rows: ``x -> x W`` and ``y -> y W'``."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


class _Space:
    """The Krylov space of a block of rows, grown step by step, up to ``most``."""

    def __init__(self, operator: _Operator, start: Tensor, cols: int, most: int):
        self.operator = operator
        self.block = start.shape[0]
        self.steps = 0
        self.following: Tensor | None = start  # spans the next block, together with the basis; made when there is none
        self._basis = start.new_empty(most * self.block, start.shape[1])
        self._images = start.new_empty(most * self.block, cols)

    @property
    def basis(self) -> Tensor:
        """Orthonormal rows."""
        return self._basis[: self.steps * self.block]

    @property
    def images(self) -> Tensor:
        """The basis times the matrix."""
        return self._images[: self.steps * self.block]

    def grow(self, steps: int) -> "_Space":
        for _ in range(steps):
            fresh = self.operator.adjoint(self.images[-self.block :]) if self.following is None else self.following
            new = slice(self.steps * self.block, (self.steps + 1) * self.block)
            self._basis[new] = _orthonormal(fresh, self.basis)
            self._images[new] = self.operator.forward(self._basis[new])
            self.steps, self.following = self.steps + 1, None
        return self

    def ritz(self) -> tuple[Tensor, Tensor, float]:
        """Return the leading Ritz vectors' coordinates in the basis, a row each, their values, and the value beyond."""
        squares, vectors = leading_eigenpairs(gram_matrix(self.images), min(self.block + 1, len(self.images)))
        values = squares.clamp_min(0).sqrt()
        beyond = float(values[self.block]) if self.steps > 1 else 0.0
        return vectors[:, : self.block].T, values[: self.block], beyond


def _started(weight: Tensor, block: int, most: int, seed: int) -> _Space:
    """Return the space of a random block, to be grown in single precision."""
    start = torch.randn(block, weight.shape[0], generator=torch.Generator().manual_seed(seed)).to(weight.device)
    return _Space(_Operator(lambda x: x @ weight, lambda y: y @ weight.T), start, weight.shape[1], most)


def _refined(weight: Tensor, single: _Space) -> tuple[_Space, float]:
    """Return the space, to be grown in double precision, of the leading Ritz vectors, and the Ritz value beyond."""
    leading, _, beyond = single.ritz()
    start = (leading @ single.basis).double()
    most = min(_DOUBLE_STEPS[-1], len(weight) // len(start))
    return _Space(_double_precision(weight), start, weight.shape[1], most), beyond


def _double_precision(weight: Tensor) -> _Operator:
    height = min(len(weight), max(1, _BLOCK_BYTES // (8 * weight.shape[1])))
    buffer = weight.new_empty(height, weight.shape[1], dtype=torch.float64)

    def parts() -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(weight), height):
            rows = slice(start, min(start + height, len(weight)))
            yield rows, buffer[: rows.stop - start].copy_(weight[rows])

    def forward(x: Tensor) -> Tensor:
        total = x.new_zeros(x.shape[0], weight.shape[1])
        for rows, part in parts():
            total.addmm_(x[:, rows], part)
        return total

    def adjoint(y: Tensor) -> Tensor:
        total = y.new_empty(y.shape[0], len(weight))
        for rows, part in parts():
            total[:, rows] = y @ part.T
        return total

    return _Operator(forward, adjoint)


def _orthonormal(fresh: Tensor, basis: Tensor) -> Tensor:
    """Return orthonormal rows that span ``fresh`` without what ``basis`` spans; projected twice, which is enough."""
    if len(basis):
        for _ in range(2):
            fresh = torch.addmm(fresh, fresh @ basis.T, basis, alpha=-1)
    return torch.linalg.qr(fresh.T)[0].T


def _checked(space: _Space, rough: _Operator, beyond: float, rank: int) -> RitzPairs:
    """Return the leading pairs of a space in double precision, taken half a step further, and a bound on their error.

    The images v of the Ritz vectors u lie closer to the true space than these do, and what the residual of u needs,
    v W' = s u + r, lies closer still. Of v under W'W, the residual is r W: a bound takes single precision of it.

    Args:
        space: In double precision.
        rough: The matrix in single precision.
        beyond: The singular value that follows the block, where the space itself is too small to say.
        rank: k.
    """
    leading, values, following = space.ritz()
    tiny = torch.finfo(values.dtype).tiny
    right = (leading @ space.images) / values[:, None].clamp_min(tiny)
    space.following = ahead = space.operator.adjoint(right)
    residual = ahead - values[:, None] * (leading @ space.basis)
    scale = residual.abs().max().clamp_min(tiny)
    residual = rough.forward((residual / scale).float()).double() * scale
    residual -= (residual @ right.T) @ right
    squares, turn = torch.linalg.eigh(ahead @ ahead.T)  # inside the block the images have Ritz pairs of their own
    squares, turn = squares.flip(0).clamp_min(0), turn.flip(1).T
    values, residual, beyond = squares.sqrt(), turn @ residual, max(beyond, following)
    left = (turn @ ahead) / values[:, None].clamp_min(tiny)
    error = residual_bound(residual, squares, beyond**2, rank)
    return RitzPairs(left, turn @ right, values, beyond, error, _largest(residual[:rank]))


def residual_bound(
    residual: Float[Tensor, "block n"], values: Float[Tensor, " block"], beyond: float, rank: int
) -> float:
    r"""Bound the sine of the largest angle between the leading ``rank`` Ritz vectors and the true subspace.

    For a symmetric matrix without negative eigenvalues. Split the space into the leading k Ritz vectors, the other Ritz
    vectors of the block, and the complement C. The residual r1 of the leading ones lies in C, where no eigenvalue
    exceeds ``beyond`` = c; with the residual r2 of the others, d = s_k - c and g = s_k - s_{k+1}, the equations of the
    invariant subspace (Stewart and Sun, Matrix Perturbation Theory, V.2) give, where r2^2 < d g,

        tan <= (r1 / d) (1 + r2 / g) / (1 - r2^2 / (d g))

    and in any case r1 / g (Davis and Kahan). Both hold up to terms of second order in r1.

    Args:
        residual: ``vectors @ matrix - values * vectors``, one row a Ritz vector.
        values: Ritz values of the block, descending.
        beyond: The Ritz value that follows the block; 0 where none is known.
        rank: k.
    """
    first = _largest(residual[:rank])
    kept = float(values[rank - 1])
    following = float(values[rank]) if len(values) > rank else beyond
    gap = kept - following
    if not gap > 0:
        return float("inf")
    bound = first / gap
    if beyond and len(values) > rank:
        second = _largest(residual[rank:])
        distance = kept - beyond
        if (coupled := second**2 / (distance * gap)) < 1:
            bound = min(bound, first / distance * (1 + second / gap) / (1 - coupled))
    return bound


def _largest(rows: Tensor) -> float:
    """Return the largest singular value of a few long rows."""
    return float(torch.linalg.matrix_norm(rows @ rows.T, 2)) ** 0.5
