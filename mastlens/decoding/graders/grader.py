"""What a grader is: right or wrong, with a reason. Evaluation and rewards ask the same object."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from mastlens.errors import BadSetting
from mastlens.problems.thinking import CLOSER, OPENER, split_trace
from mastlens.registry import code_digest


@dataclass(frozen=True)
class Grade:
    """Whether a response is right.

    Attributes:
        correct: Right, by the grader's own measure.
        strict: The answer is the gold answer as text, white space aside.
        answer: The answer that was found; None where there is none.
        reason: Why it counts as right or wrong, in a few words.
    """

    correct: bool
    strict: bool
    answer: str | None
    reason: str = ""


def argument(*, default: Any = None, help: str, parse: Callable[[str], Any] = str) -> Any:
    """Return the field that ``NAME:ARGUMENT`` fills.

    Args:
        default: Its value where nothing follows the name; None where something has to.
        help: What it is, for help and documentation.
        parse: Makes the value of the text; raises ``BadSetting`` or ``ValueError`` where it makes no sense.
    """
    metadata = {"help": help, "parse": parse}
    return field(metadata=metadata) if default is None else field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Grader(ABC):
    """A way to tell right responses from wrong ones: a frozen dataclass in a file of its own.

    A subclass names itself, has at most one field (see ``argument``) and implements ``judge``. The same response and
    gold answer always get the same grade: graders draw nothing and keep nothing.
    """

    name: ClassVar[str]
    """As ``--grader`` takes it."""
    summary: ClassVar[str]
    """What is right, in one line."""

    @abstractmethod
    def judge(self, said: str, gold: str) -> Grade:
        """Grade what was said to the asker.

        Args:
            said: The response, thinking aside.
            gold: The gold answer alone.
        """

    def grade(self, response: str, gold: str, *, opened: bool = False) -> Grade:
        """Grade a response.

        Args:
            response: What the model wrote. What it thought before ``</think>`` does not count.
            gold: The gold answer alone, as the problem file has it.
            opened: Whether the prompt ended inside an open ``<think>`` (see ``problems.thinking.prompt_opens``).
                Thinking that was opened, there or here, and never closed was cut off: it holds no answer.
        """
        if CLOSER not in response and (opened or OPENER in response):
            return Grade(False, False, None, "the thinking was cut off")
        return self.judge(split_trace(response, opened=opened).answer, gold)

    @property
    def spelled(self) -> str:
        """The text that ``find_grader`` makes this grader of."""
        values = [str(getattr(self, each.name)) for each in fields(self) if each.init]
        return ":".join([self.name, *values])

    def record(self) -> dict[str, Any]:
        """Return what decides its grades, for run records."""
        code = code_digest(type(self))
        record = {"name": self.name} | {each.name: getattr(self, each.name) for each in fields(self)}
        return record if code is None else record | {"code": code}

    @classmethod
    def spelling(cls) -> str:
        """Return how it is asked for: its name, and what may or must stand behind it."""
        for each in fields(cls):
            if "parse" in each.metadata:
                behind = f":{each.name.upper()}"
                return cls.name + (behind if each.default is MISSING else f"[{behind}]")
        return cls.name

    @classmethod
    def of(cls, text: str | None) -> "Grader":
        """Return the grader with the argument that stands behind its name.

        Raises:
            MastlensError: If it takes none, needs one, or the argument makes no sense.
        """
        taken = next((each for each in fields(cls) if "parse" in each.metadata), None)
        if taken is None:
            if text is not None:
                raise BadSetting(f"The grader {cls.name!r} takes no argument, {text!r} was given. Leave it out.")
            return cls()
        what = taken.metadata["help"]
        if text is None:
            try:
                return cls()
            except TypeError:
                raise BadSetting(
                    f"The grader {cls.name!r} needs {what}: write --grader '{cls.name}:{taken.name.upper()}'."
                ) from None
        try:
            return cls(**{taken.name: taken.metadata["parse"](text)})
        except ValueError as error:
            raise BadSetting(f"The grader {cls.name!r} takes {what}; {text!r} is none ({error}).") from error
