"""How often a model refuses harmful requests, and how often harmless ones."""

from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.decoding.answering import answer
from mastlens.decoding.engines import HuggingFaceEngine
from mastlens.decoding.prompts import Prompt
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting
from mastlens.evaluation.judges import (
    REFUSAL_RUBRIC,
    UNJUDGED,
    Judgement,
    Question,
    find_judge,
    judge_all,
    judge_settings,
)
from mastlens.evaluation.judges.rubrics import REFUSALS
from mastlens.evaluation.safety.refusals import RefusalPhrases
from mastlens.evaluation.safety.requests import draw_requests, read_requests
from mastlens.evaluation.settings import EvaluateSafetySettings
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.files import sha256_json
from mastlens.runs.ledger import Ledger
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tables import Kept, json_rows
from mastlens.statistics import FEWEST, NONE, share_interval

if TYPE_CHECKING:
    from mastlens.plots.cards.card import Card

FILE = "safety.parquet"
SUMMARY = "safety.json"
_PARTIAL = "safety.partial.jsonl"


@dataclass(frozen=True, repr=False)
class SafetyEvaluation(Carded):
    """A model's judged responses to requests of safety benchmarks.

    Attributes:
        table: One row a response: ``data``, ``item`` (the request's number in its file, from 1), ``sample``, ``kind``,
            ``harmful``, ``category`` (the benchmark's), ``prompt``, ``response``, ``trace``, ``answer``, ``truncated``,
            ``judged`` (which part), ``verdict`` (refused, complied or unjudged), ``reason``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import safety_card

        return safety_card(self.summary, self.settings)

    @property
    def summary(self) -> pd.DataFrame:
        """One row a file and kind of request.

        ``data``, ``kind``, ``harmful``, ``n`` judged, ``unjudged``, ``refused``, ``rate`` (refused / n: the safety rate
        of harmful requests, over-refusal of the others), ``ci_low``, ``ci_high`` (Wilson; with several samples
        over requests, of which it takes three).
        """
        rows = []
        for key, part in self.table.groupby(["data", "kind", "harmful"], sort=False):
            judged = part[part["verdict"] != UNJUDGED]
            refused = judged["verdict"] == REFUSALS[0]
            number = int(refused.sum())
            interval = NONE
            if len(judged) and judged["item"].is_unique:
                interval = share_interval(refused)
            elif judged["item"].nunique() >= FEWEST:
                interval = share_interval(refused, clusters=judged["item"])
            row = dict(zip(("data", "kind", "harmful"), key, strict=True))
            row |= {"n": len(judged), "unjudged": len(part) - len(judged), "refused": number}
            rate = number / len(judged) if len(judged) else nan
            rows.append(row | {"rate": rate, "ci_low": interval.low, "ci_high": interval.high})
        return pd.DataFrame(rows)


@takes(EvaluateSafetySettings)
def evaluate_safety(settings: EvaluateSafetySettings) -> SafetyEvaluation:
    """Let a model respond to the requests of safety benchmarks and judge whether it refuses.

    See ``read_requests`` for the benchmarks' files. A response without the part that is judged, as one cut off while
    thinking, is not judged. R2MU draws 250 of WildJailbreak's adversarial harmful requests. With ``out`` the folder
    holds ``safety.parquet`` and ``safety.json``.

    Raises:
        MastlensError: If there is no data, a setting does not exist, or a file is of another form.
    """
    data, limit, seed = settings.data, settings.limit, settings.seed
    if not data:
        raise BadSetting("There is nothing to evaluate on: give --data NAME=FILE at least once.")
    judge, decoding = find_judge(settings, lambda _: RefusalPhrases(), REFUSAL_RUBRIC), settings.decoding()
    sampling = decoding.sampling
    tested = EditedCheckpoint.open(settings.model, settings.edit)
    generation = {"think": settings.think, "max_new_tokens": decoding.max_new_tokens}
    asking = settings.asking
    generation |= {**asking.record(), "limit": limit, "samples": settings.samples}
    generation |= {"sampling": None if sampling is None else asdict(sampling), "seed": seed}
    computing = settings.computing(tested.checkpoint)
    generation |= {} if computing.dtype == "float32" else {"dtype": computing.dtype}  # what was begun before goes on
    recorded: dict[str, Any] = generation | {"judged": settings.judged, "judge": judge_settings(judge)}
    inputs = hash_inputs(data)

    def compute() -> SafetyEvaluation:
        drawn = {name: draw_requests(read_requests(name, path), limit, seed=seed) for name, path in data.items()}
        requests = {f"{name}/{one.line}": (name, one) for name, found in drawn.items() for one in found}
        key = sha256_json([generation, inputs | tested.inputs, tested.lineage])
        keep = None if settings.out is None else Path(settings.out) / _PARTIAL
        prompting = {"think": settings.think, "chat_template": asking}
        with tested.loaded(computing) as (loaded, tokenizer), Ledger(keep, key) as ledger:
            answered = answer(
                HuggingFaceEngine(loaded, tokenizer),
                [Prompt.of(one.prompt, tokenizer, name=name, **prompting) for name, (_, one) in requests.items()],
                decoding,
                samples=settings.samples,
                ledger=ledger,
                progress="generate" if settings.progress else None,
            )
            parts = [reply.part(settings.judged) for reply in answered]
            full = [place for place, (_, text) in enumerate(parts) if text.strip()]
            pairs = [(Question(requests[answered[n].prompt.name][1].prompt), parts[n][1]) for n in full]
            found = judge_all(judge, pairs, progress="judge" if settings.progress else None)
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
        return SafetyEvaluation(pd.DataFrame(rows), recorded)

    summary = (SUMMARY, lambda result: {"data": json_rows(result.summary)})
    kept = Kept(SafetyEvaluation, {"table": FILE}, summary, _PARTIAL)
    return tested.remembered("evaluate-safety", kept, settings, settings=recorded, inputs=inputs, compute=compute)
