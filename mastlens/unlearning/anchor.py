"""Settings of the elastic anchor that holds what is shared to the source. No torch here."""

import math
from dataclasses import dataclass

from mastlens.errors import BadSetting
from mastlens.runs.settings import setting

GROUP = "held to the source (SETA)"


@dataclass(frozen=True)
class Anchor:
    """How what the forget side shares with the rest is pulled back to the source (SETA, arXiv:2606.07500, section 3).

    The selected matrices are cut into blocks. Those that are the forget side's own move freely: the largest by SETA's
    score of the mean gradients at the source, without those that the retain side's own score keeps. All others are the
    shared part, anchored by a term of the loss, the sum of ``strength (1 + tanh(|W - V| / |V|)) |W - V|^2`` over its
    blocks, V the source's. What has drifted further is pulled harder; that weight is a constant to the gradient. The
    paper's factor for the number of earlier tasks is 1 here: there is one, the retain side.

    Attributes:
        strength: lambda; in the paper lambda_base, whose value it does not give.
        block: Rows and columns of a block; those at the edges are smaller.
        keep: Share of all blocks that each side keeps; 0 anchors everything that is selected, and reads no gradient.
    """

    strength: float = setting("pull of the shared part back to the source (lambda of the elastic anchor)", 0.0)
    block: int = setting("rows and columns of the blocks that are free or anchored", 16)
    keep: float = setting(
        "share of all blocks that a side keeps by its gradients; 0 anchors all that is selected", 0.13
    )

    def check(self) -> None:
        """Raise unless these numbers make an anchor."""
        if not (math.isfinite(self.strength) and self.strength > 0):
            raise BadSetting(
                f"An anchor pulls with a strength above 0, it is {self.strength:g}. Give --anchor, e.g. --anchor 1, or "
                "leave --anchor-block and --anchor-keep out."
            )
        if self.block < 1 or not 0 <= self.keep < 1:
            raise BadSetting(
                f"A block has at least one row (--anchor-block {self.block}), and a share of them below 1 is kept "
                f"(--anchor-keep {self.keep:g})."
            )
