"""RMU on reasoning traces too."""

from dataclasses import dataclass
from typing import ClassVar

from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import Needs, Presets
from mastlens.unlearning.objectives.rmu import LLAMA_8B, RMU
from mastlens.unlearning.objectives.steering import PAPER
from mastlens.unlearning.token_weights import TokenWeights


@dataclass(frozen=True, kw_only=True)
class UnthinkingRMU(RMU):
    """RMU, and the model's own reasoning traces about the forget texts are steered as these are."""

    name = "r2mu-v0"
    summary = "rmu, and the activations of reasoning traces steered too (arXiv:2506.12963)"
    source = "arXiv:2506.12963"
    needs = Needs(before=True, retain=True, traces=True)
    presets: ClassVar[Presets] = {
        "paper": {"texts": PAPER, "unthink_weight": 1.0},
        "release": {**LLAMA_8B, "unthink_weight": 1.0},
    }

    unthink_weight: float = coefficient("weight of the trace term (the paper's alpha)", 1.0, least=0)
    token_weights: TokenWeights | None = coefficient("learn which tokens of the traces to steer (ATWU)", None)

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights of the terms beside forget and retain."""
        return super().term_weights | {"trace": self.unthink_weight}
