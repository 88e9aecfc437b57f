"""How often a model refuses harmful requests, and how often harmless ones."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.decoding.answering import PARTS, answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.generation import sampling_of
from mastlens.decoding.prompts import Prompt
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting, unknown
from mastlens.evaluation.judges import UNJUDGED, Judge, Judgement, Question, judge_all, judge_settings
from mastlens.evaluation.judges.rubrics import REFUSALS
from mastlens.evaluation.safety.requests import draw_requests, read_requests
from mastlens.problems.thinking import THINK
from mastlens.runs.files import sha256_json, write_json, write_table
from mastlens.runs.ledger import Ledger
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, remembered
from mastlens.statistics import Interval, mean_bootstrap, wilson

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.edits.edit import Edit

FILE = "safety.parquet"
SUMMARY = "safety.json"
_PARTIAL = "safety.partial.jsonl"


@dataclass(frozen=True)
class SafetyEvaluation:
    """A model's judged responses to requests of safety benchmarks.

    Attributes:
        table: One row a response: ``data``, ``item`` (the request's number in its file, from 1), ``sample``, ``kind``,
            ``harmful``, ``category`` (the benchmark's), ``prompt``, ``response``, ``trace``, ``answer``, ``truncated``,
            ``judged`` (which part), ``verdict`` (refused, complied or unjudged), ``reason``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> pd.DataFrame:
        """One row a file and kind of request.

        ``data``, ``kind``, ``harmful``, ``n`` judged, ``unjudged``, ``refused``, ``rate`` (refused / n: the safety rate
        of harmful requests, over-refusal of the others), ``ci_low``, ``ci_high`` (Wilson; with several samples a
        bootstrap over requests).
        """
        rows = []
        for key, part in self.table.groupby(["data", "kind", "harmful"], sort=False):
            judged = part[part["verdict"] != UNJUDGED]
            refused = judged["verdict"] == REFUSALS[0]
            number = int(refused.sum())
            interval = Interval(nan, nan)
            if judged["item"].duplicated().any():
                if judged["item"].nunique() > 1:
                    interval = mean_bootstrap(refused.to_numpy(dtype=float), clusters=judged["item"].to_numpy())
            elif len(judged):
                interval = wilson(number, len(judged))
            row = dict(zip(("data", "kind", "harmful"), key, strict=True))
            row |= {"n": len(judged), "unjudged": len(part) - len(judged), "refused": number}
            rate = number / len(judged) if len(judged) else nan
            rows.append(row | {"rate": rate, "ci_low": interval.low, "ci_high": interval.high})
        return pd.DataFrame(rows)


def evaluate_safety(
    *,
    model: "str | os.PathLike[str] | Checkpoint",
    data: Mapping[str, str | os.PathLike[str]],
    judge: Judge,
    edit: "str | os.PathLike[str] | Edit | None" = None,
    think: str = "free",
    judged: str = "answer",
    limit: int | None = None,
    max_new_tokens: int = 1024,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    chat_template: bool = True,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> SafetyEvaluation:
    """Let a model respond to the requests of safety benchmarks and judge whether it refuses.

    Args:
        model: The checkpoint.
        data: Benchmark to its file, e.g. ``{"strongreject": "strongreject_dataset.csv"}``; see ``read_requests``.
        judge: What judges: ``RefusalPhrases()``, or a judge with ``REFUSAL_RUBRIC``.
        edit: An edit to apply in memory first.
        think: The think mode (see ``mastlens.problems.thinking.THINK``).
        judged: Which part of a response is judged (see ``mastlens.decoding.answering.PARTS``). A response without
            that part, as one cut off while thinking, is not judged.
        limit: At most so many requests of each kind, drawn by the seed; R2MU takes 250 of WildJailbreak's
            adversarial harmful ones. None for all.
        max_new_tokens: Where a response is cut off.
        samples: Responses a request.
        temperature: Of sampling; 0 for greedy.
        top_p: Nucleus of sampling.
        seed: Of the draw of requests and of responses.
        batch_size: Requests at a time.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        device: Where to compute.
        out: Folder for ``safety.parquet`` and ``safety.json``; None to write nothing.
        overwrite: Replace judgements of something else.
        progress: Show progress bars.

    Raises:
        MastlensError: If there is no data, a setting does not exist, or a file is of another form.
    """
    if not data:
        raise BadSetting("There is nothing to evaluate on: give --data NAME=FILE at least once.")
    for kind, given, valid in (("think mode", think, THINK), ("part to judge", judged, PARTS)):
        if given not in valid:
            raise unknown(kind, given, valid)
    sampling = sampling_of(samples, temperature, top_p, seed)
    decoding = Decoding(max_new_tokens, batch_size, sampling)
    tested = EditedCheckpoint.open(model, edit)
    generation = {"think": think, "max_new_tokens": max_new_tokens, "chat_template": chat_template, "limit": limit}
    generation |= {
        "samples": samples,
        "sampling": None if sampling is None else asdict(sampling),
        "seed": seed,
    }
    settings: dict[str, Any] = generation | {"judged": judged, "judge": judge_settings(judge)}
    inputs = hash_inputs(data) | tested.inputs

    def compute() -> SafetyEvaluation:
        drawn = {name: draw_requests(read_requests(name, path), limit, seed=seed) for name, path in data.items()}
        requests = {f"{name}/{one.line}": (name, one) for name, found in drawn.items() for one in found}
        key = sha256_json([generation, inputs, tested.checkpoint.behaviour_digest])
        keep = None if out is None else Path(out) / _PARTIAL
        with tested.loaded(device) as (loaded, tokenizer), Ledger(keep, key) as ledger:
            prompts = [
                Prompt.of(one.prompt, tokenizer, name=name, think=think, chat_template=chat_template)
                for name, (_, one) in requests.items()
            ]
            answered = answer(
                HuggingFaceEngine(loaded, tokenizer),
                prompts,
                decoding,
                samples=samples,
                ledger=ledger,
                progress="generate" if progress else None,
            )
            parts = [reply.part(judged) for reply in answered]
            full = [place for place, (_, text) in enumerate(parts) if text.strip()]
            pairs = [(Question(requests[answered[n].prompt.name][1].prompt), parts[n][1]) for n in full]
            found = judge_all(judge, pairs, progress="judge" if progress else None)
        verdicts = dict(zip(full, found, strict=True))
        rows = []
        for place, (reply, (part, _)) in enumerate(zip(answered, parts, strict=True)):
            name, one = requests[reply.prompt.name]
            verdict = verdicts.get(place, Judgement(UNJUDGED, f"there is no {part}"))
            rows.append(
                {
                    "data": name,
                    "item": one.line,
                    "sample": reply.sample,
                    "kind": one.kind,
                    "harmful": one.harmful,
                    "category": one.category,
                    "prompt": one.prompt,
                    "response": reply.response.text,
                    "trace": reply.trace,
                    "answer": reply.answer,
                    "truncated": reply.response.truncated,
                    "judged": part,
                    "verdict": verdict.category,
                    "reason": verdict.reason,
                }
            )
        return SafetyEvaluation(pd.DataFrame(rows), settings)

    def write(result: SafetyEvaluation, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        table = result.summary
        write_json(folder / SUMMARY, {"data": table.astype(object).where(table.notna(), None).to_dict("records")})

    return remembered(
        out,
        "evaluate-safety",
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
        read=lambda folder: SafetyEvaluation(read_table(folder / FILE), settings),
    )
