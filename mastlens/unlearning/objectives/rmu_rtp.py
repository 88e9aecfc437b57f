"""RMU with a reflection token penalty."""

from dataclasses import dataclass
from typing import ClassVar

from mastlens.decoding.reflection import WORDS
from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import Presets
from mastlens.unlearning.objectives.rmu import LLAMA_8B, RMU
from mastlens.unlearning.objectives.steering import PAPER


@dataclass(frozen=True, kw_only=True)
class ReflectionPenalty(RMU):
    """RMU, and the forget texts' mean probability of the words with which a trace turns back on itself."""

    name = "rmu-rtp"
    summary = "rmu and a penalty on the probability of reflection words (arXiv:2506.12963)"
    source = "arXiv:2506.12963, appendix A.2; the mean over the list as in its code (unlearn_think.py)"
    presets: ClassVar[Presets] = {
        "paper": {"texts": PAPER, "reflection": "paper"},
        # The penalty's weight is read off a checkpoint's name.
        "release": {**LLAMA_8B, "reflection": "code", "reflection_weight": 1.0},
    }

    reflection_weight: float = coefficient("weight of the reflection token penalty", 1.0, least=0)
    reflection: str = coefficient(
        "whose list of reflection words", "code", choices=tuple(WORDS), kind="list of reflection words"
    )

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights of the terms beside forget and retain."""
        return super().term_weights | {"reflection": self.reflection_weight}

    @property
    def reflection_words(self) -> str:
        """Whose list of reflection words is penalised; empty where the penalty weighs nothing."""
        return self.reflection if self.reflection_weight else ""
