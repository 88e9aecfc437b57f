"""Reasoning-aware representation misdirection unlearning."""

from dataclasses import dataclass
from typing import ClassVar

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import Needs, Presets
from mastlens.unlearning.objectives.r2mu_v0 import UnthinkingRMU
from mastlens.unlearning.objectives.rmu import LLAMA_8B
from mastlens.unlearning.objectives.steering import PAPER


@dataclass(frozen=True, kw_only=True)
class R2MU(UnthinkingRMU):
    """R2MU-v0, and chains of thought about other things keep their activations, so that reasoning stays."""

    name = "r2mu"
    summary = "r2mu-v0, and the activations of chains of thought kept (arXiv:2506.12963)"
    needs = Needs(before=True, retain=True, traces=True, cot=True)
    presets: ClassVar[Presets] = {
        "paper": {"texts": PAPER, "unthink_weight": 1.0, "cot_weight": 1.0},
        "release": {**LLAMA_8B, "unthink_weight": 1.0, "cot_weight": 1.0},
    }

    cot_weight: float = coefficient("weight of the chain-of-thought term (the paper's beta)", 1.0, least=0)

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights of the terms beside forget and retain."""
        return super().term_weights | {"cot": self.cot_weight}
