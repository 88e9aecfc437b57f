"""STARE: surprising tokens weigh more in good responses (and less in bad ones) while the policy's entropy is low."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mastlens.errors import BadSetting
from mastlens.organisms.rlvr.recipe import RLVRRecipe, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

_EXACT = 1e-9  # 0.1 * 30 is a little more than 3, and three tokens are a tenth of thirty


@dataclass(frozen=True, kw_only=True)
class Stare(RLVRRecipe):
    """GRPO whose advantages are re-weighted token by token.

    Of the tokens with positive advantage the ``top`` share by surprisal, of the whole batch, weighs ``raised``; of
    those with negative advantage it weighs ``lowered``. Both only while the batch's mean entropy is below the target. A
    weight above 0 times the advantage is that weight times the clipped loss, which the authors' code multiplies. Their
    code takes the top share of each micro-batch, so that results depend on its size; this one takes it of the batch.

    Attributes:
        top: Share of the tokens of a sign, rounded up, at least one.
        raised: Weight W of surprising tokens in good responses.
        lowered: Weight M of surprising tokens in bad ones; 1 in the variant O1.
        target_entropy: Of the batch, mean over tokens, in nats: above it nothing is re-weighted.
        rate: By how much W and M move towards more entropy, or back, each round; 0 keeps them.
        most: Largest W.
        least: Smallest M.
    """

    top: float = 0.1
    raised: float = 1.1
    lowered: float = 1.0
    target_entropy: float = 0.3
    rate: float = 0.0
    most: float = 1.5
    least: float = 0.5

    reads_policy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the weights, too."""
        super().__post_init__()
        if not (0 < self.top <= 1 and 1 <= self.raised <= self.most and 0 < self.least <= self.lowered <= 1):
            raise BadSetting(
                f"Of the recipe {self.name}, top lies in (0, 1], raised in [1, most], lowered in [least, 1]."
            )

    def advantages(self, rollouts: Rollouts) -> "Tensor":
        """Return each token's re-weighted advantage, or each response's own where entropy is high enough."""
        assert rollouts.logprobs is not None
        assert rollouts.entropies is not None
        counted = rollouts.mask.bool()
        entropy = float(rollouts.entropies[counted].double().mean())
        low = entropy < self.target_entropy
        up, down = self._weights(rollouts.state, low)
        rollouts.noted.update(gate=float(low), weight_raised=up, weight_lowered=down)
        if not low:
            return rollouts.advantages
        spread = rollouts.advantages[:, None].expand_as(rollouts.logprobs)
        weights = spread.new_ones(spread.shape)
        for weight, among in ((up, counted & (spread > 0)), (down, counted & (spread < 0))):
            weights[most_surprising(rollouts.logprobs, among, self.top)] = weight
        return spread * weights

    def _weights(self, state: dict[str, float], low: bool) -> tuple[float, float]:
        """Move the weights by the rate, before they are used, and return them; M stays 1 in the variant O1."""
        towards = self.rate if low else -self.rate
        up, down = state.get("raised", self.raised), state.get("lowered", self.lowered)
        up = min(max(up + towards, 1.0), self.most)
        down = down if self.lowered == 1 else min(max(down - towards, self.least), 1.0)
        state.update(raised=up, lowered=down)
        return up, down


def most_surprising(logprobs: "Tensor", among: "Tensor", share: float) -> "Tensor":
    """Return where the least probable of some tokens are, as a mask.

    Args:
        logprobs: Of each token.
        among: Which tokens there are to choose from.
        share: How many of them, rounded up; of equal ones the first.
    """
    import torch

    places = among.flatten().nonzero().squeeze(1)
    chosen = torch.zeros_like(among).flatten()
    if len(places):
        order = torch.argsort(logprobs.flatten()[places], stable=True)
        chosen[places[order[: max(1, math.ceil(len(places) * share - _EXACT))]]] = True
    return chosen.view_as(among)


STARE_O1 = Stare(
    name="stare-o1",
    summary="STARE, one-sided: the most surprising tokens of good responses weigh more while entropy is low",
    source="STARE 2026, arXiv:2606.19236, sections 4.2 and 4.3, algorithm 1",
    clip_high=0.28,
    dual_clip=10.0,
)

STARE_C2 = replace(
    STARE_O1, name="stare-c2", summary="STARE, two-sided: and those of bad responses weigh less", lowered=0.9
)
