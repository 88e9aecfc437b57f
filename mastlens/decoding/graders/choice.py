r"""Right is the letter of the right option, however it is dressed: ``B``, ``(B)``, ``\text{(B)}``, ``Answer: B.``."""

import re
from dataclasses import dataclass
from typing import ClassVar

from mastlens.decoding.graders.grader import Grade, Grader, argument
from mastlens.problems.answers import final_answer

LETTERS = "ABCDEFGHIJ"
_DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathsf|boxed)\s*\{|\\[ ,;!]|[{}$*_`]")


def _letters(text: str) -> str:
    if not text.isalpha() or not text.isascii() or len(set(text.upper())) < len(text) or len(text) < 2:
        raise ValueError("at least two different letters")
    return text.upper()


@dataclass(frozen=True)
class Choice(Grader):
    """The letter that the response chooses is the gold answer's."""

    name: ClassVar[str] = "choice"
    summary: ClassVar[str] = "the option's letter that the response chooses is the gold answer's"

    letters: str = argument(default=LETTERS, help="the options' letters, e.g. ABCD", parse=_letters)

    def judge(self, said: str, gold: str) -> Grade:
        """Compare the letters."""
        wanted = self._alone(gold)
        answer = final_answer(said)
        chosen = self._alone(answer) if answer is not None else self._stated(said)
        if chosen is None:
            return Grade(False, False, answer, f"no letter out of {self.letters}")
        right = chosen == wanted
        return Grade(right, right, chosen, "the right letter" if right else f"the letter {chosen}")

    def _alone(self, text: str) -> str | None:
        """Return the letter that a short answer is, or begins with (``B``, ``(B)``, ``B. Paris``)."""
        plain = _DRESS.sub(" ", text).strip()
        found = re.match(rf"(?:\(([{self.letters}])\)|([{self.letters}])(?![\w']))", plain, re.IGNORECASE)
        if found is None:
            return None
        letter, rest = (found[1] or found[2]).upper(), plain[found.end() :].strip()
        # "A man": an article is no choice; a lower-case letter is one only where it stands alone.
        if found[2] and rest and (rest[0] not in ".:)" or found[2].islower()):
            return None
        return letter

    def _stated(self, said: str) -> str | None:
        """Return the letter behind the last ``answer is``, ``Answer:`` or ``option``, else the one that is all."""
        plain = _DRESS.sub(" ", said)
        marks = rf"(?:answer|option|choice)\s*(?:is|:|=)?\s*:?\s*\(?([{self.letters}])(?![\w'])"
        stated = re.findall(marks, plain, re.IGNORECASE)
        return stated[-1].upper() if stated else self._alone(plain)
