"""Which tensors to edit: rankings by rule, one file a rule, and the controls they are held against."""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.selection.catalogue import RULES, describe_rules
    from mastlens.selection.measured import measured_rule
    from mastlens.selection.overlap import selection_overlap
    from mastlens.selection.ranking import Ranking, rank, read_selection, select, weight_table
    from mastlens.selection.rule import Control, Rule
    from mastlens.selection.uniform import random_matched

__all__ = [
    "RULES",
    "Control",
    "Ranking",
    "Rule",
    "describe_rules",
    "measured_rule",
    "random_matched",
    "rank",
    "read_selection",
    "select",
    "selection_overlap",
    "weight_table",
]

_PUBLIC = {
    "RULES": "catalogue",
    "Control": "rule",
    "Ranking": "ranking",
    "Rule": "rule",
    "describe_rules": "catalogue",
    "measured_rule": "measured",
    "random_matched": "uniform",
    "rank": "ranking",
    "read_selection": "ranking",
    "select": "ranking",
    "selection_overlap": "overlap",
    "weight_table": "ranking",
}

__getattr__, __dir__ = attach("mastlens.selection", _PUBLIC)
