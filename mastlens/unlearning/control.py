"""The control vector of objectives that steer activations: what they are steered to."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

CONTROL = "control_vector"
"""Where an edit's settings keep the control vector."""


def unit_direction(hidden_size: int, seed: int) -> Float[Tensor, " hidden"]:
    """Return u: uniform on [0, 1) in every dimension, divided by its norm, as RMU's code draws it.

    All entries are positive, so u is not uniform on the sphere. It hangs on the seed alone, not on the device.
    """
    drawn = torch.rand(hidden_size, generator=torch.Generator().manual_seed(seed))
    return drawn / torch.linalg.vector_norm(drawn)


def control_vector(
    states: Float[Tensor, "tokens hidden"], steering: float, seed: int, *, norm: float = 0.0
) -> Float[Tensor, " hidden"]:
    """Return c u, with c = ``steering`` times the median norm of retain activations, or ``norm`` itself.

    RMU and R2MU state c as a number (6.5, 20, 460), which fits one model and one layer; activations' norms differ a
    hundredfold between models.

    Args:
        states: Activations of retain texts at the steering layer, before unlearning.
        steering: c in units of their median norm.
        seed: Of u.
        norm: c as a number; 0 for ``steering`` instead.
    """
    length = norm or steering * torch.linalg.vector_norm(states.float(), dim=1).median()
    return length * unit_direction(states.shape[1], seed).to(states.device)


def kept_control(settings: Mapping[str, Any]) -> Tensor | None:
    """Return the control vector that an edit's settings keep, bit for bit; None where there is none."""
    values = settings.get(CONTROL)
    return None if values is None else torch.tensor(values, dtype=torch.float32)
