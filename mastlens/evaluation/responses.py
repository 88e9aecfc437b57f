"""Greedy responses, their grades, and the log-probability of solution and answer, per item."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.decoding.generation import check_generation, generate
from mastlens.decoding.grading import grade
from mastlens.edit import Edit, swapped
from mastlens.errors import MastlensError
from mastlens.files import write_json, write_table
from mastlens.likelihood import sequence_logprobs
from mastlens.lineage import Checkpoint
from mastlens.problems import (
    EncodedProblem,
    Problem,
    check_tokenizer,
    context_length,
    encode_problems,
    encode_prompt,
    read_problems,
)
from mastlens.runs import hash_inputs, remembered
from mastlens.statistics import wilson

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "responses.parquet"
SUMMARY = "accuracy.json"


@dataclass(frozen=True)
class Evaluation:
    """A model's responses to problems.

    Attributes:
        table: One row an item; the columns are described at ``evaluate``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> pd.DataFrame:
        """One row a split: ``n``, ``correct``, ``accuracy``, Wilson ``ci_low`` and ``ci_high``, ``truncated``."""
        return pd.DataFrame(
            [_summary(self.table[self.table["split"] == s], split=s) for s in self.table["split"].unique()]
        )

    def plot(self) -> "go.Figure":
        """Draw accuracy by split with Wilson intervals."""
        from mastlens.plots import plot_accuracy

        return plot_accuracy(self.accuracy.assign(arm="model"))


def _summary(rows: pd.DataFrame, **keys: str) -> dict[str, Any]:
    correct = int(rows["correct"].sum())
    interval = wilson(correct, len(rows))
    return {
        **keys,
        "n": len(rows),
        "correct": correct,
        "accuracy": correct / len(rows),
        "ci_low": interval.low,
        "ci_high": interval.high,
        "correct_strict": int(rows["correct_strict"].sum()),
        "truncated": int(rows["truncated"].sum()),
    }


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Return what ``accuracy.json`` holds: per split, and per subject within it, counts with Wilson intervals."""
    splits = {}
    for split in table["split"].unique():
        rows = table[table["split"] == split]
        subjects = {s: _summary(rows[rows["subject"] == s]) for s in sorted(rows["subject"].unique()) if s}
        splits[split] = {**_summary(rows), **({"subjects": subjects} if subjects else {})}
    return {"splits": splits}


def evaluate(
    *,
    model: "str | os.PathLike[str] | Checkpoint",
    splits: Mapping[str, str | os.PathLike[str]],
    edit: "str | os.PathLike[str] | Edit | None" = None,
    max_new_tokens: int = 1024,
    batch_size: int = 32,
    chat_template: bool = True,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Generate greedily, grade, and measure log-probabilities on every item of every split.

    Columns: ``split``, ``item`` (from 0 in its file), ``subject``, ``prompt``, ``response``, ``gold``,
    ``correct`` (tolerant), ``correct_strict``, ``logprob_solution``, ``solution_tokens``, ``logprob_answer`` (of
    the boxed answer straight after the prompt), ``answer_tokens``, ``truncated``. Log-probabilities are natural
    and summed.

    Args:
        model: The checkpoint.
        splits: Name to problem file.
        edit: An edit to apply in memory first.
        max_new_tokens: Where a response is cut off.
        batch_size: Items a batch; in float32 it changes log-probabilities by rounding only.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        device: Where to compute.
        out: Folder for ``responses.parquet`` and ``accuracy.json``; None to write nothing.
        overwrite: Replace an evaluation of something else.
        progress: Show progress bars.
    """
    if not splits:
        raise MastlensError("There is nothing to evaluate on: give --split NAME=FILE at least once.")
    checkpoint = Checkpoint(model)
    check_generation(max_new_tokens, batch_size)
    if isinstance(edit, str | os.PathLike):
        edit = Edit.load(edit)
    if edit is not None:
        edit.check_source(checkpoint)
    settings = {"max_new_tokens": max_new_tokens, "chat_template": chat_template}
    inputs = hash_inputs(splits)
    if edit is not None:
        from mastlens.files import sha256_json, sha256_tensor

        inputs["edit"] = sha256_json({name: sha256_tensor(t) for name, t in edit.after.items()})

    def compute() -> Evaluation:
        problems = {name: read_problems(path) for name, path in splits.items()}
        loaded, tokenizer = checkpoint.load_model(device=device), checkpoint.load_tokenizer()
        for split in problems.values():
            check_tokenizer(tokenizer, split, checkpoint.spec)
        with swapped(loaded, edit.after if edit is not None else {}):
            table = evaluate_model(
                loaded,
                tokenizer,
                problems,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                chat_template=chat_template,
                progress=progress,
                sources={name: str(path) for name, path in splits.items()},
            )
        return Evaluation(table, settings)

    def write(result: Evaluation, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        write_json(folder / SUMMARY, summarise(result.table))

    return remembered(
        out,
        "evaluate",
        outputs=[FILE, SUMMARY],
        lineage={"model": checkpoint.fingerprint},
        inputs=inputs,
        settings=settings,
        device=device,
        overwrite=overwrite,
        compute=compute,
        write=write,
        read=lambda folder: Evaluation(pd.read_parquet(folder / FILE), settings),
    )


def greedy_accuracy(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    problems: Sequence[Problem],
    *,
    max_new_tokens: int = 1024,
    batch_size: int = 32,
    chat_template: bool = True,
) -> float:
    """Return the share of right greedy responses and nothing else: what a search calls again and again."""
    prompts = [encode_prompt(p.problem, tokenizer, chat_template=chat_template) for p in problems]
    responses = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return sum(grade(r.text, p.answer).correct for r, p in zip(responses, problems, strict=True)) / len(problems)


def evaluate_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    splits: Mapping[str, Sequence[Problem]],
    *,
    max_new_tokens: int = 1024,
    batch_size: int = 32,
    chat_template: bool = True,
    progress: bool = True,
    sources: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return the table of ``evaluate`` for a model in memory; ``sources`` names each split's file in errors."""
    # All splits go through in one stream, sorted by length: fewer and fuller batches.
    keys = [(split, item, problem) for split, ps in splits.items() for item, problem in enumerate(ps)]
    problems = [problem for _, _, problem in keys]
    encoded = [
        ids
        for split, ps in splits.items()
        for ids in encode_problems(
            ps,
            tokenizer,
            context=context_length(model.config),
            chat_template=chat_template,
            source=(sources or {}).get(split, f"split {split!r}"),
        )
    ]
    answers = [
        EncodedProblem(
            ids.prompt,
            tuple(tokenizer(rf"\boxed{{{p.answer}}}", add_special_tokens=False)["input_ids"]),
        )
        for ids, p in zip(encoded, problems, strict=True)
    ]
    label = {"solution": "log p(solution)", "answer": "log p(answer)"} if progress else {}
    responses = generate(
        model,
        tokenizer,
        [ids.prompt for ids in encoded],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress="generate" if progress else None,
    )
    logprobs = {
        part: sequence_logprobs(model, ids, batch_size=batch_size, progress=label.get(part))
        for part, ids in (("solution", encoded), ("answer", answers))
    }
    grades = [grade(r.text, p.answer) for r, p in zip(responses, problems, strict=True)]
    return pd.DataFrame(
        {
            "split": [split for split, _, _ in keys],
            "item": [item for _, item, _ in keys],
            "subject": [p.subject for p in problems],
            "prompt": [str(tokenizer.decode(list(ids.prompt))) for ids in encoded],
            "response": [r.text for r in responses],
            "gold": [p.answer for p in problems],
            "correct": [g.correct for g in grades],
            "correct_strict": [g.strict for g in grades],
            "logprob_solution": logprobs["solution"][0],
            "solution_tokens": logprobs["solution"][1],
            "logprob_answer": logprobs["answer"][0],
            "answer_tokens": logprobs["answer"][1],
            "truncated": [r.truncated for r in responses],
        }
    )
