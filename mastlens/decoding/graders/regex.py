"""Right is what a regular expression finds: for prompts that ask for an answer in a form of their own."""

import re
from dataclasses import dataclass
from typing import ClassVar

from mastlens.decoding.graders.grader import Grade, Grader, argument


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(str(error)) from error
    return text


@dataclass(frozen=True)
class Regex(Grader):
    """The last match, or its first group, equals the gold answer as text."""

    name: ClassVar[str] = "regex"
    summary: ClassVar[str] = "the last match of PATTERN, or its first group, is the gold answer as text"

    pattern: str = argument(help="a regular expression of Python, e.g. 'answer is (\\w+)'", parse=_pattern)

    def judge(self, said: str, gold: str) -> Grade:
        """Compare the last match."""
        matches = list(re.finditer(self.pattern, said, re.MULTILINE))
        answer = (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) if matches else None
        if answer is None:
            return Grade(False, False, None, "the pattern is not found")
        right = answer.split() == gold.split()
        return Grade(right, right, answer.strip(), "equal as text" if right else "another text")
