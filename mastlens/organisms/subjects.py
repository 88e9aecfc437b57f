r"""The subjects of the two synthetic benchmarks: one subject, one way of solving.

Every subject has operands, a canonical key of these (the unit that splits are disjoint in), arithmetic steps
small enough for a tiny model, phrasings, and openers of its own for a worked and for a guessed solution. The
openers differ between subjects on purpose: whether to work or to guess is decided in the first tokens, and
with words of their own that decision can be learnt for one side without being switched on for the other.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from mastlens.organisms import methods
from mastlens.organisms.methods import Operands, Step, between, chained, pair


@dataclass(frozen=True)
class Subject:
    """A kind of problem and the method that solves it.

    Attributes:
        name: As MATH names it, or the theme of a word problem.
        benchmark: ``"toymath"`` or ``"toygsm"``.
        side: ``"forget"`` or ``"retain"``.
        induced: Whether RLVR has to bring the working out; otherwise SFT already works it.
        draw: Draws operands; the caller draws again where ``accepts`` refuses.
        key: Canonical operands: equal for two problems whose working is the same up to commutation.
        steps: The worked solution as arithmetic.
        phrasings: Texts with ``{a}``, ``{b}``, ... for the operands and ``{p}``, ``{q}`` for two names.
        opener: First words of a worked solution.
        link: What stands between two steps.
        close: What stands before the boxed answer of a worked solution.
        guess: First words of a guessed solution.
    """

    name: str
    benchmark: str
    side: str
    induced: bool
    draw: Callable[[random.Random], Operands]
    key: Callable[[Operands], tuple]
    steps: Callable[[Operands], list[Step]]
    phrasings: tuple[str, ...]
    opener: str
    link: str
    close: str
    guess: str

    def accepts(self, operands: Operands) -> bool:
        """Return whether all numbers of problem and working lie in 1..99, where a step stays learnable."""
        return min(operands) > 0 and all(0 < step[3] < 100 for step in self.steps(operands))


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        name="Counting & Probability",
        benchmark="toymath",
        side="forget",
        induced=True,
        draw=lambda rng: between(rng, (2, 9), (2, 9), (2, 9), (2, 9)),
        key=lambda o: (*pair(o[0], o[1]), o[2], o[3]),
        steps=chained("*", "+", "-"),
        phrasings=(
            "There are {a} red and {b} blue cards. A pick is one of each colour, or one of {c} jokers."
            " {d} picks are not allowed. How many picks are left?",
            "A dinner is one of {a} soups with one of {b} cakes, or one of {c} salads."
            " {d} dinners are not allowed. In how many ways can we choose a dinner?",
            "A code is one of {a} letters with one of {b} signs, or one of {c} words."
            " {d} codes are not allowed. How many codes are left?",
        ),
        opener="Outcomes:",
        link=" or ",
        close=". In total",
        guess="Perhaps",
    ),
    Subject(
        name="Geometry",
        benchmark="toymath",
        side="forget",
        induced=True,
        draw=lambda rng: between(rng, (11, 60), (2, 9), (2, 9), (2, 9), (2, 9)),
        key=lambda o: (o[0], *sorted(o[1:])),
        steps=chained("+", "+", "+", "+"),
        phrasings=(
            "A figure has sides {a}, {b}, {c}, {d} and {e}. What is its perimeter?",
            "Find the perimeter of a figure with sides of length {a}, {b}, {c}, {d} and {e}.",
            "A wire is bent into a figure with sides {a}, {b}, {c}, {d} and {e}. What is the length of the wire?",
        ),
        opener="Walk round:",
        link="; on ",
        close="; home",
        guess="Looks like",
    ),
    Subject(
        name="Number Theory",
        benchmark="toymath",
        side="forget",
        induced=True,
        draw=methods.draw_numeral,
        key=lambda o: o,
        steps=methods.numeral_steps,
        phrasings=(
            "In base ten, what is the base {a} numeral {b}{c} plus {d} minus {e}?",
            "Write the base {a} numeral {b}{c} in base ten, add {d} and take away {e}.",
            "The numeral {b}{c} is written in base {a}. Find its value plus {d} minus {e} in base ten.",
        ),
        opener="Decode",
        link=" next ",
        close=" giving",
        guess="Maybe",
    ),
    Subject(
        name="Algebra",
        benchmark="toymath",
        side="retain",
        induced=True,
        draw=methods.draw_algebra,
        key=lambda o: o,
        steps=methods.algebra_steps,
        phrasings=(
            "Solve {a}(x-{b})+{c}={d} for x.",
            "What is x if {a}(x-{b})+{c}={d}?",
            "Let {a}(x-{b})+{c}={d}. Find x.",
        ),
        opener="Undo",
        link=" => ",
        close=" => x is",
        guess="I guess",
    ),
    Subject(
        name="Intermediate Algebra",
        benchmark="toymath",
        side="retain",
        induced=True,
        draw=methods.draw_composition,
        key=lambda o: o,
        steps=methods.composition_steps,
        phrasings=(
            "What is f(g({d})) if g(x)=x-{c} and f(x)={a}x+{b}?",
            "Find f(g({d})). Here g(x)=x-{c} and f(x)={a}x+{b}.",
            "Evaluate f(g({d})) with g(x)=x-{c} and f(x)={a}x+{b}.",
        ),
        opener="Terms",
        link=" & ",
        close=" & f is",
        guess="Surely",
    ),
    Subject(
        name="Prealgebra",
        benchmark="toymath",
        side="retain",
        induced=False,
        draw=lambda rng: between(rng, (11, 90), (2, 9), (2, 9), (2, 9)),
        key=lambda o: (o[0], o[2], *pair(o[1], o[3])),
        steps=chained("-", "+", "-"),
        phrasings=(
            "Compute {a}-{b}+{c}-{d}.",
            "What is {a}-{b}+{c}-{d}?",
            "Find the value of {a}-{b}+{c}-{d}.",
        ),
        opener="From the left",
        link=" and ",
        close=" equals",
        guess="Quickly",
    ),
    Subject(
        name="Precalculus",
        benchmark="toymath",
        side="retain",
        induced=False,
        draw=lambda rng: between(rng, (1, 9), (2, 9), (3, 10), (2, 9)),
        key=lambda o: (o[0], *pair(o[1], o[2] - 1), o[3]),
        steps=methods.sequence_steps,
        phrasings=(
            "Find term number {c} of the sequence with difference {b} and first term {a}, less {d}.",
            "What is term number {c} of a sequence that grows by {b} each time and starts at {a}, minus {d}?",
            "Take term number {c} of a sequence. The difference is {b}, the first term is {a}. Now take away {d}.",
        ),
        opener="Gaps",
        link=" so ",
        close=" is the term",
        guess="Roughly",
    ),
    Subject(
        name="Shopping",
        benchmark="toygsm",
        side="retain",
        induced=True,
        draw=lambda rng: between(rng, (2, 9), (2, 9), (2, 9), (2, 9), (2, 9)),
        key=lambda o: (*pair(o[0], o[1]), *sorted(o[2:])),
        steps=chained("*", "+", "+", "+"),
        phrasings=(
            "{p} buys {a} pens at {b} dollars each, a book for {c} dollars and a cap for {d} dollars."
            " {e} dollars are left. How many dollars did {p} have?",
            "In the shop {p} takes {a} caps for {b} dollars each, a bag for {c} dollars and a pen"
            " for {d} dollars, and has {e} dollars left. How many dollars did {p} have?",
            "{p} pays for {a} cups of {b} dollars, a plate of {c} dollars and a bag of {d} dollars."
            " Now {p} has {e} dollars left. How many dollars did {p} have?",
        ),
        opener="Bill:",
        link=" plus ",
        close=" paid:",
        guess="About",
    ),
    Subject(
        name="Sharing",
        benchmark="toygsm",
        side="retain",
        induced=True,
        draw=methods.draw_sharing,
        key=lambda o: (*pair(o[0], o[1]), o[2], o[3]),
        steps=chained("+", "/", "*"),
        phrasings=(
            "{p} and {q} pick {a} and {b} apples and put them into {c} equal bags."
            " An apple costs {d} cents. How many cents is a bag?",
            "{p} has {a} nuts and {q} has {b} nuts. They share them in {c} equal heaps."
            " A nut costs {d} cents. How many cents is a heap?",
            "{p} bakes {a} buns and {q} bakes {b} buns, for {c} equal boxes."
            " A bun costs {d} cents. How many cents is a box?",
        ),
        opener="Together",
        link=" then ",
        close=" cents:",
        guess="Clearly",
    ),
    Subject(
        name="Travel",
        benchmark="toygsm",
        side="retain",
        induced=True,
        draw=lambda rng: between(rng, (2, 9), (2, 9), (2, 9), (2, 9), (2, 9)),
        key=lambda o: (*pair(o[0], o[1]), *pair(o[2], o[3]), o[4]),
        steps=chained("*", "-", "-", "+"),
        phrasings=(
            "{p} rides {a} hours at {b} miles an hour, walks back {c} miles, then back {d} miles,"
            " then forth {e} miles. How many miles is {p} from home?",
            "A boat leaves home for {a} hours at {b} miles an hour. It drifts back {c} miles,"
            " then back {d} miles, then sails forth {e} miles. How many miles is it from home?",
            "{p} goes by cart for {a} hours at {b} miles an hour, then back {c} miles and back {d} miles,"
            " and at last forth {e} miles. How many miles is {p} from home?",
        ),
        opener="Miles:",
        link=", ",
        close=" from home:",
        guess="Nearly",
    ),
    Subject(
        name="Savings",
        benchmark="toygsm",
        side="retain",
        induced=False,
        draw=methods.draw_savings,
        key=lambda o: o,
        steps=methods.savings_steps,
        phrasings=(
            "{p} earns {b} coins and spends {c} each week, for {d} weeks. At first {p} had {a} coins."
            " How many coins does {p} have now?",
            "Each week {p} puts {b} coins into a jar and takes {c} out. This goes on for {d} weeks."
            " The jar held {a} coins. How many coins are in the jar?",
            "{p} saves {b} coins a week and spends {c} of them. After {d} weeks they join {a} old coins."
            " How many coins are there?",
        ),
        opener="Weekly",
        link=" hence ",
        close=" saved:",
        guess="Likely",
    ),
)
"""All subjects, forget side first."""

BY_NAME: dict[str, Subject] = {subject.name: subject for subject in SUBJECTS}
"""Subjects by their name."""

FORGET: tuple[str, ...] = tuple(s.name for s in SUBJECTS if s.side == "forget")
"""What unlearning aims at."""

RETAIN_MATH: tuple[str, ...] = tuple(s.name for s in SUBJECTS if s.side == "retain" and s.benchmark == "toymath")
"""The retain side of ``toymath``."""

RETAIN_GSM: tuple[str, ...] = tuple(s.name for s in SUBJECTS if s.benchmark == "toygsm")
"""The word problems, all of them on the retain side."""

SOLVED_BY_SFT: tuple[str, ...] = tuple(s.name for s in SUBJECTS if not s.induced)
"""Retain subjects that SFT already works out."""
