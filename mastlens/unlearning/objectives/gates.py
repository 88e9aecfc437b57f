"""Learnt gates on what RLVR gave: an edit that can only take it back."""

from dataclasses import dataclass
from typing import ClassVar

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.ga import GradientAscent
from mastlens.unlearning.objectives.objective import Needs, Presets

UNITS = ("tensor", "direction")
"""What has a gate of its own: each selected matrix, or each singular direction of its increment."""


@dataclass(frozen=True, kw_only=True)
class Gates(GradientAscent):
    """Gradient ascent and descent as GradDiff, in the gates: W = RLVR - gate * (RLVR - SFT), every gate in [0, 1].

    A gate at 0 is the source's own tensor and one at 1 the SFT model's: the edit lies in the box between both models.
    That bounds the weights, and not what a mixture of them does. Gates begin half open: where the source is sure of
    itself, its gradient says nothing.
    ``price`` holds gates shut that do not matter. Gates are hard-concrete without their noise (Louizos et al.,
    arXiv:1712.01312, equations 10 to 12), the gradient straight through their ends (Bengio et al., arXiv:1308.3432):
    what the model holds at a step is the edit of that step. The learning rate is that of the gates: 0.1 where a weight
    would take 1e-4.
    """

    name = "gates"
    over = "tokens"
    summary = "learnt gates that take back what RLVR gave, and nothing more (needs --sft)"
    source = "hard-concrete gates, arXiv:1712.01312, on the increment"
    needs = Needs(retain=True, increment=True)
    presets: ClassVar[Presets] = {}

    gate: str = coefficient("what has a gate of its own: tensor, or direction", "tensor", choices=UNITS, kind="gate")
    price: float = coefficient("price of all gates being open", 0.05, least=0)
