"""How far two models' activations and next-token distributions are apart, token by token. In float64."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def relative_difference(
    before: Float[Tensor, "tokens width"], after: Float[Tensor, "tokens width"]
) -> Float[Tensor, " tokens"]:
    """Return |after - before| / |before| of each token's vector; 0 where both are zero."""
    size = torch.linalg.vector_norm(before, dim=1)
    moved = torch.linalg.vector_norm(after - before, dim=1)
    return torch.where(moved > 0, moved / size, torch.zeros_like(moved))


def angles(before: Float[Tensor, "tokens width"], after: Float[Tensor, "tokens width"]) -> Float[Tensor, " tokens"]:
    """Return the angle between each token's two vectors, in degrees.

    By 2 atan2(|u - v|, |u + v|) of the unit vectors: exact for angles near 0, where a cosine has lost them (Kahan).
    """
    u, v = (torch.nn.functional.normalize(x, dim=1) for x in (before, after))
    half = torch.atan2(torch.linalg.vector_norm(u - v, dim=1), torch.linalg.vector_norm(u + v, dim=1))
    return torch.rad2deg(2 * half)


def cka_distance(before: Float[Tensor, "tokens width"], after: Float[Tensor, "tokens width"]) -> float:
    """Return 1 - CKA of two sets of vectors of the same tokens: 0 where one is the other turned and scaled.

    Linear centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414, equation 4 with linear kernels), by the
    tokens' Gram matrices. NaN for fewer than three tokens, or where all vectors of a model are one.
    """
    if len(before) < 3:
        return math.nan
    x, y = (part - part.mean(dim=0) for part in (before, after))
    one, other = x @ x.T, y @ y.T
    sizes = torch.linalg.matrix_norm(one) * torch.linalg.matrix_norm(other)
    if not float(sizes) > 0:
        return math.nan
    # 1 - <a, b> of unit matrices is half of |a - b|^2: what is left of two that hardly differ is not rounding.
    a, b = one / torch.linalg.matrix_norm(one), other / torch.linalg.matrix_norm(other)
    return float(torch.linalg.matrix_norm(a - b) ** 2 / 2)


def procrustes_distance(before: Float[Tensor, "tokens width"], after: Float[Tensor, "tokens width"]) -> float:
    """Return what is left between two sets of vectors of the same tokens once one is moved, scaled and turned to fit.

    As a share of their size: 1 - (sum of the singular values of X'Y)^2 of centred X and Y of unit norm, between 0 and 1
    (the disparity of ``scipy.spatial.procrustes``). Taken from matrices of tokens x tokens. NaN for fewer than three
    tokens, or where all vectors of a model are one.
    """
    if len(before) < 3:
        return math.nan
    parts = []
    for part in (before, after):
        centred = part - part.mean(dim=0)
        size = torch.linalg.matrix_norm(centred)
        if not float(size) > 0:
            return math.nan
        parts.append(torch.linalg.qr((centred / size).T, mode="r")[1])  # centred' = Q R, so X'Y = Q (R S') P'
    return float((1 - torch.linalg.svdvals(parts[0] @ parts[1].T).sum() ** 2).clamp_min(0))


def divergence(
    before: Float[Tensor, "tokens vocabulary"], after: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    """Return KL(before || after) over the whole vocabulary, in nats, from log-probabilities. Differentiable."""
    lowest = torch.finfo(before.dtype).min  # see ``next_token``
    return (before.exp() * (before.clamp_min(lowest) - after.clamp_min(lowest))).sum(dim=1).clamp_min(0)


def next_token(
    before: Float[Tensor, "tokens vocabulary"], after: Float[Tensor, "tokens vocabulary"]
) -> dict[str, Float[Tensor, " tokens"]]:
    """Return how far the next-token distributions of two models are apart, from their logits.

    ``kl`` KL(before || after) over the whole vocabulary, ``js`` Jensen-Shannon divergence (at most log 2),
    ``entropy_change`` of after minus of before, all in nats; ``top_differs`` 1 where another token is the most
    probable one, else 0.
    """
    old, new = before.log_softmax(dim=1), after.log_softmax(dim=1)
    # A forbidden token has log-probability -inf and adds nothing: 0 times -inf must not become NaN.
    lowest = torch.finfo(old.dtype).min
    p, q = old.exp(), new.exp()
    between = (torch.logaddexp(old, new) - math.log(2)).clamp_min(lowest)
    old, new = old.clamp_min(lowest), new.clamp_min(lowest)
    # Divergences are not negative; of distributions that hardly differ, rounding may leave a sum that is.
    return {
        "kl": divergence(old, new),
        "js": ((p * (old - between)).sum(dim=1) + (q * (new - between)).sum(dim=1)).clamp_min(0) / 2,
        "entropy_change": (p * old).sum(dim=1) - (q * new).sum(dim=1),
        "top_differs": (before.argmax(dim=1) != after.argmax(dim=1)).to(before.dtype),
    }
