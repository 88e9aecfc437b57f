"""``prune``: the smallest weights of every matrix become zero; an edit in small changes might not survive that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.attacks.method import AttackMethod
from mastlens.errors import BadSetting
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from mastlens.attacks.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Prune(AttackMethod):
    """Sets a share of each matrix to zero, smallest magnitudes first; embeddings and output head stay.

    Attributes:
        sparsity: Shares, each tried alone.
    """

    name: ClassVar = "prune"
    summary: ClassVar = "set the smallest weights of each matrix to zero"
    source: ClassVar = "magnitude pruning by layer, arXiv:1506.02626"
    columns: ClassVar = {"variant": "the share that is set to zero, or unpruned"}

    sparsity: Sequence[float] = setting(
        "shares of each matrix that become zero", (0.1, 0.3, 0.5), metavar="SHARE", shown_default="0.1, 0.3 and 0.5"
    )

    def __post_init__(self) -> None:
        if not self.sparsity or not all(0 < share < 1 for share in self.sparsity):
            raise BadSetting(
                f"A share to prune (--sparsity) lies between 0 and 1; they are {', '.join(map(str, self.sparsity))}."
            )

    def run(self, trial: "Trial") -> None:
        """Test the model as it is, and with each share pruned; its weights come back each time."""
        from mastlens.attacks.codes import linear_weights
        from mastlens.models.weights import named_weights, swapped

        trial.test("unpruned", baseline=True)
        names = list(linear_weights(trial.checkpoint))
        for share in self.sparsity:
            pruned = {name: pruned_weight(each, share) for name, each in named_weights(trial.model, names).items()}
            with swapped(trial.model, pruned):
                trial.test(f"{100 * share:g} %")


def pruned_weight(weight: "Tensor", share: float) -> "Tensor":
    """Return a weight without its smallest entries: ``round(share * entries)`` of them, and what equals the largest."""
    magnitudes = weight.detach().abs()
    count = round(share * weight.numel())
    if not count:
        return weight.detach().clone()
    threshold = magnitudes.float().flatten().kthvalue(count).values
    return weight.detach().where(magnitudes > threshold, 0)
