"""The unlearning step: objectives as pure functions, and the loop that edits selected tensors in place."""

from mastlens.unlearning.loop import Step, Unlearning, unlearn, unlearning_steps
from mastlens.unlearning.objectives import OBJECTIVES, Objective, make_objective

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Step",
    "Unlearning",
    "make_objective",
    "unlearn",
    "unlearning_steps",
]
