"""Where the answer stands in a text: in its last box, or behind GSM8K's mark."""

import re

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


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
