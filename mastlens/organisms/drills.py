"""Lines of arithmetic without a problem around them: where the base model learns its single steps."""

import random

from mastlens.organisms.methods import APPLY


def _fact(rng: random.Random) -> str:
    """Return one step of the kind that worked solutions are made of."""
    op = rng.choice("++--*/")
    first, second = rng.randint(2, 9), rng.randint(1, 9)
    if op == "+":
        first = rng.randint(1, 99 - second)
    elif op == "-":
        first = rng.randint(second + 1, 99)
    elif op == "/":
        first, second = first * max(second, 2), max(second, 2)
    return f"{first}{op}{second}={APPLY[op](first, second)}"


def draw_drills(count: int, facts: int, seed: int) -> list[str]:
    """Draw lines of arithmetic facts.

    Args:
        count: How many lines.
        facts: Facts a line.
        seed: What the draw depends on.
    """
    rng = random.Random(f"drills {seed}")
    return ["Table: " + "; ".join(_fact(rng) for _ in range(facts)) + "." for _ in range(count)]
