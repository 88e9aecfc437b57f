"""What a stage can do: choices with and without thinking, open questions, mathematics, and the facts in its traces."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mastlens.decoding.answering import Answered, answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.graders import Grade, Grader, Mathematics
from mastlens.decoding.prompts import Prompt
from mastlens.evaluation.multiple_choice import read_choices, score_choices
from mastlens.organisms.recipes.think import ThinkRecipe
from mastlens.problems.reading import read_problems
from mastlens.statistics import wilson

SIDES = ("forget", "retain")


@dataclass(frozen=True)
class Alone(Grader):
    """The answer, letter for letter, and nothing else; ``boxed`` in a box."""

    name: ClassVar[str] = "alone"
    summary: ClassVar[str] = "the answer is the gold answer and nothing else"

    form: str = "bare"

    def judge(self, said: str, gold: str) -> Grade:
        """Compare all that was said."""
        right = said == (f"\\boxed{{{gold}}}" if self.form == "boxed" else gold)
        return Grade(right, right, said)


def measure_stage(model, tokenizer, folder: Path, region: str, recipe: ThinkRecipe) -> list[dict[str, Any]]:
    """Return one row a split: accuracies with Wilson intervals, and how often the trace states the value asked for.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        folder: The lineage, with its files.
        region: ``calibration`` or ``eval``.
        recipe: The settings.

    Returns:
        Rows with ``split``, ``region``, ``subject`` (``all``), ``n``, ``right``, ``accuracy``, ``ci_low``, ``ci_high``,
        and ``stated``, the share of traces that conclude on the right value; None where no trace is written.
    """
    engine, decoding = HuggingFaceEngine(model, tokenizer), Decoding(recipe.max_new_tokens, batch_size=80)

    def answers(asked: Sequence[str], values: Sequence[str], grader: Grader, label: str) -> list[Answered]:
        prompts = [
            Prompt.of(text, tokenizer, name=str(place), gold=value)
            for place, (text, value) in enumerate(zip(asked, values, strict=True))
        ]
        label = f"{label} {region}"
        return answer(engine, prompts, decoding, graded="answer", grader=grader, progress=label)

    rows = []
    for side in SIDES:
        questions = read_choices(folder / f"{side}-choices-{region}.jsonl")
        values = [question.options[question.answer] for question in questions]
        found = answers([question.listed for question in questions], values, Alone(), f"{side} choices")
        rows.append(_row(f"{side}-choices", region, [one.correct for one in found], _stated(found)))
        scored = score_choices(model, tokenizer, questions, ask="option", think="empty", progress=False)
        rows.append(_row(f"{side}-choices, not thinking", region, scored["correct"].tolist()))
        problems = read_problems(folder / f"{side}-open-{region}.jsonl")
        found = answers([p.problem for p in problems], [p.answer for p in problems], Alone("boxed"), f"{side} open")
        rows.append(_row(f"{side}-open", region, [one.correct for one in found], _stated(found)))
    problems = read_problems(folder / f"maths-{region}.jsonl")
    found = answers([p.problem for p in problems], [p.answer for p in problems], Mathematics(), "maths")
    return [*rows, _row("maths", region, [one.correct for one in found])]


def _stated(answered: Sequence[Answered]) -> float:
    stated = [f" is {one.prompt.gold}." in one.trace for one in answered]
    return sum(stated) / len(stated)


def _row(split: str, region: str, right: Sequence[bool], stated: float | None = None) -> dict[str, Any]:
    interval = wilson(sum(right), len(right))
    return {
        "split": split,
        "region": region,
        "subject": "all",
        "n": len(right),
        "right": sum(right),
        "accuracy": sum(right) / len(right),
        "ci_low": interval.low,
        "ci_high": interval.high,
        "stated": stated,
    }
