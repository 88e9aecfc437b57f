"""The unlearning step: objectives as pure functions, and the loop that edits selected tensors in place."""

from mastlens.unlearning.editing import Unlearning, unlearn
from mastlens.unlearning.loop import Step, Unlearner, unlearning_steps
from mastlens.unlearning.objectives import OBJECTIVES, Objective, make_objective
from mastlens.unlearning.probes import ProbeSettings
from mastlens.unlearning.token_weights import TokenWeights

__all__ = [
    "OBJECTIVES",
    "Objective",
    "ProbeSettings",
    "Step",
    "TokenWeights",
    "Unlearner",
    "Unlearning",
    "make_objective",
    "unlearn",
    "unlearning_steps",
]
