"""How many dimensions count as principal: a fixed number, a fraction of the size, or an energy threshold."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.errors import BadSetting


@dataclass(frozen=True)
class RankRule:
    """The rule by which the rank k of a principal subspace is chosen.

    Attributes:
        kind: ``fixed`` (k itself), ``fraction`` (of the smaller dimension, rounded down, at least 1) or ``energy``
            (the smallest k whose singular values hold that share of the sum of squares).
        value: k, or the fraction, or the share in (0, 1].
    """

    kind: Literal["fixed", "fraction", "energy"]
    value: float

    @classmethod
    def parse(cls, rule: "str | int | float | RankRule") -> "RankRule":
        """Read a rule as it is written: ``16`` is fixed, ``0.1`` a fraction of the size, ``90%`` an energy threshold.

        Raises:
            MastlensError: For anything else, with what is possible.
        """
        if isinstance(rule, RankRule):
            return rule
        text = str(rule).strip()
        try:
            if isinstance(rule, bool):
                raise ValueError
            if text.endswith("%"):
                parsed = cls("energy", float(text[:-1]) / 100)
            elif text.lstrip("+-").isdigit():
                parsed = cls("fixed", float(int(text)))
            else:
                parsed = cls("fraction", float(text))
        except ValueError:
            parsed = None
        if parsed is None or not (parsed.value >= 1 if parsed.kind == "fixed" else 0 < parsed.value <= 1):
            raise BadSetting(
                f"{text!r} is not a rank. Give a whole number from 1 (16: so many dimensions), a fraction (0.1: of the "
                "smaller dimension), or a percentage (90%: as many as hold that share of the energy)."
            )
        return parsed

    def __str__(self) -> str:
        if self.kind == "fixed":
            return str(int(self.value))
        return f"{self.value * 100:g}%" if self.kind == "energy" else repr(float(self.value))

    @property
    def needs_spectrum(self) -> bool:
        """Whether ``resolve`` needs all singular values, and with them a full decomposition."""
        return self.kind == "energy"

    def resolve(self, rows: int, cols: int, singular_values: Float[Tensor, " smaller"] | None = None) -> int:
        """Return k for a matrix of this size.

        Args:
            rows: Its rows.
            cols: Its columns.
            singular_values: All of its singular values, descending; an energy threshold needs them.

        Raises:
            MastlensError: If k is larger than the smaller dimension, or a zero matrix has no energy to share.
        """
        smaller = min(rows, cols)
        if self.kind == "fraction":
            return max(1, math.floor(self.value * smaller + 1e-9))
        if self.kind == "energy":
            if singular_values is None:
                raise ValueError("An energy threshold needs all singular values.")
            return energy_rank(singular_values, self.value)
        if self.value > smaller:
            raise BadSetting(
                f"Rank {self} does not fit a matrix of {rows} x {cols}: from 1 to {smaller}, or a fraction such as "
                "0.1, which fits every size."
            )
        return int(self.value)


def energy_rank(singular_values: Float[Tensor, " smaller"], share: float) -> int:
    """Return the smallest k whose largest singular values hold ``share`` of the sum of squares.

    Raises:
        MastlensError: If all singular values are zero.
    """
    energy = singular_values.double().square().cumsum(0)
    if not float(energy[-1]) > 0:
        raise BadSetting("A zero matrix has no principal directions; give the rank as a number.")
    # A hair of slack: the whole energy is reached at the last value that is not rounding.
    reached = energy >= share * float(energy[-1]) * (1 - 4 * torch.finfo(torch.float64).eps)
    return int(reached.to(torch.uint8).argmax()) + 1
