"""What a run must have before it begins, and how its texts are laid out."""

import math
from collections.abc import Sequence

from mastlens.architectures.projections import Projection
from mastlens.errors import BadSetting
from mastlens.problems.encoding import EncodedProblem
from mastlens.unlearning.objectives import Objective, OutputObjective, SteeringObjective


def check_arguments(
    objective: Objective,
    matrices: Sequence[str | Projection],
    retain: Sequence[EncodedProblem] | None,
    *,
    lr: float,
    steps: int,
    batch_size: int,
) -> None:
    """Raise for a run that makes no sense; ``retain`` counts only by being there."""
    if not matrices:
        raise BadSetting("The selection is empty: there is nothing to edit.")
    if objective.needs.retain and retain is None:
        raise BadSetting(f"The objective {objective.name} needs retain problems (--retain).")
    if isinstance(objective, OutputObjective) and objective.retain_loss == "kl" and retain is None:
        raise BadSetting("The retain term kl needs retain problems (--retain).")
    if not (math.isfinite(lr) and lr > 0):
        raise BadSetting(f"The learning rate must be a number above 0, it is {lr}.")
    if steps < 1 or batch_size < 1:
        raise BadSetting(f"Steps and batch size are at least 1; they are {steps} and {batch_size}.")


def check_orthogonal(objective: Objective, count: int, retain: Sequence[EncodedProblem] | None) -> None:
    """Raise unless a forget gradient can be made orthogonal to so many retain gradients; ``retain`` as above."""
    if count < 0:
        raise BadSetting(f"Retain gradients (--orthogonal-to-retain) are 0 or more, not {count}.")
    if count and retain is None:
        raise BadSetting("--orthogonal-to-retain needs retain problems, of whose gradients it is: give --retain.")
    if count and not isinstance(objective, OutputObjective):
        raise BadSetting(f"{objective.name} steers activations in one term: --orthogonal-to-retain does nothing there.")


def check_sides(
    objective: Objective,
    documents: int,
    traces: Sequence[Sequence[EncodedProblem]] | None,
    cot: Sequence[EncodedProblem] | None,
    reflection: Sequence[int],
) -> None:
    """Raise unless an objective has the texts beside forget and retain that it needs, and no others.

    Args:
        objective: The objective.
        documents: Number of forget documents.
        traces: For each forget document its traces.
        cot: Chains of thought to keep.
        reflection: Tokens of the reflection token penalty.
    """
    name = objective.name
    words = objective.reflection_words if isinstance(objective, SteeringObjective) else ""
    for what, option, given, needed in (
        ("reasoning traces of the forget texts", "--traces", traces, objective.needs.traces),
        ("chains of thought to keep", "--cot", cot, objective.needs.cot),
        ("tokens of reflection words", "--reflection", reflection or None, bool(words)),
    ):
        if needed and given is None:
            raise BadSetting(f"The objective {name} needs {what} ({option}).")
        if given is not None and not needed and not (option == "--cot" and objective.needs.traces):
            raise BadSetting(f"The objective {name} does nothing with {what} ({option}): leave them out.")
    if traces is not None and len(traces) != documents:
        raise BadSetting(f"There are {documents} forget documents and traces of {len(traces)}: give each its own.")
    if traces is not None and not any(len(trace.solution) for each in traces for trace in each):
        raise BadSetting("All traces are empty: there is nothing to steer. Generate them anew: mastlens traces.")
    if cot is not None and not cot:
        raise BadSetting("There are no chains of thought to keep: give at least one.")
    for problem in [*(cot or []), *(trace for each in traces or [] for trace in each)]:
        if not problem.solution:
            raise BadSetting("A trace or chain of thought without a token has nothing to be read: leave it out.")


def whole(problem: EncodedProblem) -> EncodedProblem:
    """Return a problem all of whose tokens count."""
    return EncodedProblem((), problem.prompt + problem.solution)


def numbered(traces: Sequence[Sequence[EncodedProblem]]) -> tuple[list[EncodedProblem], list[list[int]]]:
    """Return all traces in one list, and for each document the places of its own."""
    flat: list[EncodedProblem] = []
    places: list[list[int]] = []
    for each in traces:
        places.append(list(range(len(flat), len(flat) + len(each))))
        flat += each
    return flat, places
