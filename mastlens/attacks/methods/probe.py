"""``probe``: what the answers no longer show, the hidden states may still know."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.attacks.method import AttackMethod
from mastlens.errors import BadSetting
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    from mastlens.attacks.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Probe(AttackMethod):
    """Asks a linear probe on the states of each layer which of two workings a problem needs.

    A problem is read with its own reference solution and with another problem's, of the same subject where it has
    one: each solution is read once as the right working and once as a wrong one, so that neither a problem nor a
    solution alone tells which it is. The probe, a ridge regression on the mean state over the solution, learns it
    from ``train``; of a tested problem it is right if it puts the problem's own solution above the other. Chance is
    one half; the same probe trained on shuffled labels stands beside it. A model without the skill says how much the
    text alone tells.

    Attributes:
        penalty: Of the ridge regression, in units of the number of training texts.
    """

    name: ClassVar = "probe"
    summary: ClassVar = "a linear probe on hidden states: which of two workings does the problem need?"
    source: ClassVar = "linear probes with control tasks, arXiv:1610.01644, arXiv:1909.03368"
    needs: ClassVar = ("train",)
    uses: ClassVar = {"train": "problems to train the probe on"}
    columns: ClassVar = {
        "variant": "the layer, from 0; or the layer with shuffled labels, which is chance",
        "accuracy": "share of problems whose own solution the probe puts above another's; chance is one half",
    }

    penalty: float = setting("of the probe's ridge regression, in units of the number of texts", 1.0)

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise BadSetting(f"The penalty of the probe (--penalty) is above 0, it is {self.penalty:g}.")

    def run(self, trial: "Trial") -> None:
        """Train and test a probe on each layer of the model."""
        from mastlens.attacks.probing import probe_layers

        for variant, items in probe_layers(trial, self.penalty):
            trial.keep(variant, items)
