"""``interpolate``: on the straight line to the source; how near to it is the skill back?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.attacks.method import AttackMethod
from mastlens.errors import BadSetting, NotTogether
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from mastlens.attacks.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Interpolate(AttackMethod):
    """Moves what the edit changes some of the way to the source's values; a control goes the same way.

    The source itself stays where it is. A control moved to the source's values in the same tensors says what these
    values alone do in a model that never had the skill.

    Attributes:
        towards: Shares of the way, each tried alone.
    """

    name: ClassVar = "interpolate"
    summary: ClassVar = "move what the edit changes towards the source's values"
    source: ClassVar = "linear mode connectivity, arXiv:1912.05671"
    needs_source: ClassVar = True
    columns: ClassVar = {"variant": "the share of the way to the source; 0 % is the model as it is"}

    towards: Sequence[float] = setting(
        "shares of the way to the source",
        (0.25, 0.5, 0.75, 1.0),
        metavar="SHARE",
        shown_default="a quarter, half, three quarters and all",
    )

    def __post_init__(self) -> None:
        if not self.towards or not all(0 < share <= 1 for share in self.towards):
            raise BadSetting(
                "A share of the way to the source (--towards) is above 0 and at most 1; they are "
                f"{', '.join(map(str, self.towards))}."
            )

    def run(self, trial: "Trial") -> None:
        """Test the model as it is, and at each place on the way; its weights come back each time."""
        from mastlens.models.weights import named_weights, swapped

        trial.test("0 %", baseline=True)
        for share in self.towards:
            weights = named_weights(trial.model, list(trial.originals))
            with swapped(trial.model, {n: between(weights[n], there, share) for n, there in trial.originals.items()}):
                trial.test(f"{100 * share:g} %")


def between(here: "Tensor", there: "Tensor", share: float) -> "Tensor":
    """Return the weight at a share of the way, computed in float64: at 0 and at 1 the two themselves, bit for bit.

    Raises:
        MastlensError: If they differ in shape.
    """
    from mastlens.edits.composition import interpolated

    if here.shape != there.shape:
        raise NotTogether(
            f"A tensor that the edit changes is {tuple(there.shape)} in the source and {tuple(here.shape)} in the "
            "model that is moved: they have no line between them. Give a model of the same architecture."
        )
    return interpolated("a tensor", here.detach(), there.to(here), share)
