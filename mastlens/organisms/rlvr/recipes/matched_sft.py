"""Rejection-sampled SFT, trained until it is as accurate as a GRPO run: RLVR held apart from being more accurate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.rlvr.recipe import RLVRRecipe, Run


@dataclass(frozen=True, kw_only=True)
class MatchedSFT(RLVRRecipe):
    """The control: SFT on the SFT model's own right answers, to the accuracy of a run by GRPO.

    As many responses are sampled from SFT as GRPO samples, once, to the same prompts; the right ones that ended are
    trained on until accuracy on the calibration problems reaches that of the lineage that is matched; of the last two
    measurements the nearer one is kept. The eval problems have no part in it. Advantage, loss and clipping are not
    used; ``lr`` None is the lineage's of SFT, held constant.

    Attributes:
        every: Steps between two measurements.
        most: Steps after which it is given up; the card then says what was reached.
    """

    every: int = 2
    most: int = 300

    needs_match: ClassVar[bool] = True

    def steps(self, count: int, numbers: Recipe) -> int:
        """Return the most steps that there can be."""
        return self.most

    def train(self, run: Run) -> Mapping[str, Any]:
        """Sample, keep what is right, and train until accuracy is matched."""
        from mastlens.organisms.rlvr.rejection import train_to_match

        return train_to_match(self, run)


MATCHED_SFT = MatchedSFT(
    name="matched-sft",
    summary="no RLVR: SFT on the model's own right answers, until it is as accurate as the lineage of --match",
    source="Yuan et al. 2023, arXiv:2308.01825, section 3.3; as the control of the MAST paper's pair",
)
