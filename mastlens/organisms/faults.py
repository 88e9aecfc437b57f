"""Worked solutions with a fault in them, step by step right or wrong: what a process reward model is trained on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mastlens.decoding.steps import cut_steps
from mastlens.organisms.methods import APPLY, Step
from mastlens.organisms.problems import SyntheticProblem, draw_problem, noisy_guess, worked_solution
from mastlens.organisms.subjects import BY_NAME

CUT = "equations"
"""How the organism's solutions are cut into steps."""

_TRIES = 20  # a fault that would divide by nothing or leave the numbers that there are is drawn again


@dataclass(frozen=True)
class Labelled:
    """A solution whose steps are labelled.

    Attributes:
        problem: The problem.
        steps: The steps of the solution.
        right: Of each step, whether it and all before it are right.
    """

    problem: SyntheticProblem
    steps: tuple[str, ...]
    right: tuple[bool, ...]


def with_fault(steps: Sequence[Step], place: int, rng: random.Random) -> list[Step]:
    """Return steps of which one is wrong: its result, or the number that it takes; what builds on it carries that on.

    Args:
        steps: The right steps.
        place: The wrong one, from 0.
        rng: Where chance comes from.
    """
    for _ in range(_TRIES):
        offset = rng.choice([one for one in range(-9, 10) if one])
        a, op, b, c = steps[place]
        wrong = (a, op, b, c + offset) if rng.random() < 0.5 else (a, op, b + offset, _apply(op, a, b + offset))
        found = [*steps[:place], wrong]
        for before, (a, op, b, _) in zip(steps[place:], steps[place + 1 :], strict=False):
            first = found[-1][3] if a == before[3] else a
            found.append((first, op, b, _apply(op, first, b)))
        if found[place] != steps[place] and all(one[2] > 0 and 0 < one[3] < 100 for one in found[place:]):
            return found
    a, op, b, c = steps[place]
    return [*steps[:place], (a, op, b, c + 1), *steps[place + 1 :]]


def _apply(op: str, a: int, b: int) -> int:
    return 0 if op == "/" and not b else APPLY[op](a, b)


def labelled_solutions(
    subjects: Sequence[str],
    count: int,
    where: str,
    seed: int,
    *,
    guessed: float = 0.1,
    faulty: float = 0.5,
    guess_right: float = 0.4,
) -> list[Labelled]:
    """Draw problems of a region with labelled solutions: some right, some with one fault, some guessed outright.

    Args:
        subjects: Names of subjects, which take turns.
        count: How many.
        where: The region, a key of ``REGIONS``: a problem of another region is never drawn.
        seed: What the draw depends on.
        guessed: Share of solutions that are a guess without working; their one step is right where the answer is.
        faulty: Share of worked solutions with a fault, at a place drawn evenly.
        guess_right: Chance that a guess is right.
    """
    rng = random.Random(f"faults {where} {seed}")
    found = []
    for number in range(count):
        subject = BY_NAME[subjects[number % len(subjects)]]
        problem = draw_problem(subject, where, rng)
        if rng.random() < guessed:
            text = noisy_guess(problem, guess_right, rng)
            found.append(Labelled(problem, (text,), (f"{{{problem.answer}}}" in text,)))
            continue
        steps = subject.steps(problem.operands)
        place = rng.randrange(len(steps)) if rng.random() < faulty else len(steps) + 1
        written = with_fault(steps, place, rng) if place < len(steps) else steps
        pieces = tuple(cut_steps(worked_solution(subject, written), CUT))
        found.append(Labelled(problem, pieces, tuple(n < place for n in range(len(pieces)))))
    return found
