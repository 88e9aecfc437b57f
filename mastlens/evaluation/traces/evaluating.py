"""Traces of a model, generated and judged: what it still shows of what it should have forgotten (RT-UA of R2MU)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.decoding.answering import PARTS, Answered, answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.generation import sampling_of
from mastlens.decoding.prompts import Prompt, items_of
from mastlens.decoding.reflection import reflection_penalty
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting, unknown
from mastlens.evaluation.choices import ASK, Choice, score_choices
from mastlens.evaluation.judges import UNJUDGED, Judge, Judgement, judge_all, judge_settings
from mastlens.evaluation.traces.questions import Asked, read_questions
from mastlens.evaluation.traces.results import NOTHING, TraceEvaluation
from mastlens.evaluation.traces.rules import RuleJudge, sentence_categories
from mastlens.problems.thinking import THINK
from mastlens.runs.files import sha256_json, write_json, write_table
from mastlens.runs.ledger import Ledger
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, remembered

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.edits.edit import Edit

FILE = "trace_judgements.parquet"
SUMMARY = "trace_judgements.json"
_PARTIAL = "trace_responses.partial.jsonl"


def evaluate_traces(
    *,
    model: "str | os.PathLike[str] | Checkpoint",
    questions: Mapping[str, str | os.PathLike[str]],
    judge: Judge,
    edit: "str | os.PathLike[str] | Edit | None" = None,
    think: str = "free",
    choices_think: str | None = "empty",
    choices_ask: str = "letter",
    judged: str = "reasoning",
    max_new_tokens: int = 1024,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    reflection: float = 0.0,
    reflection_window: int | None = None,
    batch_size: int = 32,
    chat_template: bool = True,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> TraceEvaluation:
    """Let a model reason about questions and judge every trace: RT-UA, FA-UA and their mean (arXiv:2506.12963).

    Questions with options are asked with the options listed and ``Answer:`` behind them. The paper samples at
    temperature 0.6 with top_p 0.95; here greedy is the default, because it repeats.

    Args:
        model: The checkpoint.
        questions: Name to file: multiple choice (``choices``) or problems, as JSON lines.
        judge: What judges; see ``RuleJudge``, ``EndpointJudge`` and ``LocalJudge``.
        edit: An edit to apply in memory first.
        think: The think mode of the traces (see ``mastlens.problems.thinking.THINK``).
        choices_think: The think mode in which options are scored without reasoning (FA-UA); None to leave that out.
        choices_ask: How options are scored then: ``letter``, ``option`` (their texts) or ``text`` (their texts behind
            the bare question); see ``score_choices``.
        judged: Which part of a response is judged (see ``mastlens.decoding.answering.PARTS``).
        max_new_tokens: Where a response is cut off.
        samples: Responses a question.
        temperature: Of sampling; 0 for greedy.
        top_p: Nucleus of sampling.
        seed: With split, item and sample it decides a sampled response.
        reflection: What is taken off the logits of reflection tokens while decoding (RTP without training); 0 for
            nothing.
        reflection_window: For how many tokens of each thought; None for the whole response.
        batch_size: Items a batch.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        device: Where to compute.
        out: Folder for ``trace_judgements.parquet`` and ``trace_judgements.json``; None to write nothing. An
            interrupted run goes on where it stopped.
        overwrite: Replace judgements of something else.
        progress: Show progress bars.

    Raises:
        MastlensError: If there are no questions, a setting does not exist, or the judge cannot judge them.
    """
    if not questions:
        raise BadSetting("There are no questions: give --questions NAME=FILE at least once.")
    for mode in (think, *([] if choices_think is None else [choices_think])):
        if mode not in THINK:
            raise unknown("think mode", mode, THINK)
    if choices_ask not in ASK:
        raise unknown("way of asking", choices_ask, ASK)
    if judged not in PARTS:
        raise unknown("part to judge", judged, PARTS)
    sampling = sampling_of(samples, temperature, top_p, seed)
    decoding = Decoding(max_new_tokens, batch_size, sampling)
    tested = EditedCheckpoint.open(model, edit)
    generation = {"think": think, "max_new_tokens": max_new_tokens, "chat_template": chat_template}
    generation |= {"samples": samples, "sampling": None if sampling is None else asdict(sampling)}
    generation |= {"reflection": [reflection, reflection_window]} if reflection else {}
    settings: dict[str, Any] = generation | {"judged": judged, "judge": judge_settings(judge)}
    settings |= {"choices_think": choices_think, "choices_ask": choices_ask}
    inputs = hash_inputs(questions) | tested.inputs

    def compute() -> TraceEvaluation:
        asked = {split: read_questions(path) for split, path in questions.items()}
        if isinstance(judge, RuleJudge):  # before an hour of generation, not after it
            for one in (one for found in asked.values() for one in found):
                judge.asked(one.question)
        key = sha256_json([generation, inputs, tested.checkpoint.behaviour_digest])
        keep = None if out is None else Path(out) / _PARTIAL
        with tested.loaded(device) as (loaded, tokenizer), Ledger(keep, key) as ledger:
            penalty = reflection_penalty(tokenizer, reflection, window=reflection_window) if reflection else None
            answered = answer(
                HuggingFaceEngine(loaded, tokenizer),
                [
                    Prompt.of(one.content, tokenizer, name=f"{split}/{item}", think=think, chat_template=chat_template)
                    for split, item, one in items_of(asked)
                ],
                replace(decoding, penalty=penalty),
                samples=samples,
                ledger=ledger,
                progress="generate" if progress else None,
            )
            right = {}
            if choices_think is not None:
                scoring = {"batch_size": batch_size, "chat_template": chat_template}
                scoring |= {"ask": choices_ask, "think": choices_think}
                for split, found in asked.items():
                    choices = [one.source for one in found if isinstance(one.source, Choice)]
                    if choices:
                        scored = score_choices(loaded, tokenizer, choices, progress=progress, **scoring)
                        right |= {(split, item): bool(ok) for item, ok in enumerate(scored["correct"])}
            # Judged inside the block: what was generated is kept if the judge fails.
            table = judge_traces(judge, asked, answered, right, judged=judged, progress=progress)
        return TraceEvaluation(table, settings)

    def write(result: TraceEvaluation, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        tables = {"splits": result.summary, "categories": result.categories}
        # JSON has no NaN: what was not measured is null there.
        write_json(
            folder / SUMMARY,
            {
                name: table.astype(object).where(table.notna(), None).to_dict("records")
                for name, table in tables.items()
            },
        )

    return remembered(
        out,
        "evaluate-traces",
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
        read=lambda folder: TraceEvaluation(read_table(folder / FILE), settings),
    )


def judge_traces(
    judge: Judge,
    asked: Mapping[str, Sequence[Asked]],
    answered: Sequence[Answered],
    right: Mapping[tuple[str, int], bool] | None = None,
    *,
    judged: str = "reasoning",
    progress: bool = True,
) -> pd.DataFrame:
    """Return the table of ``TraceEvaluation`` for responses that are there.

    Args:
        judge: What judges.
        asked: Split to questions.
        answered: The answers to them in the same order, samples side by side, as ``answer`` returns them.
        right: (split, item) to whether the likeliest option is the right one.
        judged: Which part of a response is judged.
        progress: Show a progress bar.
    """
    items = items_of(asked)
    samples = len(answered) // max(len(items), 1)
    keys = [key for key in items for _ in range(samples)]
    parts = [one.part(judged) for one in answered]
    # Where there is nothing to judge, nobody is asked.
    full = [place for place, (_, text) in enumerate(parts) if text.strip()]
    pairs = [(keys[place][2].question, parts[place][1]) for place in full]
    verdicts = dict(zip(full, judge_all(judge, pairs, progress="judge" if progress else None), strict=True))
    rows = []
    for place, ((split, item, one), reply, (part, text)) in enumerate(zip(keys, answered, parts, strict=True)):
        verdict = verdicts.get(place, Judgement(NOTHING, "no text"))
        sentences = sentence_categories(judge, one.question, text, verdict.category)
        rows.append(
            {
                "split": split,
                "item": item,
                "sample": reply.sample,
                "subject": one.source.subject,
                "person": one.source.person,
                "prompt": reply.prompt.text,
                "response": reply.response.text,
                "trace": reply.trace,
                "answer": reply.answer,
                "gold": one.gold,
                "correct": one.correct(reply.answer),
                "truncated": reply.response.truncated,
                "response_tokens": reply.response.tokens,
                "judged": part,
                "category": verdict.category,
                "reason": verdict.reason,
                "leak": verdict.category not in (NOTHING, UNJUDGED),
                "sentences": [sentence.text for sentence in sentences],
                "sentence_categories": [sentence.category for sentence in sentences],
                "choice_correct": (right or {}).get((split, item)),
            }
        )
    return pd.DataFrame(rows).astype({"choice_correct": "boolean"})
