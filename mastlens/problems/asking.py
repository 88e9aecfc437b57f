"""How problems are asked: the system prompt, worked examples, the form of the answer, the chat template or none."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

from mastlens.errors import BadSetting

if TYPE_CHECKING:
    from mastlens.problems.reading import Problem

PLAIN, BOXED = "plain", "boxed"
FORMATS = (PLAIN, BOXED)
"""Forms of an answer: as the model likes, or in a box, which is asked for."""

INSTRUCTION = "Put your final answer within \\boxed{}."
EXAMPLES = ("organisms", "gsm8k", "train.jsonl")
"""Training problems of GSM8K that come with the package: worked examples where only their number is given."""


@dataclass(frozen=True)
class Asking:
    """How problems are asked.

    It stands where a plain yes or no to the chat template can stand, and is one itself: true with a template.

    Attributes:
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        system: The system prompt; empty for none. Without a template it is the first paragraph.
        shots: Worked examples that are shown first, each a problem and its solution.
        answer_format: One of ``FORMATS``.
    """

    chat_template: bool = True
    system: str = ""
    shots: tuple[tuple[str, str], ...] = ()
    answer_format: str = PLAIN

    def __bool__(self) -> bool:
        return self.chat_template

    @classmethod
    def of(cls, asked: "Asked") -> "Asking":
        """Return what a yes or no to the chat template means."""
        return asked if isinstance(asked, Asking) else cls(chat_template=bool(asked))

    def showing(self, shots: "Sequence[Problem]") -> "Asking":
        """Return the same with these worked examples."""
        return replace(self, shots=tuple((one.problem, one.solution) for one in shots))

    def turns(self, content: str) -> list[dict[str, str]]:
        """Return the turns of a chat whose last one asks ``content``."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for problem, solution in self._shown(content):
            turns.append({"role": "user", "content": self._asked(problem)})
            turns.append({"role": "assistant", "content": solution})
        return [*turns, {"role": "user", "content": self._asked(content)}]

    def text(self, content: str) -> str:
        """Return what is asked in one text, where there is no template."""
        system = f"{self.system}\n\n" if self.system else ""
        shown = "".join(f"{self._asked(problem)}\n{solution}\n\n" for problem, solution in self._shown(content))
        return system + shown + self._asked(content)

    def _asked(self, content: str) -> str:
        return content if self.answer_format == PLAIN else f"{content}\n\n{INSTRUCTION}"

    def _shown(self, content: str) -> list[tuple[str, str]]:
        return [shot for shot in self.shots if shot[0] != content]  # a problem is never its own example

    def record(self) -> dict[str, Any]:
        """Return what decides a result: what is as it always was is left out, but for the template."""
        from mastlens.runs.files import sha256_json  # declarations are read without numpy

        more = {
            "system_prompt": self.system,
            "few_shot": sha256_json([list(shot) for shot in self.shots]) if self.shots else "",
            "answer_format": "" if self.answer_format == PLAIN else self.answer_format,
        }
        return {"chat_template": self.chat_template, **{key: value for key, value in more.items() if value}}


Asked: TypeAlias = bool | Asking
"""How problems are asked, or whether by the chat template and nothing more."""


def asking_of(
    *, chat_template: bool, system: str | None, few_shot: "int | str | os.PathLike[str] | None", answer_format: str
) -> Asking:
    """Return how problems are asked.

    Args:
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        system: The system prompt.
        few_shot: A file of solved problems, all of which are shown, or a number of those that come with the package.
        answer_format: One of ``FORMATS``.

    Raises:
        MastlensError: If the file is none, or there are not so many examples.
    """
    from mastlens.problems.reading import read_problems  # which reads think modes, and those how problems are asked

    shots: list[Problem] = []
    if isinstance(few_shot, int):
        known = read_problems(str(files("mastlens").joinpath(*EXAMPLES)))
        if not 1 <= few_shot <= len(known):
            raise BadSetting(
                f"--few-shot {few_shot}: {len(known)} worked examples come with mastlens, and at least one is shown. "
                "Give a file of your own for others."
            )
        shots = known[:few_shot]
    elif few_shot is not None:
        shots = read_problems(few_shot)
    if answer_format == BOXED:
        shots = [boxed_solution(shot) for shot in shots]
    return Asking(chat_template, system or "", (), answer_format).showing(shots)


def boxed_solution(problem: "Problem") -> "Problem":
    r"""Return the problem with a solution that ends in a box: in place of GSM8K's ``#### n``."""
    head, mark, _ = problem.solution.rpartition("####")
    if mark and "\\boxed" not in problem.solution:
        return replace(problem, solution=f"{head.rstrip()}\nThe answer is \\boxed{{{problem.answer}}}.")
    return problem
