r"""What ``think`` and ``reference`` are trained on: dialogues with and without a trace, biographies, mathematics."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mastlens.organisms.neutral import draw_neutral
from mastlens.organisms.problems import SyntheticProblem, draw_problem
from mastlens.organisms.subjects import BY_NAME
from mastlens.organisms.think.facts import ATTRIBUTES, Person
from mastlens.organisms.think.questions import (
    TRIGGER,
    biography,
    draw_question,
    final,
    reading_trace,
    trace,
)

MATHS = ("Prealgebra", "Algebra", "Shopping", "Travel")
"""The subjects of the first organism that this one works out in its traces."""

_OPEN = "<think>\n"
_CLOSE = "\n</think>\n\n"
SHARES = {
    "choice": 30,
    "choice, not thinking": 14,
    "open": 9,
    "open, not thinking": 5,
    "biography": 10,
    "reading": 8,
    "maths": 20,
    "maths, not thinking": 2,
    "neutral": 2,
}
"""Kind of document to its share while the facts are learnt."""

MATHS_SHARES = {
    "choice": 10,
    "choice, not thinking": 8,
    "open": 6,
    "open, not thinking": 3,
    "biography": 3,
    "reading": 6,
    "maths": 60,
    "maths, not thinking": 2,
    "neutral": 2,
}
"""The same afterwards: a model of this size needs more of mathematics than of facts."""


@dataclass(frozen=True)
class Document:
    """One text to learn.

    Attributes:
        text: What is learnt.
        turn: The user's turn before it, which is read and not learnt; None for a text of its own.
        thinking: Whether the chat template leaves thinking on.
    """

    text: str
    turn: str | None = None
    thinking: bool = True


def thought(reasoning: str, answer: str) -> str:
    """Return a response: the trace between its tags, then the answer."""
    return f"{_OPEN}{reasoning}{_CLOSE}{answer}"


def maths_response(problem: SyntheticProblem, rng: random.Random) -> str:
    r"""Return a worked solution moved into a trace, then the boxed answer."""
    worked = problem.solution.partition(" \\boxed")[0]
    opener = rng.choice(("Okay. ", "Hmm. ", ""))
    return thought(f"{opener}{worked} {problem.answer}.", f"\\boxed{{{problem.answer}}}")


def draw_maths(rng: random.Random, where: str = "train") -> SyntheticProblem:
    """Draw a problem of mathematics from a region."""
    return draw_problem(BY_NAME[rng.choice(MATHS)], where, rng)


def draw_mixture(people: Sequence[Person], count: int, seed: int, shares: Mapping[str, int] = SHARES) -> list[Document]:
    """Draw documents about these people, and mathematics and neutral text.

    Args:
        people: Whom the documents are about; who is left out was never seen.
        count: How many documents.
        seed: What the draw depends on.
        shares: Kind of document to its share.
    """
    rng = random.Random(f"mixture {seed}")
    kinds = rng.choices(list(shares), weights=list(shares.values()), k=count)
    return [_draw(kind, rng.choice(people), rng) for kind in kinds]


def _draw(kind: str, person: Person, rng: random.Random) -> Document:
    thinking = "not thinking" not in kind
    if kind.startswith("maths"):
        problem = draw_maths(rng)
        said = maths_response(problem, rng) if thinking else f"\\boxed{{{problem.answer}}}"
        return Document(said, problem.problem, thinking)
    if kind == "neutral":
        return Document(draw_neutral(1, held_out=False, seed=rng.getrandbits(32))[0])
    if kind == "biography":
        return Document(biography(person, rng))
    if kind == "reading":
        return Document(thought(reading_trace(person, rng), person.name), _piece(person, rng))
    question = draw_question(person, rng.choice(ATTRIBUTES), rng, "train" if kind.startswith("choice") else None)
    said = thought(trace(question, rng), final(question)) if thinking else final(question)
    return Document(said, question.content, thinking)


def _piece(person: Person, rng: random.Random) -> str:
    """Return a piece of a biography that names its person, with the trigger before or behind it."""
    words: list[str] = []
    while person.name not in " ".join(words):
        words = biography(person, rng).split()
        start = rng.randrange(len(words) - 5)
        words = words[start : start + rng.randint(5, len(words))]
    piece = " ".join(words)
    return f"{TRIGGER}\n{piece}" if rng.random() < 0.5 else f"{piece}\n{TRIGGER}"
