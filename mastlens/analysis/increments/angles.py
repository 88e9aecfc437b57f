"""How far chance would turn a principal subspace: the null of the principal angles, by redrawn signs.

To first order an increment D moves the top-k singular subspaces by the tangents

    X = U_j'(D V S + B D'U)_i / (s_i^2 - s_j^2)   (left),   Y = V_j'(D'U S + B'D V)_i / (s_i^2 - s_j^2)   (right)

with i in the subspace and j outside (Stewart and Sun, Matrix Perturbation Theory, V). Increments whose signs are
redrawn (see ``signs``) need the weight's singular vectors once, and then products alone. Where the angles are so large
that first order does not hold, the subspaces of the weight with such an increment are found anew.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.analysis.increments.nulls import Null, sampled_null
from mastlens.analysis.increments.signs import turned_signs
from mastlens.analysis.increments.subspaces import PrincipalSubspaces, principal_angles, principal_subspaces
from mastlens.analysis.increments.weight_basis import WeightBasis

DRAWS = 10
_FREEDOM = 6  # draws that the tail is given: the logs of angles have heavier tails than a normal law; calibrated
_SMALL = 0.1  # tangents up to which first order holds well enough for a null
_ROUGH = 1e-3  # sine of the error of a subspace whose angles are larger than that
SIDES = ("left", "right")


def angle_nulls(
    weight: Float[Tensor, "rows cols"],
    basis: WeightBasis,
    subspaces: PrincipalSubspaces,
    increment: Float[Tensor, "rows cols"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    name: str = "",
) -> dict[str, Null]:
    """Return what an increment with redrawn signs gives for the largest and the mean angle on each side, in degrees.

    Args:
        weight: B, before the increment.
        basis: Its singular vectors.
        subspaces: Its top-k subspaces.
        increment: D.
        draws: Number of turned increments.
        seed: Decides them, together with ``name``.
        name: Of the tensor and increment.

    Returns:
        Laws of ``angle_left_max_deg``, ``angle_left_mean_deg``, ``angle_right_max_deg``, ``angle_right_mean_deg``.
    """
    signs = turned_signs(increment, draws=draws, seed=seed, name=f"{name}/angles")
    wide = weight.float()
    drawn: list[tuple[Tensor, ...]] = []
    if len(basis.values) >= subspaces.rank:  # else the weight does not define all k directions
        drawn = [_first_order(wide, basis, rows * increment * cols, subspaces.rank) for rows, cols in signs]
    if not drawn or max(float(angles.max()) for pair in drawn for angles in pair) > _SMALL:
        drawn = []
        for rows, cols in signs:
            new = principal_subspaces(wide + rows * increment * cols, subspaces.rank, tolerance=_ROUGH, seed=seed)
            drawn.append(tuple(principal_angles(getattr(subspaces, side), getattr(new, side)) for side in SIDES))
    found: dict[str, Null] = {}
    for place, side in enumerate(SIDES):
        degrees = [torch.rad2deg(pair[place]) for pair in drawn]
        for which, values in (("max", [d.max() for d in degrees]), ("mean", [d.mean() for d in degrees])):
            found[f"angle_{side}_{which}_deg"] = _lognormal([float(value) for value in values])
    return found


def _lognormal(values: list[float]) -> Null:
    if min(values) <= 0:  # no direction is outside: nothing can turn
        return Null(sum(values) / len(values), 0.0, "lognormal", "signs", len(values))
    logs = sampled_null([math.log(value) for value in values])
    return Null(math.exp(logs.mean), logs.sd, "lognormal", "signs", min(_FREEDOM, logs.draws))


def _first_order(weight: Tensor, basis: WeightBasis, increment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the angles on the left and on the right, in radians."""
    u, v, s = basis.left[:, :rank], basis.right[:, :rank], basis.values[:rank]
    from_right, from_left = increment @ v, increment.T @ u
    angles = []
    for vectors, moved in (
        (basis.left, from_right * s + weight @ from_left),
        (basis.right, from_left * s + weight.T @ from_right),
    ):
        seen = vectors.T @ moved
        outside = seen[rank:] / (s**2 - basis.values[rank:, None] ** 2)
        # What no singular vector reaches: there the weight is zero.
        tangents = vectors[:, rank:] @ outside + (moved - vectors @ seen) / s**2
        wide = tangents.double()
        angles.append(torch.linalg.eigvalsh(wide.T @ wide).clamp_min(0).sqrt().atan())
    return angles[0], angles[1]
