"""Responses, accuracy and log-probabilities of a model on problems, and what an edit changed of them."""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.evaluation.collateral import Collateral, measure_collateral
    from mastlens.evaluation.comparison import Comparison, compare, compare_tables, grade_disagreements
    from mastlens.evaluation.depth.scoring import Depth, depth_score
    from mastlens.evaluation.forgetting import EditComparison, compare_edits
    from mastlens.evaluation.perplexity import neutral_perplexity
    from mastlens.evaluation.responses import Evaluation, evaluate, evaluate_model

__all__ = [
    "Collateral",
    "Comparison",
    "Depth",
    "EditComparison",
    "Evaluation",
    "compare",
    "compare_edits",
    "compare_tables",
    "depth_score",
    "evaluate",
    "evaluate_model",
    "grade_disagreements",
    "measure_collateral",
    "neutral_perplexity",
]

_PUBLIC = {
    "Collateral": "collateral",
    "Comparison": "comparison",
    "Depth": "depth.scoring",
    "EditComparison": "forgetting",
    "Evaluation": "responses",
    "compare": "comparison",
    "compare_edits": "forgetting",
    "compare_tables": "comparison",
    "depth_score": "depth.scoring",
    "evaluate": "responses",
    "evaluate_model": "responses",
    "grade_disagreements": "comparison",
    "measure_collateral": "collateral",
    "neutral_perplexity": "perplexity",
}

__getattr__, __dir__ = attach("mastlens.evaluation", _PUBLIC)
