r"""Grading of final answers: strict as text, tolerant as mathematics (math-verify).

A response is graded on what follows ``</think>`` where it has that mark. Its answer is the last ``\\boxed{}``, or
what follows the last ``####``, or, for the tolerant grade alone, what math-verify finds.
"""

import re
from dataclasses import dataclass

from mastlens.decoding.equivalence import equivalent

_INTEGER = re.compile(r"[+-]?\d{1,15}")
# Longer than any answer.
_LONGEST = 400


@dataclass(frozen=True)
class Grade:
    """Whether an answer is right.

    Attributes:
        correct: Equal as mathematics.
        strict: Equal as text, white space aside.
        answer: The answer that was found; None where there is none.
    """

    correct: bool
    strict: bool
    answer: str | None


def boxed(text: str) -> str | None:
    r"""Return what stands in the last complete ``\boxed{...}`` of ``text``, braces balanced, or None."""
    end = len(text)
    while (start := text.rfind(r"\boxed{", 0, end)) >= 0:
        depth = 0
        for place in range(start + len(r"\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start + len(r"\boxed{") : place].strip()
        end = start  # cut off inside: an earlier one may be complete
    return None


def final_answer(response: str) -> str | None:
    r"""Return the response's answer: the last ``\boxed{}``, else what follows the last ``####``, else None."""
    text = response.rpartition("</think>")[2]
    if (answer := boxed(text)) is not None:
        return answer
    _, mark, rest = text.rpartition("####")
    return rest.strip().replace(",", "") if mark else None


def grade(response: str, gold: str) -> Grade:
    r"""Grade a response against the gold answer.

    Args:
        response: What the model wrote.
        gold: The answer alone, without ``\boxed`` or dollar signs.
    """
    answer = final_answer(response)
    strict = answer is not None and "".join(answer.split()) == "".join(gold.split())
    if strict:
        return Grade(True, True, answer)
    if answer is not None and _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold.strip()):
        return Grade(int(answer) == int(gold), False, answer)
    candidate = response.rpartition("</think>")[2][-2000:] if answer is None else rf"\boxed{{{answer}}}"
    if answer is not None and len(answer) > _LONGEST:
        return Grade(False, False, answer)
    return Grade(equivalent(gold.strip(), candidate), False, answer)
