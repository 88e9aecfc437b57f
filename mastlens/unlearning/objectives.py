"""Forget objectives as pure functions of log-probabilities.

Each takes the solution log-probabilities of a forget batch, summed by sequence, and returns a scalar to
minimise.
The total loss is gamma * forget + alpha * retain, where retain is the token-mean negative log-likelihood.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from mastlens.errors import MastlensError, unknown


def retain_nll(sums: Float[Tensor, " batch"], counts: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the token-mean negative log-likelihood -sum(log p) / tokens."""
    return -sums.sum() / counts.sum()


def gradient_ascent(sums: Float[Tensor, " batch"], counts: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the token-mean log-likelihood: minimising it ascends the loss (GA, GradDiff)."""
    return sums.sum() / counts.sum()


def npo(
    sums: Float[Tensor, " batch"],
    reference: Float[Tensor, " batch"],
    *,
    beta: float,
) -> Float[Tensor, ""]:
    """Return the NPO loss -(2/beta) mean log sigmoid(-beta (log p - log p_ref)).

    Log-probabilities are summed over the sequence (Zhang et al. 2024, arXiv:2404.05868, eq. 3).

    Args:
        sums: log p of each solution under the model.
        reference: The same under the model before unlearning.
        beta: Inverse temperature; the smaller, the closer to gradient ascent.
    """
    return -(2 / beta) * logsigmoid(-beta * (sums - reference)).mean()


def simnpo(
    sums: Float[Tensor, " batch"],
    counts: Float[Tensor, " batch"],
    *,
    beta: float,
    delta: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the SimNPO loss -(2/beta) mean log sigmoid(beta (NLL / tokens - delta)).

    No reference model; normalised by length (Fan et al. 2024, arXiv:2410.07163). ``delta`` stands inside
    beta, as in open-unlearning: it is the paper's margin divided by beta.
    """
    return -(2 / beta) * logsigmoid(beta * (-sums / counts - delta)).mean()


@dataclass(frozen=True)
class Objective:
    """A forget objective with its coefficients.

    Attributes:
        name: As on the command line.
        beta: Inverse temperature of NPO and SimNPO.
        delta: Margin of SimNPO, inside beta.
        gamma: Weight of the forget term.
        alpha: Weight of the retain term (``--retain-weight``).
        needs_reference: Whether log-probabilities before unlearning are needed.
        needs_retain: Whether retain problems are needed.
    """

    name: str
    beta: float = 0.0
    delta: float = 0.0
    gamma: float = 1.0
    alpha: float = 1.0
    needs_reference: bool = False
    needs_retain: bool = False

    def forget_loss(
        self,
        sums: Float[Tensor, " batch"],
        counts: Float[Tensor, " batch"],
        reference: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the unweighted forget term."""
        return _FORGET[self.name](self, sums, counts, reference)


def _npo(objective: Objective, sums: Tensor, counts: Tensor, reference: Tensor | None) -> Tensor:
    assert reference is not None
    return npo(sums, reference, beta=objective.beta)


_FORGET: dict[str, Callable[[Objective, Tensor, Tensor, Tensor | None], torch.Tensor]] = {
    "ga": lambda objective, sums, counts, reference: gradient_ascent(sums, counts),
    "graddiff": lambda objective, sums, counts, reference: gradient_ascent(sums, counts),
    "npo": _npo,
    "simnpo": lambda objective, sums, counts, reference: simnpo(
        sums, counts, beta=objective.beta, delta=objective.delta
    ),
}

OBJECTIVES: dict[str, Objective] = {
    "ga": Objective("ga"),
    "graddiff": Objective("graddiff", needs_retain=True),
    "npo": Objective("npo", beta=0.1, needs_reference=True),
    "simnpo": Objective("simnpo", beta=4.5),
}
"""Name to objective with its default coefficients."""

# What the sources fix: MAST 1.3 states beta only; open-unlearning's configs state beta, gamma and alpha.
PRESETS: dict[str, dict[str, dict[str, float]]] = {
    "mast": {"ga": {}, "graddiff": {}, "npo": {"beta": 0.5}, "simnpo": {"beta": 2.5}},
    "open-unlearning": {
        "ga": {},
        "graddiff": {"gamma": 1.0, "alpha": 1.0},
        "npo": {"beta": 0.1, "gamma": 1.0, "alpha": 1.0},
        "simnpo": {"beta": 4.5, "delta": 0.0, "gamma": 0.125, "alpha": 1.0},
    },
}
"""Preset to objective to coefficients."""


def make_objective(
    name: str,
    *,
    preset: str | None = None,
    beta: float | None = None,
    delta: float | None = None,
    gamma: float | None = None,
    retain_weight: float | None = None,
) -> Objective:
    """Return an objective: its defaults, then the preset, then what is given.

    Raises:
        MastlensError: For an unknown objective or preset, or a coefficient that makes no sense.
    """
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    objective = OBJECTIVES[name]
    if preset is not None:
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)
        objective = replace(objective, **PRESETS[preset][name])
    given = {"beta": beta, "delta": delta, "gamma": gamma, "alpha": retain_weight}
    objective = replace(objective, **{k: float(v) for k, v in given.items() if v is not None})
    if name in ("npo", "simnpo") and not objective.beta > 0:
        raise MastlensError(f"beta of {name} must be above 0, it is {objective.beta}.")
    numbers = {
        "beta": objective.beta,
        "delta": objective.delta,
        "gamma": objective.gamma,
        "retain weight": objective.alpha,
    }
    if odd := [f"{key} = {value}" for key, value in numbers.items() if not math.isfinite(value)]:
        raise MastlensError(f"The coefficients of {name} must be finite numbers, not {', '.join(odd)}.")
    if objective.alpha < 0 or objective.gamma < 0:
        raise MastlensError("gamma and the retain weight cannot be negative; the signs are in the objective.")
    return objective
