"""Forget objectives by name, with their coefficients; the formulas are in ``losses``.

The total loss is gamma * forget + alpha * retain. Objectives that steer activations (RMU, arXiv:2403.03218, and R2MU,
arXiv:2506.12963) are one family:

    gamma * forget + alpha * retain + unthink_weight * traces + cot_weight * chains of thought
    + reflection_weight * probability of reflection words

R2MU's paper has other letters: its gamma, the weight of the retain term, is our ``alpha``; its alpha, of the trace
term, is ``unthink_weight``; its beta is ``cot_weight``. Every term on activations is a squared distance divided by the
hidden size: its mean over the tokens of a text, then over texts (``losses.sequence_mean``).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from mastlens.decoding.reflection import WORDS
from mastlens.errors import BadSetting, unknown
from mastlens.unlearning.forgetting import FORGET, Said
from mastlens.unlearning.presets import PRESETS, SteeringTexts
from mastlens.unlearning.token_weights import TokenWeights

__all__ = ["DESCRIPTIONS", "OBJECTIVES", "PRESETS", "RETAIN", "Objective", "Said", "make_objective"]

STEERING = ("rmu", "rmu-rtp", "r2mu-v0", "r2mu")
"""Objectives on activations."""
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
        layer: The decoder layer that RMU and R2MU steer.
        steering: c, the length of their control vector, in median norms of the retain texts' activations there.
        control_norm: c as a number; 0 for ``steering`` instead.
        unthink_weight: Weight of R2MU's trace term.
        cot_weight: Weight of R2MU's chain-of-thought term.
        reflection_weight: Weight of the reflection token penalty.
        reflection: Whose list of reflection words (``decoding.reflection.WORDS``).
        texts: How its texts are read, where it steers activations.
        token_weights: Learnt weights of the forget tokens (ATWU), of R2MU's trace tokens; None for all alike.
        needs_reference: Whether log-probabilities before unlearning are needed, summed by solution.
        needs_before: Whether whole distributions or activations before unlearning are needed.
        needs_retain: Whether retain problems are needed.
        needs_alternatives: Whether refusals are needed.
        needs_traces: Whether traces of the forget documents are needed.
        needs_cot: Whether chains of thought to keep are needed.
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
    control_norm: float = 0.0
    unthink_weight: float = 0.0
    cot_weight: float = 0.0
    reflection_weight: float = 0.0
    reflection: str = "code"
    texts: SteeringTexts | None = None
    token_weights: TokenWeights | None = None
    needs_reference: bool = False
    needs_before: bool = False
    needs_retain: bool = False
    needs_alternatives: bool = False
    needs_traces: bool = False
    needs_cot: bool = False

    @property
    def steers(self) -> bool:
        """Whether it works on activations (RMU, R2MU) rather than on log-probabilities."""
        return self.name in STEERING

    def settings(self) -> dict[str, Any]:
        """Return its fields for a record; what only steering has is left out where nothing is steered."""
        return {key: value for key, value in asdict(self).items() if self.steers or key not in _STEERING_FIELDS}

    def forget_loss(self, said: Said, weights: Tensor | None = None) -> Tensor:
        """Return the unweighted forget term, a scalar.

        Args:
            said: What the model says of a forget batch.
            weights: One a solution token, in reading order; None for all alike.
        """
        return FORGET[self.name](self, said, weights)


_STEERING_FIELDS = (
    *("control_norm", "unthink_weight", "cot_weight", "reflection_weight", "reflection", "texts"),
    *("needs_traces", "needs_cot"),
)
_RMU = Objective("rmu", steering=2.0, texts=SteeringTexts(), needs_before=True, needs_retain=True)
_V0 = replace(_RMU, name="r2mu-v0", unthink_weight=1.0, needs_traces=True)

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
    "rmu": _RMU,
    "rmu-rtp": replace(_RMU, name="rmu-rtp", reflection_weight=1.0),
    "r2mu-v0": _V0,
    "r2mu": replace(_V0, name="r2mu", cot_weight=1.0, needs_cot=True),
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
    "rmu-rtp": "rmu and a penalty on the probability of reflection words (arXiv:2506.12963)",
    "r2mu-v0": "rmu, and the activations of reasoning traces steered too (arXiv:2506.12963)",
    "r2mu": "r2mu-v0, and the activations of chains of thought kept (arXiv:2506.12963)",
}
"""Name to what it does, in a line."""


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
    control_norm: float | None = None,
    unthink_weight: float | None = None,
    cot_weight: float | None = None,
    reflection_weight: float | None = None,
    reflection: str | None = None,
    text_tokens: int | None = None,
    trace_tokens: int | None = None,
    cot_tokens: int | None = None,
    in_context: bool | None = None,
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
            raise BadSetting(f"The preset {preset} says nothing of {name}; it knows {', '.join(PRESETS[preset])}.")
        objective = replace(objective, **PRESETS[preset][name])
    given: Mapping[str, float | None] = {
        "beta": beta,
        "beta2": beta2,
        "delta": delta,
        "gamma": gamma,
        "alpha": retain_weight,
        "steering": steering,
        "control_norm": control_norm,
        "unthink_weight": unthink_weight,
        "cot_weight": cot_weight,
        "reflection_weight": reflection_weight,
    }
    defaults = OBJECTIVES[name]
    for key, value in given.items():
        if value is not None and key not in ("gamma", "alpha") and not _has(defaults, key):
            raise BadSetting(f"{name} has no {key}: it would change nothing. Leave it out.")
    if steering is not None and control_norm is not None:
        raise BadSetting("Steering and control_norm both say how long the control vector is: give one.")
    if steering is not None:
        objective = replace(objective, control_norm=0.0)
    objective = replace(objective, **{k: float(v) for k, v in given.items() if v is not None})
    if reflection is not None:
        if not defaults.reflection_weight:
            raise BadSetting(f"{name} penalises no reflection words; rmu-rtp does.")
        objective = replace(objective, reflection=reflection)
    if retain_loss is not None:
        if retain_loss not in RETAIN:
            raise unknown("retain term", retain_loss, RETAIN)
        if objective.steers:
            raise BadSetting(f"{name} keeps the activations of the retain problems: it has no other retain term.")
        objective = replace(objective, retain=retain_loss)
    if layer is not None:
        if not objective.steers:
            raise BadSetting(f"{name} has no layer to steer (--layer); {', '.join(STEERING)} have.")
        objective = replace(objective, layer=layer)
    cuts = {"text_tokens": text_tokens, "trace_tokens": trace_tokens, "cot_tokens": cot_tokens}
    told = {key: value for key, value in {**cuts, "in_context": in_context}.items() if value is not None}
    objective = replace(objective, texts=_texts(objective, told))
    if token_weights is not None:
        if objective.steers and not objective.needs_traces:
            raise BadSetting(
                f"Token weights go with an objective on tokens; {name} steers whole texts. r2mu and r2mu-v0 weigh the "
                "tokens of their traces."
            )
        objective = replace(objective, token_weights=token_weights)
    _check(objective)
    return objective


def _has(objective: Objective, coefficient: str) -> bool:
    """Return whether an objective has a coefficient."""
    if coefficient in ("steering", "control_norm"):
        return objective.steers
    return (coefficient == "delta" and objective.name == "simnpo") or bool(getattr(objective, coefficient))


def _texts(objective: Objective, told: Mapping[str, Any]) -> SteeringTexts | None:
    """Return how an objective reads its texts, with what is told."""
    if objective.texts is None:
        if told:
            raise BadSetting(f"{objective.name} reads problems as they are: {', '.join(told)} would change nothing.")
        return None
    needed = {"trace_tokens": objective.needs_traces, "in_context": objective.needs_traces}
    needed["cot_tokens"] = objective.needs_cot
    if idle := [key for key in told if not needed.get(key, True)]:
        raise BadSetting(f"{objective.name} reads no such texts: {', '.join(idle)} would change nothing.")
    # Behind its prompt a trace has no trigger in front: there is one in the prompt.
    return replace(objective.texts, **({"trigger": ""} if told.get("in_context") else {}), **told)


def _check(objective: Objective) -> None:
    name = objective.name
    if OBJECTIVES[name].beta and name not in ("wga", "satimp") and not objective.beta > 0:
        raise BadSetting(f"beta of {name} must be above 0, it is {objective.beta}.")
    if objective.beta < 0 or objective.beta2 < 0:
        raise BadSetting(f"The exponents of {name} cannot be negative; they are {objective.beta}, {objective.beta2}.")
    if objective.steers and objective.layer < 0:
        raise BadSetting(f"{name} steers the output of one decoder layer: say which (--layer, counted from 0).")
    if objective.steers and not objective.steering > 0:
        raise BadSetting(f"The steering of {name} must be above 0, it is {objective.steering}.")
    if objective.reflection not in WORDS:
        raise unknown("list of reflection words", objective.reflection, WORDS)
    numbers = {
        "beta": objective.beta,
        "beta2": objective.beta2,
        "delta": objective.delta,
        "gamma": objective.gamma,
        "retain weight": objective.alpha,
        "steering": objective.steering,
        "control_norm": objective.control_norm,
        "unthink_weight": objective.unthink_weight,
        "cot_weight": objective.cot_weight,
        "reflection_weight": objective.reflection_weight,
    }
    if odd := [f"{key} = {value}" for key, value in numbers.items() if not math.isfinite(value)]:
        raise BadSetting(f"The coefficients of {name} must be finite numbers, not {', '.join(odd)}.")
    if min(objective.alpha, objective.gamma) < 0:
        raise BadSetting("gamma and the retain weight cannot be negative; the signs are in the objective.")
    steering = (objective.control_norm, objective.unthink_weight, objective.cot_weight, objective.reflection_weight)
    if min(steering) < 0:
        raise BadSetting(f"Coefficients of {name} cannot be negative; the signs are in the objective.")
