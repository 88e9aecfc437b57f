"""Forget objectives, one file each: a frozen dataclass with its coefficients, its loss, its needs and its source.

``OBJECTIVES`` finds them, and help, validation, records and documentation are read from it. The total loss is

    gamma * forget + retain_weight * retain

and more terms where activations are steered (``steering``). The formulas are pure functions in ``losses``.
"""

from collections.abc import Mapping
from typing import Any

from mastlens.errors import BadSetting, unknown
from mastlens.registry import Registry, subclasses_of
from mastlens.unlearning.coefficient import Coefficient, coefficient
from mastlens.unlearning.objectives.objective import RETAIN, ForgetBatch, Needs, Objective, OutputObjective, Presets
from mastlens.unlearning.objectives.steering import SteeringObjective, SteeringTexts
from mastlens.unlearning.token_weights import TokenWeights

__all__ = [
    "OBJECTIVES",
    "RETAIN",
    "Coefficient",
    "ForgetBatch",
    "Needs",
    "Objective",
    "OutputObjective",
    "Presets",
    "SteeringObjective",
    "SteeringTexts",
    "coefficient",
    "coefficient_names",
    "make_objective",
    "register_objective",
]

OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective", accepts=subclasses_of(Objective), package=__name__, group="mastlens.objectives"
)
"""Name to objective."""

register_objective = OBJECTIVES.register
"""Adds an objective of one's own; usable as a decorator of its class."""


def coefficient_names(kinds: Mapping[str, type[Objective]] | None = None) -> dict[str, list[str]]:
    """Return every coefficient that some objective has, and the names of those that have it.

    Args:
        kinds: Name to objective; None for all that can be found.
    """
    having: dict[str, list[str]] = {}
    for name, kind in (OBJECTIVES if kinds is None else kinds).items():
        for key in kind.coefficients():
            having.setdefault(key, []).append(name)
    return having


def make_objective(name: str, *, preset: str | None = None, **given: Any) -> Objective:
    """Return an objective: its defaults, then the preset, then what is given.

    Args:
        name: One of ``OBJECTIVES``, or ``path/to/file.py:Name``.
        preset: A source whose coefficients to take.
        given: Coefficient to value; None for what is not given.

    Raises:
        MastlensError: For an unknown objective or preset, or a coefficient that the objective does not have or that
            makes no sense.
    """
    kind = OBJECTIVES.find(name)
    fixed = {} if preset is None else _preset(kind, preset)
    known = kind.coefficients()
    for key in given:
        if key not in known:
            _refuse(kind, key, given[key])
    read = {key: known[key].read(value, f"{key} of {kind.name}") for key, value in given.items() if value is not None}
    return kind.make(fixed, read)


def _preset(kind: type[Objective], preset: str) -> dict[str, Any]:
    if preset in kind.presets:
        return dict(kind.presets[preset])
    every = dict.fromkeys([*kind.presets, *(preset for other in OBJECTIVES.values() for preset in other.presets)])
    if preset not in every:
        raise unknown("preset", preset, every)
    those = [name for name, other in OBJECTIVES.items() if preset in other.presets]
    own = f" Presets of {kind.name}: {', '.join(kind.presets)}." if kind.presets else ""
    raise BadSetting(f"The preset {preset} says nothing of {kind.name}; it knows {', '.join(those)}.{own}")


def _refuse(kind: type[Objective], key: str, value: Any) -> None:
    """Raise for a coefficient that an objective does not have; one that is not given may be any other's."""
    # Token weights are settings of their own, and no number that could be given as a coefficient.
    own = [name for name, known in kind.coefficients().items() if known.type is not TokenWeights]
    having = coefficient_names()
    if key not in having:
        raise unknown(f"coefficient of {kind.name}", key, own)
    if value is not None:
        raise BadSetting(
            f"{kind.name} has no {key}: {key} would change nothing. It has {', '.join(own)}; {key} is a coefficient of "
            f"{', '.join(having[key])}."
        )
