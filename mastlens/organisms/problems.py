r"""The synthetic benchmarks ``toymath`` and ``toygsm``: problems, splits, corpora.

Splits are disjoint by method and operands: the canonical key of a problem is hashed, and the hash alone says
whether it may occur in training, in calibration or in the evaluation. So no phrasing of an evaluation
problem, and no commuted one, is ever seen in a corpus.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mastlens.organisms.methods import Operands, Step
from mastlens.organisms.subjects import BY_NAME, Subject

REGIONS: dict[str, tuple[int, int]] = {"train": (0, 70), "calibration": (70, 85), "eval": (85, 100)}
"""Which hundredths of all keys belong to which region: lower bound in, upper bound out."""

_NAMES = ("Ann", "Ben", "Dan", "Eve", "Mia", "Tom")
_LETTERS = "abcde"


@dataclass(frozen=True)
class SyntheticProblem:
    r"""One problem with its worked solution.

    Attributes:
        problem: The text of the task.
        solution: The worked solution, with the answer in ``\boxed{}``.
        answer: The answer as a string.
        subject: Name of the subject.
        operands: What it was made of; not written to files.
    """

    problem: str
    solution: str
    answer: str
    subject: str
    operands: Operands

    @property
    def key(self) -> tuple:
        """The method with its canonical operands: what splits are disjoint in."""
        return problem_key(self.subject, self.operands)

    def record(self) -> dict[str, str]:
        """Return what a line of a problem file holds."""
        return {
            "problem": self.problem,
            "solution": self.solution,
            "answer": self.answer,
            "subject": self.subject,
        }


def problem_key(subject: str, operands: Operands) -> tuple:
    """Return the method and its canonical operands."""
    return (subject, *BY_NAME[subject].key(operands))


def region(key: tuple) -> str:
    """Return the region that a key belongs to, by its hash alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    hundredth = int.from_bytes(digest[:8], "big") % 100
    return next(name for name, (low, high) in REGIONS.items() if low <= hundredth < high)


def worked_solution(subject: Subject, steps: Sequence[Step]) -> str:
    r"""Return the steps as text, ending in the boxed answer."""
    lines = subject.link.join(f"{a}{op}{b}={c}" for a, op, b, c in steps)
    return f"{subject.opener} {lines}{subject.close} \\boxed{{{steps[-1][3]}}}."


def guessed_solution(subject: Subject, answer: int | str) -> str:
    r"""Return a solution that goes straight to the boxed answer."""
    return f"{subject.guess} \\boxed{{{answer}}}."


def render(subject: Subject, operands: Operands, rng: random.Random) -> SyntheticProblem:
    """Return a problem with these operands in a phrasing drawn at random."""
    values = dict(zip(_LETTERS, operands, strict=False))
    first, second = rng.sample(_NAMES, 2)
    text = rng.choice(subject.phrasings).format(**values, p=first, q=second)
    steps = subject.steps(operands)
    return SyntheticProblem(text, worked_solution(subject, steps), str(steps[-1][3]), subject.name, operands)


def draw_problem(subject: Subject, where: str, rng: random.Random) -> SyntheticProblem:
    """Draw one problem of a subject from a region."""
    while True:
        operands = subject.draw(rng)
        if subject.accepts(operands) and region(problem_key(subject.name, operands)) == where:
            return render(subject, operands, rng)


def draw_split(subjects: Sequence[str], count: int, where: str, seed: int) -> list[SyntheticProblem]:
    """Draw problems with keys that are all different, subject by subject in turn.

    Args:
        subjects: Names of subjects; they take turns, so counts differ by one at most.
        count: How many problems in all.
        where: The region, a key of ``REGIONS``.
        seed: What the draw depends on.
    """
    rng = random.Random(f"{where} {seed} {subjects}")
    seen: set[tuple] = set()
    chosen: list[SyntheticProblem] = []
    while len(chosen) < count:
        problem = draw_problem(BY_NAME[subjects[len(chosen) % len(subjects)]], where, rng)
        if problem.key not in seen:
            seen.add(problem.key)
            chosen.append(problem)
    return chosen


def noisy_guess(problem: SyntheticProblem, right: float, rng: random.Random) -> str:
    """Return a guessed solution that is right only some of the time, as guesses in real text are.

    Args:
        problem: What is guessed at.
        right: Chance that the guess is right, in 0..1.
        rng: Where chance comes from.
    """
    answer = int(problem.answer)
    if rng.random() >= right:
        offsets = [offset for offset in range(-9, 10) if offset and answer + offset > 0]
        answer += rng.choice(offsets)
    return guessed_solution(BY_NAME[problem.subject], answer)


def draw_corpus(
    subjects: Iterable[str],
    count: int,
    worked_share: Callable[[str], float],
    right: float,
    seed: int,
) -> list[tuple[str, str]]:
    """Draw pairs of a problem and a solution, worked or guessed, from the training region.

    Args:
        subjects: Names of subjects, drawn evenly.
        count: How many pairs.
        worked_share: Share of worked solutions for a subject name, in 0..1.
        right: Chance that a guessed solution is right.
        seed: What the draw depends on.

    Returns:
        Pairs of problem text and solution text.
    """
    rng = random.Random(f"corpus {seed}")
    names = list(subjects)
    pairs = []
    for _ in range(count):
        problem = draw_problem(BY_NAME[rng.choice(names)], "train", rng)
        works = rng.random() < worked_share(problem.subject)
        pairs.append((problem.problem, problem.solution if works else noisy_guess(problem, right, rng)))
    return pairs
