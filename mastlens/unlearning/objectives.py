"""Forget objectives by name, with their coefficients; the formulas are in ``losses``.

The total loss is gamma * forget + alpha * retain.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mastlens.errors import MastlensError, unknown
from mastlens.likelihood import Reading
from mastlens.unlearning import losses
from mastlens.unlearning.token_weights import TokenWeights

RETAIN = ("nll", "kl")
"""Retain terms: token-mean negative log-likelihood; forward KL(source || model) at the solution tokens."""


@dataclass(frozen=True)
class Objective:
    """A forget objective with its coefficients.

    Attributes:
        name: As on the command line.
        beta: Inverse temperature of NPO, SimNPO and DPO; exponent of WGA, the first of SatImp; how far UNDIAL turns
            the memorised logit down.
        beta2: The second exponent of SatImp.
        delta: Margin of SimNPO, inside beta.
        gamma: Weight of the forget term.
        alpha: Weight of the retain term (``--retain-weight``).
        retain: The retain term, one of ``RETAIN``; RMU has its own.
        layer: The decoder layer that RMU steers.
        steering: Length of RMU's control vector, in median norms of the retain problems' activations there.
        token_weights: Learnt weights of the forget tokens (ATWU); None for all alike.
        needs_reference: Whether log-probabilities before unlearning are needed, summed by solution.
        needs_before: Whether whole distributions or activations before unlearning are needed.
        needs_retain: Whether retain problems are needed.
        needs_alternatives: Whether refusals are needed.
    """

    name: str
    beta: float = 0.0
    beta2: float = 0.0
    delta: float = 0.0
    gamma: float = 1.0
    alpha: float = 1.0
    retain: str = "nll"
    layer: int = -1
    steering: float = 0.0
    token_weights: TokenWeights | None = None
    needs_reference: bool = False
    needs_before: bool = False
    needs_retain: bool = False
    needs_alternatives: bool = False

    @property
    def steers(self) -> bool:
        """Whether it works on activations (RMU) rather than on log-probabilities."""
        return self.name == "rmu"

    def forget_loss(self, said: "Said", weights: Tensor | None = None) -> Tensor:
        """Return the unweighted forget term, a scalar.

        Args:
            said: What the model says of a forget batch.
            weights: One a solution token, in reading order; None for all alike.
        """
        return _FORGET[self.name](self, said, weights)


@dataclass(frozen=True)
class Said:
    """What an objective on log-probabilities may look at, of one forget batch.

    Attributes:
        now: The solutions under the model as it is.
        reference: log p of each solution before unlearning, summed; where it was asked for.
        before: Gives the logits, before unlearning, of a slice of the solution tokens; where they were asked for.
        refusal: log p of each refusal under the model as it is, summed; where they were asked for.
        refusal_reference: The same before unlearning.
    """

    now: Reading
    reference: Tensor | None = None
    before: Callable[[slice], Tensor] | None = None
    refusal: Tensor | None = None
    refusal_reference: Tensor | None = None


def _ascend(objective: Objective, said: Said, weights: Tensor | None) -> Tensor:
    logprobs = said.now.logprobs
    return losses.gradient_ascent(losses.weighted_sums(logprobs, weights, rescaled=False), logprobs.counts)


def _npo(objective: Objective, said: Said, weights: Tensor | None) -> Tensor:
    assert said.reference is not None
    logprobs = said.now.logprobs
    sums = losses.weighted_sums(logprobs, weights, rescaled=True)
    counts = logprobs.counts if objective.name == "npo-token" else None
    return losses.npo(sums, said.reference, beta=objective.beta, counts=counts)


def _simnpo(objective: Objective, said: Said, weights: Tensor | None) -> Tensor:
    logprobs = said.now.logprobs
    sums = losses.weighted_sums(logprobs, weights, rescaled=False)
    return losses.simnpo(sums, logprobs.counts, beta=objective.beta, delta=objective.delta)


def _dpo(objective: Objective, said: Said, weights: Tensor | None) -> Tensor:
    assert said.reference is not None
    assert said.refusal is not None
    assert said.refusal_reference is not None
    rejected = losses.weighted_sums(said.now.logprobs, weights, rescaled=True)
    return losses.dpo(said.refusal, said.refusal_reference, rejected, said.reference, beta=objective.beta)


def _wga(objective: Objective, said: Said, weights: Tensor | None) -> Tensor:
    return losses.wga(said.now.logprobs.values, beta=objective.beta, weights=weights)


def _satimp(objective: Objective, said: Said, weights: Tensor | None) -> Tensor:
    values = said.now.logprobs.values
    return losses.satimp(values, beta1=objective.beta, beta2=objective.beta2, weights=weights)


def _undial(objective: Objective, said: Said, weights: Tensor | None) -> Tensor:
    before = said.before
    assert before is not None
    values = said.now.over_tokens(
        lambda logits, part: losses.undial(logits, before(part), said.now.targets[part], beta=objective.beta)
    )
    return values.mean() if weights is None else (weights * values).mean()


def _ce_u(objective: Objective, said: Said, weights: Tensor | None) -> Tensor:
    values = said.now.over_tokens(lambda logits, part: losses.ce_u(logits, said.now.targets[part]))
    counted = losses.after_first(said.now.rows)  # as its code, which leaves the first token of an answer alone
    if not bool(counted.any()):
        counted = torch.ones_like(counted)
    return (values if weights is None else weights * values)[counted].mean()


_FORGET: dict[str, Callable[[Objective, Said, Tensor | None], Tensor]] = {
    "ga": _ascend,
    "graddiff": _ascend,
    "npo": _npo,
    "npo-token": _npo,
    "simnpo": _simnpo,
    "dpo": _dpo,
    "wga": _wga,
    "satimp": _satimp,
    "undial": _undial,
    "ce-u": _ce_u,
}

OBJECTIVES: dict[str, Objective] = {
    "ga": Objective("ga"),
    "graddiff": Objective("graddiff", needs_retain=True),
    "npo": Objective("npo", beta=0.1, needs_reference=True),
    "npo-token": Objective("npo-token", beta=1.0, needs_reference=True),
    "simnpo": Objective("simnpo", beta=4.5),
    "dpo": Objective("dpo", beta=0.1, needs_reference=True, needs_alternatives=True),
    "wga": Objective("wga", beta=1.0),
    "satimp": Objective("satimp", beta=5.0, beta2=1.0),
    "undial": Objective("undial", beta=10.0, needs_before=True),
    "ce-u": Objective("ce-u"),
    "rmu": Objective("rmu", steering=2.0, needs_before=True, needs_retain=True),
}
"""Name to objective with its default coefficients."""

DESCRIPTIONS: dict[str, str] = {
    "ga": "gradient ascent on the forget solutions",
    "graddiff": "gradient ascent with a retain term (GradDiff)",
    "npo": "negative preference, log-probabilities summed (arXiv:2404.05868)",
    "npo-token": "negative preference per token: long traces do not saturate it",
    "simnpo": "negative preference without a reference, per token (arXiv:2410.07163)",
    "dpo": "a refusal preferred to the solution (IdkDPO, arXiv:2305.18290)",
    "wga": "gradient ascent, tokens weighted by p^beta (arXiv:2502.19301)",
    "satimp": "tokens weighted by saturation and importance (arXiv:2505.11953)",
    "undial": "self-distillation with the memorised token turned down (arXiv:2402.10052)",
    "ce-u": "cross-entropy to the model's own distribution without the token (arXiv:2503.01224)",
    "rmu": "activations steered to a random direction (arXiv:2403.03218)",
}
"""Name to what it does, in a line."""

# What the sources fix: MAST 1.3 states beta only; open-unlearning's configs state beta, gamma and alpha.
PRESETS: dict[str, dict[str, dict[str, float]]] = {
    "mast": {"ga": {}, "graddiff": {}, "npo": {"beta": 0.5}, "simnpo": {"beta": 2.5}},
    "open-unlearning": {
        "ga": {},
        "graddiff": {"gamma": 1.0, "alpha": 1.0},
        "npo": {"beta": 0.1, "gamma": 1.0, "alpha": 1.0},
        "simnpo": {"beta": 4.5, "delta": 0.0, "gamma": 0.125, "alpha": 1.0},
        "dpo": {"beta": 0.1, "gamma": 1.0, "alpha": 1.0},
        "wga": {"beta": 1.0, "gamma": 1.0, "alpha": 1.0},
        "satimp": {"beta": 5.0, "beta2": 1.0, "gamma": 0.1, "alpha": 1.0},
        "undial": {"beta": 10.0, "gamma": 1.0, "alpha": 0.0},
        "ce-u": {},
    },
}
"""Preset to objective to coefficients."""


def make_objective(
    name: str,
    *,
    preset: str | None = None,
    beta: float | None = None,
    beta2: float | None = None,
    delta: float | None = None,
    gamma: float | None = None,
    retain_weight: float | None = None,
    retain_loss: str | None = None,
    layer: int | None = None,
    steering: float | None = None,
    token_weights: TokenWeights | None = None,
) -> Objective:
    """Return an objective: its defaults, then the preset, then what is given.

    Raises:
        MastlensError: For an unknown objective, preset or retain term, or a coefficient that makes no sense.
    """
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    objective = OBJECTIVES[name]
    if preset is not None:
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)
        if name not in PRESETS[preset]:
            raise MastlensError(f"The preset {preset} says nothing of {name}; it knows {', '.join(PRESETS[preset])}.")
        objective = replace(objective, **PRESETS[preset][name])
    given: Mapping[str, float | None] = {
        "beta": beta,
        "beta2": beta2,
        "delta": delta,
        "gamma": gamma,
        "alpha": retain_weight,
        "steering": steering,
    }
    defaults = OBJECTIVES[name]
    unused = {"beta": not defaults.beta, "beta2": not defaults.beta2, "delta": name != "simnpo"}
    for key, idle in {**unused, "steering": not defaults.steers}.items():
        if idle and given[key] is not None:
            raise MastlensError(f"{name} has no {key}: it would change nothing. Leave it out.")
    objective = replace(objective, **{k: float(v) for k, v in given.items() if v is not None})
    if retain_loss is not None:
        if retain_loss not in RETAIN:
            raise unknown("retain term", retain_loss, RETAIN)
        if objective.steers:
            raise MastlensError("rmu keeps the activations of the retain problems: it has no other retain term.")
        objective = replace(objective, retain=retain_loss)
    if layer is not None:
        if not objective.steers:
            raise MastlensError(f"{name} has no layer to steer (--layer); rmu has.")
        objective = replace(objective, layer=layer)
    if token_weights is not None:
        if objective.steers:
            raise MastlensError("Token weights go with an objective on tokens; rmu works on activations.")
        objective = replace(objective, token_weights=token_weights)
    _check(objective)
    return objective


def _check(objective: Objective) -> None:
    name = objective.name
    if OBJECTIVES[name].beta and name not in ("wga", "satimp") and not objective.beta > 0:
        raise MastlensError(f"beta of {name} must be above 0, it is {objective.beta}.")
    if objective.beta < 0 or objective.beta2 < 0:
        raise MastlensError(
            f"The exponents of {name} cannot be negative; they are {objective.beta}, {objective.beta2}."
        )
    if objective.steers and objective.layer < 0:
        raise MastlensError("rmu steers the output of one decoder layer: say which (--layer, counted from 0).")
    if objective.steers and not objective.steering > 0:
        raise MastlensError(f"The steering of rmu must be above 0, it is {objective.steering}.")
    numbers = {
        "beta": objective.beta,
        "beta2": objective.beta2,
        "delta": objective.delta,
        "gamma": objective.gamma,
        "retain weight": objective.alpha,
        "steering": objective.steering,
    }
    if odd := [f"{key} = {value}" for key, value in numbers.items() if not math.isfinite(value)]:
        raise MastlensError(f"The coefficients of {name} must be finite numbers, not {', '.join(odd)}.")
    if objective.alpha < 0 or objective.gamma < 0:
        raise MastlensError("gamma and the retain weight cannot be negative; the signs are in the objective.")
