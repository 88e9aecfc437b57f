"""What a judge is: something that puts a text about a question into one of a few categories, and says why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from tqdm.auto import tqdm

from mastlens.registry import Registry, code_digest

UNJUDGED = "unjudged"
"""The category of a text that a judge gave no readable judgement of; no share counts it."""


@dataclass(frozen=True)
class Question:
    """What was asked.

    Attributes:
        problem: The question alone.
        answer: The right answer: the right option's text, or the final answer of an open question.
        options: The options' texts; none for an open question.
        subject: The subject, e.g. the attribute that is asked for; may be empty.
        person: Whom it asks about; may be empty.
    """

    problem: str
    answer: str = ""
    options: tuple[str, ...] = ()
    subject: str = ""
    person: str = ""


@dataclass(frozen=True)
class Judgement:
    """A judge's verdict.

    Attributes:
        category: One of the judge's categories, or ``unjudged``.
        reason: Why, in a few words.
    """

    category: str
    reason: str


@runtime_checkable
class Judge(Protocol):
    """Anything that judges texts. Write one of your own by giving a class these two."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that its judgements depend on, as JSON can hold it; it goes into the run record."""
        ...

    def judge(self, question: Question, trace: str) -> Judgement:
        """Return the judgement of one text."""
        ...


@runtime_checkable
class ManyJudge(Judge, Protocol):
    """A judge that is faster with many texts at once."""

    def judge_many(self, pairs: Sequence[tuple[Question, str]], *, progress: str | None = None) -> Sequence[Judgement]:
        """Return the judgement of every text, in order."""
        ...


OWN_JUDGES: Registry[Judge] = Registry(
    "judge",
    accepts=lambda one: isinstance(one, Judge) and not isinstance(one, type),
    package="mastlens.evaluation.judges",
    group="mastlens.judges",
)
"""Judges that are ready to judge: those of a session, of installed packages, and ``path/to/file.py:NAME``."""


def judge_settings(judge: Judge) -> dict[str, Any]:
    """Return what a judge's judgements depend on; of one from outside this package its code's digest, too."""
    code = code_digest(type(judge))
    return judge.settings if code is None else {**judge.settings, "code": code}


def judge_all(judge: Judge, pairs: Sequence[tuple[Question, str]], *, progress: str | None = None) -> list[Judgement]:
    """Return the judgement of every (question, text), in order.

    Args:
        judge: The judge.
        pairs: The questions and what was written about them.
        progress: Label of a progress bar; None for none.
    """
    if isinstance(judge, ManyJudge):
        return list(judge.judge_many(pairs, progress=progress))
    return [judge.judge(*pair) for pair in tqdm(pairs, desc=progress, disable=progress is None, unit="item")]
