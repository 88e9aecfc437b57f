"""Responses, accuracy and log-probabilities of a model on problems, and what an edit changed of them."""

from mastlens.evaluation.collateral import Collateral, measure_collateral
from mastlens.evaluation.comparison import Comparison, compare, compare_tables, grade_disagreements
from mastlens.evaluation.forgetting import EditComparison, compare_edits
from mastlens.evaluation.perplexity import neutral_perplexity
from mastlens.evaluation.responses import Evaluation, evaluate, evaluate_model
from mastlens.models.divergence import token_divergence

__all__ = [
    "Collateral",
    "Comparison",
    "EditComparison",
    "Evaluation",
    "compare",
    "compare_edits",
    "compare_tables",
    "evaluate",
    "evaluate_model",
    "grade_disagreements",
    "measure_collateral",
    "neutral_perplexity",
    "token_divergence",
]
