"""Responses, their grades, and the log-probability of solution and answer, per item."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.decoding.answering import answer
from mastlens.decoding.continuing import Continuations
from mastlens.decoding.engines import ENGINES, Decoding, Engine, HuggingFaceEngine, Opening
from mastlens.decoding.graders import Grader, find_grader, recorded
from mastlens.decoding.prompts import Prompt, items_of
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting, NotSupported
from mastlens.evaluation.own_texts import check_names, write_own_texts
from mastlens.evaluation.settings import EvaluateSettings
from mastlens.plots.cards.carded import Carded
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import EncodedProblem, check_tokenizer, encode_problems, encode_prompt
from mastlens.problems.reading import Problem, read_problems
from mastlens.problems.thinking import answer_ids, prompt_opens
from mastlens.registry import code_digest
from mastlens.runs.calls import takes
from mastlens.runs.files import sha256_json
from mastlens.runs.ledger import Ledger
from mastlens.runs.settings import FilePath
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tables import Kept
from mastlens.runs.tracking import check_tracker, tracking
from mastlens.statistics import share_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.evaluation.harness import HarnessScores
    from mastlens.evaluation.metrics.measuring import MetricScores
    from mastlens.plots.cards.card import Card

FILE = "responses.parquet"
SUMMARY = "accuracy.json"
_PARTIAL = "responses.partial.jsonl"
COLUMNS = (
    *("split", "item", "sample", "subject", "prompt", "response", "gold", "correct", "correct_strict"),
    *("logprob_solution", "solution_tokens", "logprob_answer", "answer_tokens"),
    *("truncated", "stopped", "response_tokens"),
)


@dataclass(frozen=True, repr=False)
class Evaluation(Carded):
    """A model's responses to problems.

    Attributes:
        table: One row an item; the columns are described at ``evaluate``.
        settings: What made it.
        harness: What lm-evaluation-harness measured, where it was asked for tasks.
        metrics: What the field's metrics say, where they were asked for.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    harness: "HarnessScores | None" = None
    metrics: "MetricScores | None" = None

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import evaluation_card

        return evaluation_card(self.accuracy, self.settings)

    @property
    def accuracy(self) -> pd.DataFrame:
        """One row a split: ``n`` responses, ``correct``, ``accuracy``, ``ci_low``, ``ci_high``, ``truncated``.

        The interval is Wilson's; with several samples an item, whose outcomes hang together, it is of as many as they
        are worth (``share_interval``).
        """
        return pd.DataFrame(
            [_summary(self.table[self.table["split"] == s], split=s) for s in self.table["split"].unique()]
        )

    @property
    def hints(self) -> list[str]:
        """What is to be done where most responses cannot be graded: they were cut off, or state no answer in a box."""
        table = self.table
        if not len(table):
            return []
        cut, bare = table["truncated"].mean(), ~table["response"].str.contains(r"\\boxed", regex=True)
        found = []
        if cut > 0.5:
            found.append(f"{cut:.0%} of the responses were cut off: raise --max-new-tokens.")
        if bare.mean() > 0.5 and not table.loc[bare, "correct"].mean() > 0.5:
            found.append(
                f"{bare.mean():.0%} of the responses have no \\boxed{{}}, and few of these are right: "
                "--answer-format boxed asks for one, --few-shot 4 shows how."
            )
        return found

    def plot(self) -> "go.Figure":
        """Draw accuracy by split with Wilson intervals."""
        from mastlens.plots import plot_accuracy

        return plot_accuracy(self.accuracy.assign(arm="model"))


def _summary(rows: pd.DataFrame, **keys: str) -> dict[str, Any]:
    correct = int(rows["correct"].sum())
    items = rows.groupby(["split", "item"])["correct"].agg(["mean", "size"])
    interval = share_interval(items["mean"], counts=items["size"])
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


@takes(EvaluateSettings)
def evaluate(settings: EvaluateSettings) -> Evaluation:
    r"""Generate, grade, and measure log-probabilities on every item of every split.

    Columns: ``split``, ``item`` (from 0 in its file), ``sample`` (from 0), ``subject``, ``prompt``, ``response``,
    ``gold``, ``correct`` (tolerant), ``correct_strict``, ``logprob_solution``, ``solution_tokens``,
    ``logprob_answer`` (of the boxed answer straight after the prompt), ``answer_tokens``, ``truncated``, ``stopped``
    (``end``, ``answer`` or ``length``), ``response_tokens``. Log-probabilities are natural and summed, and follow the
    prompt that the response follows; the solution stands there as the file has it, its own thinking included. With
    ``solution_logprob=False`` that column is NaN. A prompt is read once, for its response and both log-probabilities,
    where the model's cache is keys and values of every position; else it is read anew for each.

    With split, item and sample the seed decides a sampled response, whatever else is evaluated beside it. With ``out``
    the folder holds ``responses.parquet`` and ``accuracy.json``, of tasks of the harness ``harness.parquet`` and
    ``harness_items.parquet``; an interrupted evaluation goes on where it stopped.

    With ``own_texts`` it also holds ``own-SPLIT.jsonl``, problems whose solutions are the model's own right responses.
    With ``metrics`` it also holds ``metrics.parquet`` (item by item), ``metrics_summary.parquet`` and ``metrics.json``
    (aggregated) and ``metric_items.parquet``; see ``describe_metrics``. The other answers that some of them need stand
    in the problem files: ``paraphrased``, a text, and ``perturbed``, a list.

    Raises:
        MastlensError: If there is nothing to evaluate on, a setting makes no sense, or a file does not fit.
    """
    texts = None if settings.metrics is None else settings.metrics.texts
    if not settings.splits and not texts and settings.harness is None:
        raise BadSetting("There is nothing to evaluate on: give --split NAME=FILE, or --harness TASK.")
    if settings.metrics is not None:
        from mastlens.evaluation.metrics.measuring import check_metrics

        check_metrics(settings.metrics, settings.splits or {})  # before anything is generated
    if settings.own_texts and (settings.out is None or not settings.splits):
        raise BadSetting("Own texts are files of a folder, of splits: give --out DIR and --split NAME=FILE.")
    if settings.own_texts:
        check_names(settings.splits or ())
    check_tracker(settings.track)
    found = _evaluate(settings, settings.splits) if settings.splits else Evaluation(pd.DataFrame(columns=COLUMNS))
    if settings.own_texts and settings.splits and settings.out is not None:
        asked = {name: read_problems(path, settings.limit) for name, path in settings.splits.items()}
        write_own_texts(found.table, asked, Path(settings.out))
    if settings.track is not None and len(found.table):
        with tracking(settings.track, found.settings, settings.out) as log:
            log({f"{row['split']}/accuracy": row["accuracy"] for row in found.accuracy.to_dict("records")}, 0)
    if settings.metrics is not None:
        from mastlens.evaluation.metrics.measuring import run_metrics

        found = replace(found, metrics=run_metrics(settings, settings.metrics, found.table))
    if settings.harness is None:
        return found
    from mastlens.evaluation.harness import run_harness

    return replace(found, harness=run_harness(settings, settings.harness))


def _evaluate(asked: EvaluateSettings, splits: Mapping[str, FilePath]) -> Evaluation:
    decoding = asked.decoding(stop_at_answer=asked.stop_at_answer)
    writer = ENGINES.find(asked.engine)
    options = asked.engine_options(writer)
    grader = find_grader(asked.grader)
    tested = EditedCheckpoint.open(asked.model, asked.edit)
    checkpoint = tested.checkpoint
    computing = asked.computing(checkpoint)
    asking = asked.asking
    settings: dict[str, Any] = {"dtype": computing.dtype, "limit": asked.limit}
    settings |= {
        "solution_logprob": asked.solution_logprob,
        "max_new_tokens": decoding.max_new_tokens,
        **asking.record(),
    }
    settings |= {"stop_at_answer": asked.stop_at_answer, "engine": writer.name, **options}
    sampling = decoding.sampling
    settings |= {"samples": asked.samples, "sampling": None if sampling is None else asdict(sampling)}
    settings |= {} if (code := code_digest(writer)) is None else {"engine_code": code}
    settings |= recorded(grader)
    # Records from before there were modes stay valid.
    settings |= {} if asked.think == "free" else {"think": asked.think}
    inputs = hash_inputs(splits)

    def compute() -> Evaluation:
        problems = {name: read_problems(path, asked.limit) for name, path in splits.items()}
        key = sha256_json([settings, inputs | tested.inputs, checkpoint.behaviour_digest])
        keep = None if asked.out is None else Path(asked.out) / _PARTIAL
        tokenizer = checkpoint.load_tokenizer()
        for split in problems.values():
            check_tokenizer(tokenizer, split, checkpoint.spec)
        opening = Opening(checkpoint, tokenizer, tested.changes, computing, asked.batch_size, options)
        with writer.opened(opening) as engine, Ledger(keep, key) as ledger:
            table = evaluate_model(
                engine,
                tokenizer,
                problems,
                decoding,
                grader=grader,
                think=asked.think,
                samples=asked.samples,
                chat_template=asking,
                solution_logprob=asked.solution_logprob,
                progress=asked.progress,
                sources={name: str(path) for name, path in splits.items()},
                ledger=ledger,
            )
        return Evaluation(table, settings)

    kept = Kept(Evaluation, {"table": FILE}, (SUMMARY, lambda result: summarise(result.table)), _PARTIAL)
    return tested.remembered("evaluate", kept, asked, settings=settings, inputs=inputs, compute=compute)


def evaluate_model(
    model: "PreTrainedModel | Engine",
    tokenizer: "PreTrainedTokenizerBase",
    splits: Mapping[str, Sequence[Problem]],
    decoding: Decoding | None = None,
    *,
    grader: Grader | None = None,
    think: str = "free",
    samples: int = 1,
    chat_template: Asked = True,
    solution_logprob: bool = True,
    progress: bool = True,
    sources: Mapping[str, str] | None = None,
    ledger: Ledger | None = None,
) -> pd.DataFrame:
    """Return the table of ``evaluate`` for a model in memory.

    Args:
        model: The model, or an engine that holds it.
        tokenizer: Its tokenizer.
        splits: Name to problems.
        decoding: How responses are written; None for the defaults.
        grader: What is right; mathematics by default.
        think: The think mode of the prompts.
        samples: Responses an item.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        solution_logprob: Whether to measure the reference solution's log-probability.
        progress: Show progress bars.
        sources: Each split's file, for messages.
        ledger: Keeps responses as they are finished, and knows those of an interrupted run.
    """
    decoding = decoding or Decoding()
    engine = model if isinstance(model, Engine) else HuggingFaceEngine(model, tokenizer)
    keys = items_of(splits)
    encoded = [
        ids
        for split, ps in splits.items()
        for ids in _encoded(
            ps,
            tokenizer,
            think=think,
            context=engine.context,
            chat_template=chat_template,
            source=(sources or {}).get(split, f"split {split!r}"),
        )
    ]
    answers = [
        EncodedProblem(ids.prompt, answer_ids(rf"\boxed{{{p.answer}}}", tokenizer, think=think))
        for ids, (_, _, p) in zip(encoded, keys, strict=True)
    ]
    texts = [str(tokenizer.decode(list(ids.prompt))) for ids in encoded]
    prompts = [
        Prompt(f"{split}/{item}", ids.prompt, p.answer, text=text, opened=prompt_opens(text))
        for (split, item, p), ids, text in zip(keys, encoded, texts, strict=True)
    ]
    texts = {
        prompt.name: {"answer": short, **({"solution": long} if solution_logprob else {})}
        for prompt, short, long in zip(prompts, answers, encoded, strict=True)
    }
    following = Continuations(engine, texts)
    answered = answer(
        following.watched,
        prompts,
        decoding,
        samples=samples,
        grader=grader,
        ledger=ledger,
        progress="generate" if progress else None,
    )
    logprobs = {
        kind: following.logprobs(
            kind, batch_size=decoding.batch_size, progress=f"log p({kind}), prompts read again" if progress else None
        )
        for kind in ("answer", *(["solution"] if solution_logprob else []))
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
                "logprob_solution": logprobs["solution"][one.prompt.name] if solution_logprob else math.nan,
                "solution_tokens": len(encoded[place].solution),
                "logprob_answer": logprobs["answer"][one.prompt.name],
                "answer_tokens": len(answers[place].solution),
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
    chat_template: Asked,
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
