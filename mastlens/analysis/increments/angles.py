"""How far a random increment of the same size would turn a principal subspace: the null of the principal angles.

To first order an increment D moves the top-k singular subspaces by the tangents of the matrices

    X_ji = (s_i a_ji + s_j b_ji) / (s_i^2 - s_j^2)   (left),   Y_ji = (s_i b_ji + s_j a_ji) / (s_i^2 - s_j^2)   (right)

with a_ji = u_j'Dv_i, b_ji = u_i'Dv_j, i in the subspace and j outside (Stewart and Sun, Matrix Perturbation Theory, V).
For an isotropic D all of these are independent normal variables, so that a draw needs the weight's singular values and
neither its singular vectors nor a decomposition.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.analysis.increments.nulls import Null, sampled_null, seeded

DRAWS = 10


def angle_nulls(
    singular_values: Float[Tensor, " smaller"],
    rows: int,
    cols: int,
    rank: int,
    rms: float,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    name: str = "",
) -> dict[str, Null]:
    """Return what isotropic increments give for the largest and the mean principal angle on each side, in degrees.

    Good while the angles are small; where k is the whole smaller side there is nothing outside, and angles are 0 on
    that side of a square matrix.

    Args:
        singular_values: All of the weight before the increment, descending.
        rows: m.
        cols: n.
        rank: k.
        rms: Root mean square of the increment's entries.
        draws: Number of random increments.
        seed: Decides them, together with ``name``.
        name: Of the tensor and increment.

    Returns:
        Laws of ``angle_left_max_deg``, ``angle_left_mean_deg``, ``angle_right_max_deg``, ``angle_right_mean_deg``.
    """
    values = singular_values.double().cpu()
    inside, outside = values[:rank], values[rank:, None]
    generator = seeded(seed, "angles", name)
    distance = inside**2 - outside**2
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        a, b = (rms * torch.randn(len(outside), rank, generator=generator).double() for _ in range(2))
        left = (inside * a + outside * b) / distance
        right = (inside * b + outside * a) / distance
        for side, tangents, size in (("left", left, rows), ("right", right, cols)):
            beyond = size - len(values)  # directions that the matrix does not reach: singular value 0
            extra = rms * torch.randn(beyond, rank, generator=generator).double() / inside
            full = torch.cat([tangents, extra])
            # A Gram matrix of rank x rank: a null needs no more than single accuracy of the small angles.
            tangent = torch.linalg.eigvalsh(full.T @ full).clamp_min(0).sqrt()
            degrees = torch.atan(tangent) * 180 / math.pi
            found.setdefault(f"angle_{side}_max_deg", []).append(float(degrees.max()))
            found.setdefault(f"angle_{side}_mean_deg", []).append(float(degrees.mean()))
    return {measure: sampled_null(drawn) for measure, drawn in found.items()}
