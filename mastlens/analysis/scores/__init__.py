"""Scores that the tables do not hold: what each tensor did between SFT and RLVR, measured by a pass of its own."""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.analysis.scores.catalogue import SCORERS
    from mastlens.analysis.scores.scorer import Scorer, Scoring, increments, inner

__all__ = ["SCORERS", "Scorer", "Scoring", "increments", "inner"]

_PUBLIC = {
    "SCORERS": "catalogue",
    "Scorer": "scorer",
    "Scoring": "scorer",
    "increments": "scorer",
    "inner": "scorer",
}

__getattr__, __dir__ = attach("mastlens.analysis.scores", _PUBLIC)
