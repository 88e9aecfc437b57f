"""Hard-concrete gates, which become exactly 0 and 1 (Louizos et al., arXiv:1712.01312)."""

from math import log

import torch
from torch import Tensor

_LOW, _HIGH, _SHARPNESS = -0.1, 1.1, 2 / 3  # gamma, zeta and beta of the paper
SHUT = _SHARPNESS * log(-_LOW / _HIGH)
"""The location at which a gate without noise is just shut."""


def stretched(location: Tensor) -> Tensor:
    """Return gates without noise, before they are cut to [0, 1] (equations 10 and 11)."""
    return torch.sigmoid(location / _SHARPNESS) * (_HIGH - _LOW) + _LOW


def hard_concrete(location: Tensor, noise: Tensor) -> Tensor:
    """Return gates in [0, 1] with mass on both ends (arXiv:1712.01312, equations 10 and 11).

    Args:
        location: log alpha of each gate.
        noise: Uniform in (0, 1), one a gate.
    """
    return stretched(noise.log() - (-noise).log1p() + location).clamp(0, 1)


def open_share(location: Tensor) -> Tensor:
    """Return the chance that each gate, with its noise, is not zero (equation 12)."""
    return torch.sigmoid(location - SHUT)
