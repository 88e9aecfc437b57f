r"""Grading of final answers: strict as text, tolerant as mathematics (math-verify).

A response is graded on what follows ``</think>`` where it has that mark. Its answer is the last ``\\boxed{}``, or
what follows the last ``####``, or, for the tolerant grade alone, what math-verify finds.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from mastlens.decoding.equivalence import equivalent
from mastlens.decoding.graders.grader import Grade, Grader
from mastlens.decoding.graders.quantities import as_values
from mastlens.problems.answers import final_answer

_BASE = re.compile(r"_\{?(\d+)\}?$")
_INTEGER = re.compile(r"[+-]?\d{1,15}")
# What is written around an answer and is no part of it, before math-verify reads it.
_CURRENCY = re.compile(r"\\text\{\s*\\?\$\s*\}")
_FONT = re.compile(r"\\(?:boldsymbol|bm|pmb)(?=\s*\{)")
_TEXT_COLON = re.compile(r"\\text\{\s*:\s*\}")
_TEXT_NUMBER = re.compile(r"\\text\{\s*(-?\d+(?:\.\d+)?\s[^{}]*)\}")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])")
_WORDS = re.compile(
    r"(?P<text>\\(?:text|mbox|textrm|textbf|mathrm)\s*\{)?\s*(?P<words>[A-Za-z][A-Za-z\s'-]*[A-Za-z])\s*(?(text)\})"
)
_ALONE = ("true", "false", "yes", "no", "none", "nan", "null", "undefined")  # written in no other way
_SAID = (*_ALONE, "infinity")
_THIN_SPACE = re.compile(r"(?<=\d)(?:\\[,;: ]|~)(?=\d{3}(?!\d))")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\overline\{(\d+)\}")
_TRAILING = re.compile(r"(?:\\[,;:! ]|[.;,\s])+$")
_SCIENTIFIC = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d{1,3})(?![\w.])")
_ENCLOSED = re.compile(r"(?:\\left\s*)?(\\\{|\(|\[)[^()\[\]]*?(?:\\right\s*)?(?:\\\}|\)|\])", re.DOTALL)
# No thousands: behind one of the commas stand not just three digits.
_BARE_LIST = re.compile(r"(?!-?\d{1,3}(?:,\d{3})+$)(?:(?!\\[{}])[^()\[\],])+(?:,(?:(?!\\[{}])[^()\[\],])+)+")
# Longer than any answer.
_LONGEST = 400


@dataclass(frozen=True)
class Mathematics(Grader):
    """Equal as mathematics."""

    name: ClassVar[str] = "mathematics"
    summary: ClassVar[str] = "the answer equals the gold answer as mathematics (math-verify), whatever its form"

    def judge(self, said: str, gold: str) -> Grade:
        """Compare the last box, or what stands behind ``####``, or what math-verify finds."""
        answer = final_answer(said)
        if answer is not None and "".join(answer.split()) == "".join(gold.split()):
            return Grade(True, True, answer, "equal as text")
        if answer is not None and _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold.strip()):
            return _compared(int(answer) == int(gold), answer)
        if answer is not None and _same_words(answer, gold):
            return Grade(True, False, answer, "the same words")
        if answer is not None and any(_word(text) in _ALONE for text in (answer, gold)):
            return Grade(False, False, answer, "another word")
        if answer is not None and _other_base(answer, gold):
            return Grade(False, False, answer, "another base")
        if answer is not None and len(answer) > _LONGEST:
            return Grade(False, False, answer, f"longer than {_LONGEST} characters")
        if answer is None:
            return _compared(equivalent(_plain(gold), said[-2000:]), None)
        if (values := as_values(gold, answer)) is False or values is True:
            return Grade(values, False, answer, "the same amount" if values else "another amount or unit")
        if _braces(answer) != _braces(gold) and "" not in (_braces(answer), _braces(gold)):
            return Grade(False, False, answer, "a set is no tuple or interval")
        wanted, given = values or _in_order(gold, answer)
        return _compared(equivalent(_plain(wanted), rf"\boxed{{{_plain(given)}}}"), answer)


def _compared(equal: bool, answer: str | None) -> Grade:
    if answer is None:
        return Grade(equal, False, None, "equal as mathematics, unmarked" if equal else "no answer that is equal")
    return Grade(equal, False, answer, "equal as mathematics" if equal else "another value")


def _plain(answer: str) -> str:
    """Return the answer as math-verify reads it best; what it means stays."""
    text = _TEXT_COLON.sub(":", _FONT.sub("", _CURRENCY.sub("", answer)))
    text = _TEXT_NUMBER.sub(_numbers_outside, text)
    text = _THIN_SPACE.sub("", text).replace("~", " ").strip()
    text = _REPEATING.sub(_as_fraction, text)
    text = _SCIENTIFIC.sub(r"\1\\times 10^{\2}", text)
    return text if text.endswith(r"\right.") else _TRAILING.sub("", text)


def _numbers_outside(found: re.Match[str]) -> str:
    r"""Return ``\text{3 or 4}`` as ``3\text{ or }4``: math-verify drops what is text."""
    said = _NUMBER.sub(lambda number: rf"}}{number[0]}\text{{", found[1])
    return rf"\text{{{said}}}".replace(r"\text{}", "")


def _same_words(answer: str, gold: str) -> bool:
    """Return whether both are the same words, one of them plainly a word: letters alone may be variables."""
    said = _word(answer)
    marked = any(found and found["text"] for found in (_WORDS.fullmatch(text.strip()) for text in (answer, gold)))
    return (marked or said in _SAID) and said == _word(gold) and len(said) > 1


def _word(answer: str) -> str:
    """Return an answer that is words alone without case and blanks; empty where it is something else."""
    found = _WORDS.fullmatch(answer.strip())
    return "" if found is None else "".join(found["words"].casefold().split())


def _as_fraction(found: re.Match[str]) -> str:
    """Return a repeating decimal as a fraction, for which math-verify would take the digits as they stand."""
    whole, first, again = found.groups()
    numerator = int(whole + first + again or 0) - int(whole + first or 0)
    return rf"\frac{{{numerator}}}{{{10 ** len(first) * (10 ** len(again) - 1)}}}"


def _braces(answer: str) -> str:
    """Return ``{`` for a set, ``(`` for what stands in other brackets, and nothing where there are none around it."""
    found = _ENCLOSED.fullmatch(answer.strip())
    return "" if found is None else "{" if found[1].endswith("{") else "("


def _in_order(gold: str, answer: str) -> tuple[str, str]:
    """Return both; a bare list beside a tuple becomes one too, so that its order counts: ``1,-2`` is not ``(-2,1)``."""
    if _braces(answer) == "(" and _BARE_LIST.fullmatch(_plain(gold)):
        return f"({gold})", answer
    if _braces(gold) == "(" and _BARE_LIST.fullmatch(_plain(answer)):
        return gold, f"({answer})"
    return gold, answer


def _other_base(answer: str, gold: str) -> bool:
    """Return whether both numerals name a base and the bases differ: math-verify drops the subscript."""
    bases = [_BASE.search(text.strip()) for text in (answer, gold)]
    return bases[0] is not None and bases[1] is not None and bases[0][1] != bases[1][1]
