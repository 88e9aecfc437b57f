"""Top singular subspaces by restarted block Krylov iteration in mixed precision, with a bound on their error.

Each round multiplies a few vectors with the matrix there and back at full precision, which gives their residual, and
then corrects them within the Krylov space of the residual. There the products may be rough: their error is scaled by
the correction, so that bfloat16, where the processor multiplies it, loses nothing that the next round does not win.
(Inexact Krylov methods: Simoncini and Szyld 2003; Bouras and Fraysse 2005.) The first vectors come from random ones
and rough products alone, the first round is in single precision and all others are in double precision. What counts is
the check in each of them: residuals and the gaps around them bound the angle to the true subspace, however the
iteration came there.

Block Krylov: Musco and Musco, arXiv:1504.05477. The bound: ``residual_bound``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.analysis.increments.singular_values import gram_matrix, leading_eigenpairs

_OVERSAMPLE = 8  # columns beyond k: what converges slowest is then beyond the subspace, and the gap at k is seen
_START_STEPS = 6
_STEPS = 4  # a round
_ROUNDS = 16  # before giving up: together still cheaper than a full decomposition
_MARGIN = 1.01  # on a bound that takes rough products of a residual
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
    steps = 3 * _START_STEPS  # in noise the largest values lie close together
    if 2 * steps * block <= flat.shape[0]:
        for pairs in _rounds(flat, 1, block, (steps, steps), seed):
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
    room = rows // block  # a Krylov space has no more dimensions than the matrix
    yield from _rounds(weight, rank, block, (min(_START_STEPS, room), min(_STEPS, room - 1)), seed)


def _rounds(weight: Tensor, rank: int, block: int, steps: tuple[int, int], seed: int) -> Iterator[RitzPairs]:
    start = torch.randn(block, weight.shape[0], generator=torch.Generator().manual_seed(seed)).to(weight.device)
    nothing = _Block(start[:0], start.new_empty(0, weight.shape[1]), start.new_empty(0), start[:0], start)
    single, double, rough = _single_precision(weight), _double_precision(weight), _rough(weight)
    leading, beyond = _corrected(rough, nothing, steps[0])
    leading, beyond = _corrected(rough, _multiplied(single, leading), steps[1], beyond)
    for _ in range(_ROUNDS):
        found = _multiplied(double, leading.double())
        pairs = _checked(found, rough, beyond, rank)
        del rough  # makes room for what is done meanwhile
        yield pairs
        rough = _rough(weight)
        leading, beyond = _corrected(rough, found, steps[1], beyond)


@dataclass(frozen=True)
class _Operator:
    """The matrix as a linear map on rows: ``x -> x W`` and ``y -> y W'``."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Block:
    """Ritz vectors of a few rows, and what multiplying them gave.

    Attributes:
        left: u, orthonormal rows.
        right: v = u W / s.
        values: s, descending.
        ahead: v W'.
        residual: v W' - s u, orthogonal to u.
    """

    left: Tensor
    right: Tensor
    values: Tensor
    ahead: Tensor
    residual: Tensor


def _multiplied(operator: _Operator, leading: Tensor) -> _Block:
    """Return the Ritz vectors in the span of some rows, multiplied there and back."""
    basis = torch.linalg.qr(leading.T)[0].T
    images = operator.forward(basis)
    squares, turn = torch.linalg.eigh(images @ images.T)
    values, turn = squares.flip(0).clamp_min(0).sqrt(), turn.flip(1).T
    left, right = turn @ basis, (turn @ images) / _divisors(values)
    ahead = operator.adjoint(right)
    return _Block(left, right, values, ahead, ahead - values[:, None] * left)


def _corrected(rough: _Operator, found: _Block, steps: int, beyond: float = 0.0) -> tuple[Tensor, float]:
    """Return the leading Ritz vectors in the span of a block and of its residual's Krylov space, by rough products.

    What joins the block and the rest, u W W' q = s r q, is known from the residual: a rough product of u spoils it.

    Args:
        rough: The matrix.
        found: The block; an empty one, with anything as its residual, starts from that.
        steps: Blocks of the Krylov space.
        beyond: What is known of the singular value that follows the block.

    Returns:
        As many rows as the residual has, nearly orthonormal, in its dtype; the Ritz value that follows, if larger.
    """
    known, block = len(found.left), len(found.residual)
    rows, cols = found.left.shape[1], found.right.shape[1]
    basis = found.left.new_empty(known + steps * block, rows, dtype=torch.float32)
    images = found.left.new_empty(steps * block, cols, dtype=torch.float32)
    basis[:known] = found.left
    fresh = found.residual / found.residual.abs().max().clamp_min(torch.finfo(found.residual.dtype).tiny)
    fresh = fresh.float()
    for step in range(steps):
        start = step * block
        fresh = rough.adjoint(images[start - block : start]) if step else fresh
        added = _orthonormal(fresh, basis[: known + start])
        basis[known + start : known + start + block] = added
        images[start : start + block] = rough.forward(added)
    joined = found.values.new_zeros(len(basis), len(basis))
    joined[known:, known:] = gram_matrix(images)
    joined[:known, :known] = found.values.square().diag()
    joined[:known, known:] = found.values[:, None] * (found.residual[:known] @ basis[known:].T.to(found.values.dtype))
    joined[known:, :known] = joined[:known, known:].T
    squares, vectors = leading_eigenpairs(joined, min(block + 1, len(joined)))
    following = float(squares[block].clamp_min(0)) ** 0.5 if len(squares) > block else 0.0
    turn = vectors[:, :block].T
    leading = turn[:, :known] @ found.left + (turn[:, known:].float() @ basis[known:]).to(turn.dtype)
    return leading, max(beyond, following)


def _single_precision(weight: Tensor) -> _Operator:
    return _Operator(lambda x: x @ weight, lambda y: y @ weight.T)


def _rough(weight: Tensor) -> _Operator:
    """Return the matrix in bfloat16 where its products take a quarter of the time, in single precision elsewhere."""
    known = getattr(torch.cpu, "get_capabilities", dict)()  # not there before torch 2.11
    if weight.device.type != "cpu" or not known.get("avx512_bf16", False):
        return _single_precision(weight)
    short = weight.bfloat16()
    return _Operator(lambda x: (x.bfloat16() @ short).float(), lambda y: (y.bfloat16() @ short.T).float())


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


def _checked(found: _Block, rough: _Operator, beyond: float, rank: int) -> RitzPairs:
    """Return the leading pairs of a block in double precision, taken half a step further, and a bound on their error.

    The images v of the Ritz vectors u lie closer to the true space than these do, and what the residual of u needs,
    v W' = s u + r, lies closer still. Of v under W'W, the residual is r W: a bound takes rough products of it.

    Args:
        found: In double precision.
        rough: The matrix.
        beyond: The singular value that follows the block.
        rank: k.
    """
    right, ahead = found.right, found.ahead
    scale = found.residual.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    residual = rough.forward((found.residual / scale).float()).double() * scale
    residual -= (residual @ right.T) @ right
    squares, turn = torch.linalg.eigh(ahead @ ahead.T)  # inside the block the images have Ritz pairs of their own
    squares, turn = squares.flip(0).clamp_min(0), turn.flip(1).T
    values, residual = squares.sqrt(), turn @ residual
    left = (turn @ ahead) / _divisors(values)
    error = _MARGIN * residual_bound(residual, squares, beyond**2, rank)
    return RitzPairs(left, turn @ right, values, beyond, error, _MARGIN * _largest(residual[:rank]))


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
    distance = kept - beyond
    if beyond and len(values) > rank and distance > 0:  # beyond a low rank, rounding alone orders the values
        second = _largest(residual[rank:])
        if (coupled := second**2 / (distance * gap)) < 1:
            bound = min(bound, first / distance * (1 + second / gap) / (1 - coupled))
    return bound


def _divisors(values: Tensor) -> Tensor:
    """Return a column to divide by: where nothing but rounding is left, as beyond a low rank, it stays rounding."""
    return values.clamp_min(least_known(values)).clamp_min(torch.finfo(values.dtype).tiny)[:, None]


def least_known(values: Tensor) -> float:
    """Return the least singular value that the squares of these tell: below it, rounding of the largest is larger."""
    return float(values[0]) * torch.finfo(values.dtype).eps ** 0.5


def _largest(rows: Tensor) -> float:
    """Return the largest singular value of a few long rows."""
    return float(torch.linalg.matrix_norm(rows @ rows.T, 2)) ** 0.5
