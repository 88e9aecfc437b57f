"""Questions whose traces are judged: multiple choice or open, from one kind of file or the other."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mastlens.decoding.graders import Mathematics
from mastlens.errors import NotFound
from mastlens.evaluation.judges import Question
from mastlens.evaluation.multiple_choice import LETTERS, Choice, read_choices
from mastlens.evaluation.traces.statements import answered_letter
from mastlens.problems.answers import boxed
from mastlens.problems.reading import Problem, read_problems
from mastlens.runs.reading import read_lines


@dataclass(frozen=True)
class Asked:
    """A question as a model is asked it.

    Attributes:
        source: What was read: a question with options, or an open problem.
    """

    source: Choice | Problem

    @property
    def content(self) -> str:
        """What the user's turn holds."""
        return self.source.listed if isinstance(self.source, Choice) else self.source.problem

    @property
    def gold(self) -> str:
        """The right final answer: a letter, or the open problem's answer."""
        return LETTERS[self.source.answer] if isinstance(self.source, Choice) else self.source.answer

    @property
    def question(self) -> Question:
        """What the judge is told."""
        source = self.source
        if isinstance(source, Choice):
            right = source.options[source.answer]
            return Question(source.problem, right, source.options, source.subject, source.person)
        return Question(source.problem, source.answer, (), source.subject, source.person)

    def correct(self, answer: str) -> bool:
        """Return whether the final part of a response is right: its letter or option, or its answer as mathematics."""
        if not isinstance(self.source, Choice):
            return Mathematics().grade(answer, self.source.answer).correct
        said = (boxed(answer) or answer).strip()
        letter = answered_letter(said, self.source.options)
        return letter == self.gold or said.casefold() == self.source.options[self.source.answer].casefold()


def read_questions(path: str | os.PathLike[str]) -> list[Asked]:
    """Read a file of questions: with ``choices`` in its first line all are multiple choice, else problems.

    Raises:
        MastlensError: If the file is missing, empty or malformed.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no file of questions {path}.")
    first = next((record for _, _, record in read_lines(path)), None)
    choices = isinstance(first, dict) and "choices" in first
    read: Sequence[Choice | Problem] = read_choices(path) if choices else read_problems(path)
    return [Asked(source) for source in read]
