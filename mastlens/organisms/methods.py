"""Arithmetic methods: how operands are drawn and which small steps lead from them to the answer."""

import random
from collections.abc import Callable

Operands = tuple[int, ...]
"""What a problem is made of, in the order in which the phrasings name it."""

Step = tuple[int, str, int, int]
"""One line of working: ``(a, op, b, c)`` says that ``a op b = c``."""

APPLY: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}
"""The operations of a step; divisions always come out even."""


def pair(first: int, second: int) -> tuple[int, int]:
    """Return a commutative pair in canonical order."""
    return (min(first, second), max(first, second))


def chain(start: int, *moves: tuple[str, int]) -> list[Step]:
    """Return steps that carry each result into the next one."""
    steps, value = [], start
    for op, operand in moves:
        result = APPLY[op](value, operand)
        steps.append((value, op, operand, result))
        value = result
    return steps


def chained(*ops: str) -> Callable[[Operands], list[Step]]:
    """Return the method that takes the operands in the order given, one operation after another."""
    return lambda operands: chain(operands[0], *zip(ops, operands[1:], strict=True))


def numeral_steps(o: Operands) -> list[Step]:
    """Read the numeral by its places, then add one number and take one away."""
    base, tens, units, added, taken = o
    return chain(tens, ("*", base), ("+", units), ("+", added), ("-", taken))


def algebra_steps(o: Operands) -> list[Step]:
    """Undo the equation from outside: take the constant away, divide, add the shift."""
    factor, shift, added, total = o
    return chain(total, ("-", added), ("/", factor), ("+", shift))


def draw_algebra(rng: random.Random) -> Operands:
    """Draw an equation with a whole solution."""
    factor, quotient, shift, added = between(rng, (2, 9), (2, 9), (1, 9), (1, 9))
    return factor, shift, added, factor * quotient + added


def composition_steps(o: Operands) -> list[Step]:
    """Apply the inner function, then the outer one."""
    factor, added, shift, x = o
    return chain(x, ("-", shift), ("*", factor), ("+", added))


def draw_composition(rng: random.Random) -> Operands:
    """Draw two functions whose inner value is one digit."""
    factor, added, shift, inner = between(rng, (2, 9), (1, 9), (2, 9), (2, 9))
    return factor, added, shift, inner + shift


def sequence_steps(o: Operands) -> list[Step]:
    """Count the gaps before the term, multiply, add the first term, take the last number away."""
    first, difference, index, taken = o
    return chain(index, ("-", 1), ("*", difference), ("+", first), ("-", taken))


def draw_sharing(rng: random.Random) -> Operands:
    """Draw two heaps that split into equal parts."""
    bags, each, second, price = between(rng, (2, 9), (2, 9), (2, 9), (2, 9))
    return bags * each - second, second, bags, price


def savings_steps(o: Operands) -> list[Step]:
    """Multiply what a week leaves by the weeks and add the start."""
    start, earned, spent, weeks = o
    return chain(earned, ("-", spent), ("*", weeks), ("+", start))


def draw_savings(rng: random.Random) -> Operands:
    """Draw a week that leaves between two and nine coins."""
    start, net, spent, weeks = between(rng, (2, 9), (2, 9), (2, 9), (2, 9))
    return start, net + spent, spent, weeks


def draw_numeral(rng: random.Random) -> Operands:
    """Draw a two-digit numeral in a base from five to nine."""
    base = rng.randint(5, 9)
    return (base, *between(rng, (1, base - 1), (1, base - 1), (2, 9), (2, 9)))


def between(rng: random.Random, *ranges: tuple[int, int]) -> Operands:
    """Draw one number from each range, bounds included."""
    return tuple(rng.randint(low, high) for low, high in ranges)
