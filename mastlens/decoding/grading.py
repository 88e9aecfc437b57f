r"""Grading of final answers: strict as text, tolerant as mathematics (math-verify).

A response is graded on what follows ``</think>`` where it has that mark. Its answer is the last ``\\boxed{}``, or
what follows the last ``####``, or, for the tolerant grade alone, what math-verify finds.
"""

import re
from dataclasses import dataclass

from mastlens.decoding.equivalence import equivalent

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_BASE = re.compile(r"_\{?(\d+)\}?$")
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
    r"""Return what stands in the last complete ``\boxed{...}`` of ``text``, braces balanced, or None.

    Escaped braces (``\{``) are text. One pass, whatever the text.
    """
    opened: list[int | None] = []  # for each open brace: where its box begins, or None for another brace
    last: tuple[int, int] | None = None
    for token in _BRACES.finditer(text):
        if token[0] == "}":
            begin = opened.pop() if opened else None
            if begin is not None and (last is None or begin > last[0]):
                last = (begin, token.start())
        elif token[0] == "{":
            opened.append(None)
        elif token[0].startswith(r"\boxed"):
            opened.append(token.end())
    return None if last is None else text[last[0] : last[1]].strip()


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
    if answer is not None and _other_base(answer, gold):
        return Grade(False, False, answer)
    if answer is not None and len(answer) > _LONGEST:
        return Grade(False, False, answer)
    return Grade(equivalent(gold.strip(), candidate), False, answer)


def _other_base(answer: str, gold: str) -> bool:
    """Return whether both numerals name a base and the bases differ: math-verify drops the subscript."""
    bases = [_BASE.search(text.strip()) for text in (answer, gold)]
    return bases[0] is not None and bases[1] is not None and bases[0][1] != bases[1][1]
