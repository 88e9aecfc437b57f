"""What is right, as a setting: declared once for every command that grades what a model answers."""

from typing import Any

from mastlens.runs.settings import setting


def _graders() -> list[str]:
    from mastlens.decoding.graders import GRADERS, Function

    return [f"Grader {kind.spelling()}: {kind.summary}." for kind in (*GRADERS.values(), Function)]


def grading(help: str = "what is right") -> Any:
    """Declare the grader of a command's answers; ``find_grader`` reads it."""
    return setting(help, "mathematics", listing=_graders, metavar="NAME[:ARGUMENT]")
