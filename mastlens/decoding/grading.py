"""Grading as mathematics, by one function."""

from mastlens.decoding.equivalence import equivalent
from mastlens.decoding.graders import Grade, find_grader

__all__ = ["Grade", "equivalent", "grade"]


def grade(response: str, gold: str) -> Grade:
    r"""Grade a response against the gold answer.

    Args:
        response: What the model wrote.
        gold: The answer alone, without ``\boxed`` or dollar signs.
    """
    return find_grader().grade(response, gold)
