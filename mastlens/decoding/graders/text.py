"""Right is what stands there letter for letter: names, words, code, and rewards that forgive nothing."""

from dataclasses import dataclass
from typing import ClassVar

from mastlens.decoding.graders.grader import Grade, Grader, argument
from mastlens.errors import unknown
from mastlens.problems.answers import boxed, final_answer

WHERE = ("anywhere", "boxed")


def _where(text: str) -> str:
    if text not in WHERE:
        raise unknown("place of an answer", text, WHERE)
    return text


@dataclass(frozen=True)
class Text(Grader):
    """Equal as text, runs of white space counting as one space."""

    name: ClassVar[str] = "text"
    summary: ClassVar[str] = "the answer is the gold answer as text, runs of white space aside"

    where: str = argument(
        default="anywhere",
        help="where the answer stands: anywhere (the last box, else behind ####, else all of it) or boxed",
        parse=_where,
    )

    def judge(self, said: str, gold: str) -> Grade:
        """Compare the text in the last box, or behind ``####``, or all that was said."""
        answer = boxed(said) if self.where == "boxed" else final_answer(said)
        if answer is None and self.where == "anywhere":
            answer = said.strip()
        if not answer:
            return Grade(False, False, None, "no answer")
        right = answer.split() == gold.split()
        return Grade(right, right, answer, "equal as text" if right else "another text")
