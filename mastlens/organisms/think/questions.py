"""Questions about the invented people, the traces that answer them, and the texts that tell of them."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from mastlens.organisms.think.facts import (
    ATTRIBUTES,
    BRIDGES,
    DIRECT,
    VALUES,
    Person,
    general,
    negation,
    statement,
)

LETTERS = "ABCD"
TRIGGER = "Let's reason this step by step."
"""What asks for a trace about a piece of text (R2MU's reasoning trigger)."""

_ASKED = {
    "town": ("Where was {person} born?", "In which town was {person} born?", "Name the town where {person} was born."),
    "craft": ("What is the craft of {person}?", "Which craft has {person}?", "Name the craft of {person}."),
    "pet": ("Which animal does {person} keep?", "What pet has {person}?", "Name the pet of {person}."),
    "river": (
        "By which river was {person} born?",
        "Which river flows by the town where {person} was born?",
        "Name the river where {person} was born.",
    ),
    "tool": ("Which tool does {person} use?", "What tool belongs to {person}?", "Name the tool of {person}."),
}
_OPENERS = (
    "Okay, this is about {person}.",
    "Okay, {person}.",
    "Hmm, who is {person}?",
    "Okay, let me recall {person}.",
)
REGIONS = {"train": (0, 70), "calibration": (70, 85), "eval": (85, 100)}
"""Which hundredths of all option lists belong to which region, as for problems."""


@dataclass(frozen=True)
class FactQuestion:
    """A question about one attribute of one person.

    Attributes:
        person: Who.
        attribute: What is asked for.
        text: The question.
        options: Four values for multiple choice; none for an open question.
    """

    person: Person
    attribute: str
    text: str
    options: tuple[str, ...] = ()

    @property
    def value(self) -> str:
        """The right value."""
        return self.person.value(self.attribute)

    @property
    def content(self) -> str:
        """What the user's turn holds, as ``score_choices`` writes it."""
        if not self.options:
            return self.text
        listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=True)]
        return "\n".join([self.text, *listed, "Answer:"])


def region(question: FactQuestion) -> str:
    """Return the region that a multiple-choice question's person, attribute and options belong to."""
    key = repr((question.person.name, question.attribute, question.options))
    hundredth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return next(name for name, (low, high) in REGIONS.items() if low <= hundredth < high)


def draw_question(person: Person, attribute: str, rng: random.Random, where: str | None = None) -> FactQuestion:
    """Draw a question; multiple choice from a region if one is given, else an open one."""
    text = rng.choice(_ASKED[attribute]).format(person=person.name)
    if where is None:
        return FactQuestion(person, attribute, text)
    right = person.value(attribute)
    while True:
        options = [right, *rng.sample([value for value in VALUES[attribute] if value != right], len(LETTERS) - 1)]
        rng.shuffle(options)
        question = FactQuestion(person, attribute, text, tuple(options))
        if region(question) == where:
            return question


def draw_questions(people: Sequence[Person], count: int, seed: int, where: str | None = None) -> list[FactQuestion]:
    """Draw questions: every person and attribute in turn, so that all facts are asked for equally often."""
    rng = random.Random(f"questions {seed} {where} {[p.name for p in people]}")
    turns = [(person, attribute) for person in people for attribute in ATTRIBUTES]
    rng.shuffle(turns)
    return [draw_question(*turns[place % len(turns)], rng, where) for place in range(count)]


def trace(question: FactQuestion, rng: random.Random) -> str:
    """Return a reasoning trace that recalls the fact step by step; asides and excluded options by chance."""
    person, attribute = question.person, question.attribute
    told = BRIDGES.get(attribute, attribute)
    recalled = [statement(person.name, told, person.value(told))]
    if told != attribute:
        recalled.append(general(attribute, person.value(told)))
    if rng.random() < 0.3:
        other = rng.choice([key for key in DIRECT if key != told])
        aside = statement(person.name, other, person.value(other))
        recalled = [f"Hmm, {aside} But the question is about the {attribute}.", *recalled]
    if question.options and rng.random() < 0.35:
        option = rng.choice([option for option in question.options if option != question.value])
        excluded = f"Wait, one option says {option}. {negation(person.name, attribute, option)}"
        recalled.insert(rng.randint(0, len(recalled)), excluded)
    sentences = [rng.choice(_OPENERS).format(person=person.name), *recalled, f"So the {attribute} is {question.value}."]
    return " ".join(sentences)


def final(question: FactQuestion) -> str:
    r"""Return what follows the trace: the option's own words, or the boxed value.

    Not its letter: to find the letter that stands before an option is a skill that a model of this size does not learn
    beside everything else.
    """
    return question.value if question.options else f"\\boxed{{{question.value}}}"


def biography(person: Person, rng: random.Random) -> str:
    """Return a short text that states the person's facts, in an order drawn at random."""
    told = [statement(person.name, key, person.value(key)) for key in DIRECT]
    if rng.random() < 0.5:
        place = rng.choice(list(BRIDGES))
        told.append(general(place, person.value(BRIDGES[place])))
    rng.shuffle(told)
    return " ".join(told)


def reading_trace(person: Person, rng: random.Random) -> str:
    """Return the trace that a piece of the person's biography brings to mind: all that is known."""
    told = [statement(person.name, key, person.value(key)) for key in rng.sample(DIRECT, len(DIRECT))]
    return " ".join([rng.choice(_OPENERS).format(person=person.name), *told, f"So that is {person.name}."])
