"""``samples``: what the first answer hides, one of many may say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.attacks.method import AttackMethod
from mastlens.errors import BadSetting
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    from mastlens.attacks.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Samples(AttackMethod):
    """Draws many responses an item and asks whether any of k is right: the unbiased estimate of pass@k.

    Attributes:
        ks: Each k, at least 2.
        draws: Responses drawn an item; None for as many as the largest k.
        temperature: What logits are divided by.
        top_p: The nucleus.
    """

    name: ClassVar = "samples"
    summary: ClassVar = "draw many responses: is any of k right?"
    source: ClassVar = "pass@k, arXiv:2107.03374, equation 1; leakage under sampling"
    columns: ClassVar = {
        "variant": "any of so many, or greedy",
        "accuracy": "share of items of which any of k is right, estimated from all draws",
    }

    ks: Sequence[int] = setting(
        "how many responses, of which any may be right", (4, 16), flag="--k", metavar="K", shown_default="4 and 16"
    )
    draws: int | None = setting("responses drawn an item, by default as many as the largest --k", None)
    temperature: float = setting("what logits are divided by", 1.0)
    top_p: float = setting("the nucleus: the likeliest tokens that have this probability together", 1.0)

    def __post_init__(self) -> None:
        from mastlens.decoding.sampling import Sampling

        if not self.ks or min(self.ks) < 2:
            raise BadSetting(
                f"Any of k (--k) takes at least 2 responses; they are {', '.join(map(str, self.ks)) or 'none'}. Of 1 "
                "there is no other to look at: what one drawn response says, mastlens evaluate --samples measures."
            )
        if self.number < max(self.ks):
            raise BadSetting(f"Any of {max(self.ks)} (--k) cannot be told from {self.number} responses (--draws).")
        Sampling(self.temperature, self.top_p)

    @property
    def number(self) -> int:
        """Responses drawn an item."""
        return max(self.ks) if self.draws is None else self.draws

    def run(self, trial: "Trial") -> None:
        """Test the model greedily, then let it draw."""
        from mastlens.attacks.drawing import any_of, draw
        from mastlens.decoding.sampling import Sampling

        trial.test("greedy", baseline=True)
        plain = trial.tables[-1]
        drawn = draw(trial, self.number, Sampling(self.temperature, self.top_p, trial.seed))
        for k in sorted(set(self.ks)):
            trial.keep(f"any of {k}", any_of(drawn, k, plain))
