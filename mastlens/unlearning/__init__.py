"""The unlearning step: objectives as one object each, and the loop that edits selected tensors in place.

Names are imported when they are first used: the objectives' coefficients can be read without loading torch.
"""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.unlearning.editing import Unlearning, unlearn
    from mastlens.unlearning.loop import Step, Unlearner, unlearning_steps
    from mastlens.unlearning.objectives import (
        OBJECTIVES,
        Objective,
        SteeringTexts,
        make_objective,
        register_objective,
    )
    from mastlens.unlearning.objectives.describing import describe_objectives
    from mastlens.unlearning.settings import ProbeSettings
    from mastlens.unlearning.token_weights import TokenWeights
    from mastlens.unlearning.traces import Traces

_PUBLIC = {
    "OBJECTIVES": "objectives",
    "Objective": "objectives",
    "ProbeSettings": "settings",
    "SteeringTexts": "objectives",
    "Step": "loop",
    "TokenWeights": "token_weights",
    "Traces": "traces",
    "Unlearner": "loop",
    "Unlearning": "editing",
    "describe_objectives": "objectives.describing",
    "make_objective": "objectives",
    "register_objective": "objectives",
    "unlearn": "editing",
    "unlearning_steps": "loop",
}

__all__ = [
    "OBJECTIVES",
    "Objective",
    "ProbeSettings",
    "SteeringTexts",
    "Step",
    "TokenWeights",
    "Traces",
    "Unlearner",
    "Unlearning",
    "describe_objectives",
    "make_objective",
    "register_objective",
    "unlearn",
    "unlearning_steps",
]

__getattr__, __dir__ = attach(__name__, _PUBLIC)
