"""Prompt, response, grade: the one path on which models answer, whatever writes the responses and whoever asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mastlens.decoding.engines import Decoding, Engine
from mastlens.decoding.generation import Response
from mastlens.decoding.graders import Grade, Grader, Mathematics
from mastlens.decoding.prompts import Prompt
from mastlens.errors import unknown
from mastlens.problems.thinking import PARTS, split_trace
from mastlens.runs.ledger import Ledger


@dataclass(frozen=True)
class Answered:
    """A response to a prompt.

    Attributes:
        prompt: The prompt.
        response: What the model wrote.
        sample: Which of the responses to this prompt, from 0.
        grade: Whether it is right; None where the prompt names no right answer.
        trace: Its trace; empty where it has none.
        answer: What follows the trace.
    """

    prompt: Prompt
    response: Response
    sample: int
    grade: Grade | None
    trace: str
    answer: str

    @property
    def correct(self) -> bool:
        """Whether it is right."""
        return self.grade is not None and self.grade.correct

    @property
    def correct_strict(self) -> bool:
        """Whether it is right as text."""
        return self.grade is not None and self.grade.strict

    def part(self, which: str) -> tuple[str, str]:
        """Return the name and the text of a part (see ``PARTS``)."""
        return _part(which, self.prompt, self.response, self.trace, self.answer)


def _part(which: str, prompt: Prompt, response: Response, trace: str, answer: str) -> tuple[str, str]:
    if which == "response":
        return "response", prompt.given + response.text
    if which == "trace" or (which == "reasoning" and trace):
        return "trace", trace
    return "answer", answer


def respond(
    engine: Engine,
    prompts: Mapping[str, Sequence[int]],
    decoding: Decoding | None = None,
    *,
    ledger: Ledger | None = None,
    progress: str | None = None,
) -> list[Response]:
    """Return the response to each named prompt, in order; those that the ledger holds are not asked for again.

    Args:
        engine: What writes them.
        prompts: Name to token ids.
        decoding: How; None for the defaults.
        ledger: Keeps responses as they are finished, and knows those of an interrupted run; None for neither.
        progress: Label of a progress bar; None for none.
    """
    kept = ledger or Ledger(None, "")
    missing = [name for name in prompts if name not in kept]

    def keep(place: int, response: Response) -> None:
        kept.add(missing[place], [response.text, response.tokens, response.stopped, list(response.ids)])

    if missing:
        asked = [prompts[name] for name in missing]
        engine.respond(asked, decoding or Decoding(), names=missing, finished=keep, progress=progress)
    told = (kept[name] for name in prompts)
    return [Response(*each[:3], *map(tuple, each[3:])) for each in told]


def answer(
    engine: Engine,
    prompts: Sequence[Prompt],
    decoding: Decoding | None = None,
    *,
    samples: int = 1,
    graded: str = "response",
    grader: Grader | None = None,
    ledger: Ledger | None = None,
    progress: str | None = None,
) -> list[Answered]:
    """Return the answers to prompts, in order, those to one prompt side by side.

    Args:
        engine: What writes the responses.
        prompts: What is asked; names must differ. Only prompts with a right answer are graded.
        decoding: How responses are written; None for the defaults.
        samples: Responses a prompt.
        graded: Which part of a response is graded (see ``PARTS``).
        grader: Grades it; as mathematics by default.
        ledger: Keeps responses as they are finished, and knows those of an interrupted run; None for neither.
        progress: Label of a progress bar; None for none.

    Raises:
        MastlensError: If there is no such part.
    """
    if graded not in PARTS:
        raise unknown("part to grade", graded, PARTS)
    # One name a response: it keeps it in the ledger and, with the seed, decides what is drawn.
    asked = {f"{prompt.name}/{sample}": (prompt, sample) for prompt in prompts for sample in range(samples)}
    grader = grader or Mathematics()
    ids = {name: prompt.ids for name, (prompt, _) in asked.items()}
    responses = respond(engine, ids, decoding, ledger=ledger, progress=progress)
    answered = []
    for (prompt, sample), response in zip(asked.values(), responses, strict=True):
        parts = split_trace(response.text, opened=prompt.opened)
        _, text = _part(graded, prompt, response, *parts)
        opened = prompt.opened and graded == "response"
        found = None if prompt.gold is None else grader.grade(text, prompt.gold, opened=opened)
        answered.append(Answered(prompt, response, sample, found, *parts))
    return answered
