"""Traces of a model, generated and judged: what it still shows of what it should have forgotten (RT-UA of R2MU)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mastlens.decoding.answering import Answered, answer
from mastlens.decoding.engines import HuggingFaceEngine
from mastlens.decoding.prompts import Prompt, items_of
from mastlens.decoding.reflection import reflection_penalty
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting
from mastlens.evaluation.judges import TRACE_RUBRIC, UNJUDGED, Judge, Judgement, find_judge, judge_all, judge_settings
from mastlens.evaluation.multiple_choice import Choice, score_choices
from mastlens.evaluation.process.model import ProcessRewardModel, find_prm
from mastlens.evaluation.settings import OFF, EvaluateTracesSettings, JudgeChoice
from mastlens.evaluation.traces.questions import Asked, read_questions
from mastlens.evaluation.traces.results import NOTHING, TraceEvaluation
from mastlens.evaluation.traces.rules import RuleJudge, sentence_categories
from mastlens.runs.calls import takes
from mastlens.runs.files import sha256_json
from mastlens.runs.ledger import Ledger
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tables import Kept, json_rows

FILE = "trace_judgements.parquet"
SUMMARY = "trace_judgements.json"
_PARTIAL = "trace_responses.partial.jsonl"


@takes(EvaluateTracesSettings)
def evaluate_traces(settings: EvaluateTracesSettings) -> TraceEvaluation:
    """Let a model reason about questions and judge every trace: RT-UA, FA-UA and their mean (arXiv:2506.12963).

    Questions with options are asked with the options listed and ``Answer:`` behind them. The paper samples at
    temperature 0.6 with top_p 0.95; here greedy is the default, because it repeats. With split, item and sample the
    seed decides a sampled response. See ``mastlens.problems.thinking.PARTS`` for what can be judged.

    With ``out`` the folder holds ``trace_judgements.parquet`` and ``trace_judgements.json``; an interrupted run goes on
    where it stopped.

    Raises:
        MastlensError: If there are no questions, a setting does not exist, or the judge cannot judge them.
    """
    questions, samples = settings.questions, settings.samples
    if not questions:
        raise BadSetting("There are no questions: give --questions NAME=FILE at least once.")
    judge, decoding = traces_judge(settings), settings.decoding()
    prm = find_prm(settings.prm, settings.device, settings.batch_size)
    tested = EditedCheckpoint.open(settings.model, settings.edit)
    asking = settings.asking
    prompting = {"think": settings.think, "chat_template": asking}
    sampling, reflection = decoding.sampling, settings.reflection
    generation = {"think": settings.think, "max_new_tokens": decoding.max_new_tokens}
    generation |= {**asking.record(), "samples": samples}
    generation |= {"sampling": None if sampling is None else asdict(sampling)}
    generation |= {"reflection": [reflection, settings.reflection_window]} if reflection else {}
    scoring = {"ask": settings.choices_ask, "think": settings.choices_think}
    computing = settings.computing(tested.checkpoint)
    generation |= {} if computing.dtype == "float32" else {"dtype": computing.dtype}  # what was begun before goes on
    generation |= {} if settings.limit is None else {"limit": settings.limit}
    recorded: dict[str, Any] = generation | {"judged": settings.judged, "judge": judge_settings(judge)}
    without = settings.choices_think == OFF
    recorded |= {} if prm is None else {"prm": prm.settings}
    recorded |= {"choices_think": None if without else settings.choices_think, "choices_ask": settings.choices_ask}
    inputs = hash_inputs(questions)

    def compute() -> TraceEvaluation:
        asked = {split: read_questions(path)[: settings.limit] for split, path in questions.items()}
        if isinstance(judge, RuleJudge):  # before an hour of generation, not after it
            for one in (one for found in asked.values() for one in found):
                judge.asked(one.question)
        key = sha256_json([generation, inputs | tested.inputs, tested.lineage])
        keep = None if settings.out is None else Path(settings.out) / _PARTIAL
        with tested.loaded(computing) as (loaded, tokenizer), Ledger(keep, key) as ledger:
            window = settings.reflection_window
            penalty = reflection_penalty(tokenizer, reflection, window=window) if reflection else None
            answered = answer(
                HuggingFaceEngine(loaded, tokenizer),
                [
                    Prompt.of(one.content, tokenizer, name=f"{split}/{item}", **prompting)
                    for split, item, one in items_of(asked)
                ],
                replace(decoding, penalty=penalty),
                samples=samples,
                ledger=ledger,
                progress="generate" if settings.progress else None,
            )
            right = {}
            if not without:
                shared = {"batch_size": settings.batch_size, "chat_template": asking}
                shared |= {**scoring, "progress": settings.progress}
                for split, found in asked.items():
                    options = [one.source for one in found if isinstance(one.source, Choice)]
                    if options:
                        scored = score_choices(loaded, tokenizer, options, **shared)
                        right |= {(split, item): bool(ok) for item, ok in enumerate(scored["correct"])}
            # Judged inside the block: what was generated is kept if the judge fails.
            table = judge_traces(judge, asked, answered, right, judged=settings.judged, progress=settings.progress)
            if prm is not None:
                table = score_steps(table, prm, asked, answered, settings.judged, progress=settings.progress)
        return TraceEvaluation(table, recorded)

    kept = Kept(TraceEvaluation, {"table": FILE}, (SUMMARY, _summary), _PARTIAL)
    return tested.remembered("evaluate-traces", kept, settings, settings=recorded, inputs=inputs, compute=compute)


def score_steps(
    table: pd.DataFrame,
    prm: ProcessRewardModel,
    asked: Mapping[str, Sequence[Asked]],
    answered: Sequence[Answered],
    judged: str,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Return a table of judged traces with the steps of what was judged, and the score of each: ``step_scores``.

    Args:
        table: As ``judge_traces`` returns it.
        prm: What scores steps.
        asked: Split to questions.
        answered: The answers, in the table's order.
        judged: Which part of a response is judged.
        progress: Show a progress bar.
    """
    items = items_of(asked)
    samples = len(answered) // max(len(items), 1)
    contents = [one.content for _, _, one in items for _ in range(samples)]
    pairs = [(content, one.part(judged)[1]) for content, one in zip(contents, answered, strict=True)]
    scored = prm.score(pairs, progress="score steps" if progress else None)
    columns = {
        "steps": [list(one.steps) for one in scored],
        "step_scores": [list(one.scores or [float("nan")] * len(one.steps)) for one in scored],
    }
    return table.assign(**{name: pd.Series(lists, index=table.index) for name, lists in columns.items()})


def _summary(result: TraceEvaluation) -> dict[str, Any]:
    return {"splits": json_rows(result.summary), "categories": json_rows(result.categories)}


def traces_judge(settings: EvaluateTracesSettings) -> Judge:
    """Return the judge of traces that was given, or asked for by name.

    Raises:
        MastlensError: If there is no such judge, or something that it needs is missing.
    """
    return find_judge(settings, _rule_judge, TRACE_RUBRIC)


def _rule_judge(chosen: JudgeChoice) -> RuleJudge:
    if chosen.facts is None:
        raise BadSetting("--judge rule needs --facts: facts.json of the organism's lineage.")
    return RuleJudge.open(chosen.facts)


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
