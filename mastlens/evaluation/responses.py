"""Responses, their grades, and the log-probability of solution and answer, per item."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.answering import answer
from mastlens.decoding.engines import ENGINES, Decoding, Engine, HuggingFaceEngine
from mastlens.decoding.generation import sampling_of
from mastlens.decoding.prompts import Prompt, items_of
from mastlens.edits.edit import Edit
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting, NotSupported, unknown
from mastlens.models.likelihood import sequence_logprobs
from mastlens.problems.encoding import EncodedProblem, check_tokenizer, context_length, encode_problems, encode_prompt
from mastlens.problems.reading import Problem, read_problems
from mastlens.problems.thinking import THINK, answer_ids
from mastlens.registry import code_digest
from mastlens.runs.files import sha256_json, write_json, write_table
from mastlens.runs.ledger import Ledger
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, remembered
from mastlens.statistics import paired_bootstrap, wilson

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "responses.parquet"
SUMMARY = "accuracy.json"
_PARTIAL = "responses.partial.jsonl"


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
        """One row a split: ``n`` responses, ``correct``, ``accuracy``, ``ci_low``, ``ci_high``, ``truncated``.

        The interval is Wilson's; with several samples an item, whose outcomes hang together, it is a bootstrap over
        items.
        """
        return pd.DataFrame(
            [_summary(self.table[self.table["split"] == s], split=s) for s in self.table["split"].unique()]
        )

    def plot(self) -> "go.Figure":
        """Draw accuracy by split with Wilson intervals."""
        from mastlens.plots import plot_accuracy

        return plot_accuracy(self.accuracy.assign(arm="model"))


def _summary(rows: pd.DataFrame, **keys: str) -> dict[str, Any]:
    correct = int(rows["correct"].sum())
    if rows["item"].duplicated().any():
        shares = rows.groupby(["split", "item"])["correct"].mean().to_numpy(dtype=float)
        interval = paired_bootstrap(np.zeros_like(shares), shares)
    else:
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
    think: str = "free",
    max_new_tokens: int = 1024,
    batch_size: int = 32,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_at_answer: bool = False,
    engine: str = "transformers",
    chat_template: bool = True,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Evaluation:
    r"""Generate, grade, and measure log-probabilities on every item of every split.

    Columns: ``split``, ``item`` (from 0 in its file), ``sample`` (from 0), ``subject``, ``prompt``, ``response``,
    ``gold``, ``correct`` (tolerant), ``correct_strict``, ``logprob_solution``, ``solution_tokens``,
    ``logprob_answer`` (of the boxed answer straight after the prompt), ``answer_tokens``, ``truncated``, ``stopped``
    (``end``, ``answer`` or ``length``), ``response_tokens``. Log-probabilities are natural and summed, and follow the
    prompt that the response follows; the solution stands there as the file has it, its own thinking included.

    Args:
        model: The checkpoint.
        splits: Name to problem file.
        edit: An edit to apply in memory first.
        think: The think mode of the prompts (see ``mastlens.problems.thinking.THINK``).
        max_new_tokens: Where a response is cut off.
        batch_size: Items a batch; in float32 it changes log-probabilities by rounding only.
        samples: Responses an item.
        temperature: Of sampling; 0 for greedy.
        top_p: Nucleus of sampling.
        seed: With split, item and sample it decides a sampled response, whatever else is evaluated beside it.
        stop_at_answer: End a response at its first complete ``\boxed{...}``.
        engine: What generates: ``transformers``, or ``vllm`` where it is installed.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        device: Where to compute.
        out: Folder for ``responses.parquet`` and ``accuracy.json``; None to write nothing. An interrupted
            evaluation goes on where it stopped.
        overwrite: Replace an evaluation of something else.
        progress: Show progress bars.

    Raises:
        MastlensError: If there is nothing to evaluate on, a setting makes no sense, or a file does not fit.
    """
    if not splits:
        raise BadSetting("There is nothing to evaluate on: give --split NAME=FILE at least once.")
    sampling = sampling_of(samples, temperature, top_p, seed)
    decoding = Decoding(max_new_tokens, batch_size, sampling, stop_at_answer)
    writer = ENGINES.find(engine)
    if think not in THINK:
        raise unknown("think mode", think, THINK)
    tested = EditedCheckpoint.open(model, edit)
    checkpoint = tested.checkpoint
    if tested.edit is not None and not writer.in_memory:
        raise NotSupported(
            f"The engine {engine!r} reads checkpoints from disk and cannot take an edit in memory. Write the edited "
            "checkpoint first: mastlens edit apply EDIT --to PATH --out NEW; then evaluate --model NEW."
        )
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "chat_template": chat_template}
    settings |= {"stop_at_answer": stop_at_answer, "engine": engine}
    settings |= {"samples": samples, "sampling": None if sampling is None else asdict(sampling)}
    settings |= {} if (code := code_digest(writer)) is None else {"engine_code": code}
    settings |= {} if think == "free" else {"think": think}  # records from before there were modes stay valid
    inputs = hash_inputs(splits) | tested.inputs

    def compute() -> Evaluation:
        problems = {name: read_problems(path) for name, path in splits.items()}
        key = sha256_json([settings, inputs, checkpoint.behaviour_digest])
        with tested.loaded(device) as (loaded, tokenizer):
            for split in problems.values():
                check_tokenizer(tokenizer, split, checkpoint.spec)
            with Ledger(None if out is None else Path(out) / _PARTIAL, key) as ledger:
                table = evaluate_model(
                    loaded,
                    tokenizer,
                    problems,
                    decoding,
                    engine=writer.open(loaded, tokenizer, checkpoint.folder),
                    think=think,
                    samples=samples,
                    chat_template=chat_template,
                    progress=progress,
                    sources={name: str(path) for name, path in splits.items()},
                    ledger=ledger,
                )
        return Evaluation(table, settings)

    def write(result: Evaluation, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        write_json(folder / SUMMARY, summarise(result.table))

    return remembered(
        out,
        "evaluate",
        partial=_PARTIAL,
        outputs=[FILE, SUMMARY],
        lineage=tested.lineage,
        behaviour=tested.behaviour,
        inputs=inputs,
        settings=settings,
        device=device,
        overwrite=overwrite,
        compute=compute,
        write=write,
        read=lambda folder: Evaluation(read_table(folder / FILE), settings),
    )


def evaluate_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    splits: Mapping[str, Sequence[Problem]],
    decoding: Decoding | None = None,
    *,
    engine: Engine | None = None,
    think: str = "free",
    samples: int = 1,
    chat_template: bool = True,
    progress: bool = True,
    sources: Mapping[str, str] | None = None,
    ledger: Ledger | None = None,
) -> pd.DataFrame:
    """Return the table of ``evaluate`` for a model in memory.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        splits: Name to problems.
        decoding: How responses are written; None for the defaults.
        engine: What writes them; None for the model in memory.
        think: The think mode of the prompts.
        samples: Responses an item.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        progress: Show progress bars.
        sources: Each split's file, for messages.
        ledger: Keeps responses as they are finished, and knows those of an interrupted run.
    """
    decoding = decoding or Decoding()
    keys = items_of(splits)
    encoded = [
        ids
        for split, ps in splits.items()
        for ids in _encoded(
            ps,
            tokenizer,
            think=think,
            context=context_length(model.config),
            chat_template=chat_template,
            source=(sources or {}).get(split, f"split {split!r}"),
        )
    ]
    answers = [
        EncodedProblem(ids.prompt, answer_ids(rf"\boxed{{{p.answer}}}", tokenizer, think=think))
        for ids, (_, _, p) in zip(encoded, keys, strict=True)
    ]
    prompts = [
        Prompt(f"{split}/{item}", ids.prompt, p.answer, text=str(tokenizer.decode(list(ids.prompt))))
        for (split, item, p), ids in zip(keys, encoded, strict=True)
    ]
    answered = answer(
        engine or HuggingFaceEngine(model, tokenizer),
        prompts,
        decoding,
        samples=samples,
        ledger=ledger,
        progress="generate" if progress else None,
    )
    label = {"solution": "log p(solution)", "answer": "log p(answer)"} if progress else {}
    logprobs = {
        part: sequence_logprobs(model, ids, batch_size=decoding.batch_size, progress=label.get(part))
        for part, ids in (("solution", encoded), ("answer", answers))
    }
    places = {prompt.name: place for place, prompt in enumerate(prompts)}
    rows = []
    for one in answered:
        place = places[one.prompt.name]
        split, item, problem = keys[place]
        rows.append(
            {
                "split": split,
                "item": item,
                "sample": one.sample,
                "subject": problem.subject,
                "prompt": one.prompt.text,
                "response": one.response.text,
                "gold": problem.answer,
                "correct": one.correct,
                "correct_strict": one.correct_strict,
                "logprob_solution": logprobs["solution"][0][place],
                "solution_tokens": logprobs["solution"][1][place],
                "logprob_answer": logprobs["answer"][0][place],
                "answer_tokens": logprobs["answer"][1][place],
                "truncated": one.response.truncated,
                "stopped": one.response.stopped,
                "response_tokens": one.response.tokens,
            }
        )
    return pd.DataFrame(rows)


def _encoded(
    problems: Sequence[Problem],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    think: str,
    context: int | None,
    chat_template: bool,
    source: str,
) -> list[EncodedProblem]:
    """Return the token ids of every problem: the prompt of the think mode, then the solution and end of sequence."""
    encoded = encode_problems(problems, tokenizer, context=context, chat_template=chat_template, source=source)
    if think == "free":
        return encoded
    found = []
    for problem, ids in zip(problems, encoded, strict=True):
        prompt = encode_prompt(problem.problem, tokenizer, chat_template=chat_template, think=think)
        end = ids.solution[len(answer_ids(problem.solution, tokenizer)) :]
        found.append(EncodedProblem(prompt, answer_ids(problem.solution, tokenizer, think=think) + end))
        length = len(prompt) + len(found[-1].solution)
        if context is not None and length > context:  # a mode may need more tokens than the bare prompt
            raise NotSupported(
                f"{source}, line {problem.line}: {length} tokens with its solution in think mode {think!r}, and the "
                f"model's context is {context}. Shorten or remove it; it is not cut in silence."
            )
    return found
