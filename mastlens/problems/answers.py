"""Where the answer stands in a text: in its last box, or behind GSM8K's mark."""

import re

from mastlens.problems.thinking import split_trace

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
# Where a model goes on with the next problem of a prompt with examples.
_NEXT = re.compile(r"^\s*(?:Question|Problem|Q)\s*:", re.MULTILINE)
# What may stand between two boxes that are one answer, and what of it joins them.
_BETWEEN = re.compile(
    r"(?:[\s$,;~]|\\[,;:! ()\[\]]|\\q?quad\b|\b(?:and|or)\b|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|[a-zA-Z](?:_\w)?\s*=)*"
)
_JOINS = re.compile(r"(?<!\\)[,;]|\b(?:and|or)\b")
_WORDED = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)\s+[A-Za-z][A-Za-z .'()-]*")
_WORKING = re.compile(r"\d\s*(?:[-+*/×·÷]|\\(?:times|cdot|div))\s*\d+\s*=\s*\d")
_MAGNITUDE = re.compile(r"\b(?:hundred|thousand|million|billion|trillion|dozen|percent|half|cents?)\b", re.IGNORECASE)


def boxed(text: str) -> str | None:
    r"""Return what stands in the last complete ``\boxed{...}`` of ``text``, braces balanced, or None.

    Escaped braces (``\{``) are text. One pass, whatever the text.
    """
    boxes = _boxes(text)
    return None if not boxes else text[boxes[-1][1] : boxes[-1][2]].strip()


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """Return where each complete box begins, and its content begins and ends, in the order in which they open."""
    opened: list[tuple[int, int] | None] = []  # for each open brace: its box, or None for another brace
    found = []
    for token in _BRACES.finditer(text):
        if token[0] == "}":
            box = opened.pop() if opened else None
            if box is not None:
                found.append((*box, token.start()))
        elif token[0] == "{":
            opened.append(None)
        elif token[0].startswith(r"\boxed"):
            opened.append((token.start(), token.end()))
    return sorted(found)


def final_answer(response: str) -> str | None:
    r"""Return the response's answer: what its last box holds, else what the last line with ``####`` says, else None.

    Thinking is no answer, cut off or not.

    Boxes that a comma or a word puts beside each other (``\boxed{1} and \boxed{2}``) are one answer, ``1, 2``. Where a
    model goes on with a problem of its own (a line that begins with ``Question:``), what it said before counts.
    """
    text = split_trace(response).answer
    for turn in _NEXT.finditer(text):
        if (answer := _answer(text[: turn.start()])) is not None:
            return answer
    return _answer(text)


def _answer(text: str) -> str | None:
    if boxes := _boxes(text):
        together = boxes[-1:]
        for begin, start, end in reversed(boxes[:-1]):
            between = text[end + 1 : together[0][0]]
            if not _BETWEEN.fullmatch(between) or not _JOINS.search(between):
                break
            together.insert(0, (begin, start, end))
        return ", ".join(dict.fromkeys(text[start:end].strip() for _, start, end in together))
    _, mark, rest = text.rpartition("####")
    return _marked(rest) if mark else None


def _marked(rest: str) -> str:
    """Return what GSM8K's mark says: its line, without emphasis and without the words behind a number."""
    line = next((line for line in rest.splitlines() if line.strip()), "").strip().strip("*_").strip()
    number = _WORDED.fullmatch(line)
    return (number[1] if number and not _MAGNITUDE.search(line) else line).replace(",", "")


def response_style(response: str) -> str:
    r"""Return ``worked`` if there is a step of arithmetic, ``guessed`` for a bare box, else ``other``."""
    if _WORKING.search(response):
        return "worked"
    return "guessed" if "\\boxed{" in response else "other"
