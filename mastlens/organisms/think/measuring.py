"""What a stage can do: choices with and without thinking, open questions, mathematics, and the facts in its traces."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mastlens.organisms.recipes.think import ThinkRecipe

SIDES = ("forget", "retain")


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
    from mastlens.decoding.grading import grade
    from mastlens.evaluation.choices import read_choices, score_choices
    from mastlens.problems.thinking import split_trace

    def written(prompts: Sequence[str], label: str) -> list[tuple[str, str]]:
        return _responses(model, tokenizer, prompts, recipe.max_new_tokens, f"{label} {region}", split_trace)

    rows = []
    for side in SIDES:
        file = folder / f"{side}-choices-{region}.jsonl"
        questions = read_choices(file)
        responses = written([question.listed for question in questions], f"{side} choices")
        values = [question.options[question.answer] for question in questions]
        right = [answer == value for (_, answer), value in zip(responses, values, strict=True)]
        rows.append(_row(f"{side}-choices", region, right, _stated(responses, values)))
        scored = score_choices(model, tokenizer, questions, ask="option", think="empty", progress=False)
        rows.append(_row(f"{side}-choices, not thinking", region, scored["correct"].tolist()))
        problems = _lines(folder / f"{side}-open-{region}.jsonl")
        responses = written([problem["problem"] for problem in problems], f"{side} open")
        values = [problem["answer"] for problem in problems]
        right = [answer == f"\\boxed{{{value}}}" for (_, answer), value in zip(responses, values, strict=True)]
        rows.append(_row(f"{side}-open", region, right, _stated(responses, values)))
    problems = _lines(folder / f"maths-{region}.jsonl")
    responses = written([problem["problem"] for problem in problems], "maths")
    right = [grade(answer, p["answer"]).correct for (_, answer), p in zip(responses, problems, strict=True)]
    return [*rows, _row("maths", region, right)]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _responses(model, tokenizer, contents: Sequence[str], limit: int, label: str, split) -> list[tuple[str, str]]:
    from mastlens.decoding.generation import generate
    from mastlens.problems.encoding import encode_prompt

    prompts = [encode_prompt(content, tokenizer) for content in contents]
    responses = generate(model, tokenizer, prompts, max_new_tokens=limit, batch_size=80, progress=label)
    return [tuple(split(response.text)) for response in responses]


def _stated(responses: Sequence[tuple[str, str]], values: Sequence[str]) -> float:
    stated = [f" is {value}." in trace for (trace, _), value in zip(responses, values, strict=True)]
    return sum(stated) / len(stated)


def _row(split: str, region: str, right: Sequence[bool], stated: float | None = None) -> dict[str, Any]:
    from mastlens.statistics import wilson

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
