"""Which tensors to edit: rankings by rule, one file a rule, and the controls they are held against."""

from mastlens.selection.ranking import RULES, Ranking, rank, rank_tables, read_selection
from mastlens.selection.uniform import random_matched

__all__ = ["RULES", "Ranking", "random_matched", "rank", "rank_tables", "read_selection"]
