"""Gradient difference."""

from dataclasses import dataclass
from typing import ClassVar

from mastlens.unlearning.objectives.ga import GradientAscent
from mastlens.unlearning.objectives.objective import Needs, Presets


@dataclass(frozen=True, kw_only=True)
class GradientDifference(GradientAscent):
    """Gradient ascent on the forget solutions and descent on the retain solutions."""

    name = "graddiff"
    summary = "gradient ascent with a retain term (GradDiff)"
    source = "Liu et al. 2022, arXiv:2203.12817"
    needs = Needs(retain=True)
    presets: ClassVar[Presets] = {"mast": {}, "open-unlearning": {"gamma": 1.0, "retain_weight": 1.0}}
