"""Responses, accuracy and log-probabilities of a model on problems, and what changed between two of them."""

from mastlens.evaluation.comparison import Comparison, compare, compare_tables
from mastlens.evaluation.perplexity import neutral_perplexity
from mastlens.evaluation.responses import Evaluation, evaluate, evaluate_model

__all__ = [
    "Comparison",
    "Evaluation",
    "compare",
    "compare_tables",
    "evaluate",
    "evaluate_model",
    "neutral_perplexity",
]
