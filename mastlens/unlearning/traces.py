"""Reasoning traces about the forget texts, written by the model that will be edited: what R2MU steers.

Generated once and kept: they hang on the model before unlearning alone. R2MU (arXiv:2506.12963) cuts a forget text
into N segments and asks the model to reason about each.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.answering import Answered, answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.prompts import Prompt
from mastlens.errors import NotFound, NotTogether
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import check_tokenizer
from mastlens.problems.reading import Problem
from mastlens.problems.thinking import CLOSER
from mastlens.runs.calls import takes
from mastlens.runs.files import sha256_file, sha256_json, write_table
from mastlens.runs.ledger import Ledger
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, read_record, remembered
from mastlens.unlearning.documents import is_text, read_documents
from mastlens.unlearning.settings import TracesSettings, Tracing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mastlens.plots.cards.card import Card

FILE = "traces.parquet"
STAGE = "traces"
COLUMNS = ("item", "segment", "prompt", "trace", "tokens", "truncated")
_PARTIAL = "traces.partial.jsonl"


@dataclass(frozen=True, repr=False)
class Traces(Carded):
    """Reasoning traces.

    Attributes:
        table: One row a segment: ``item`` (the document, from 0 in its file), ``segment`` (from 0), ``prompt`` (as the
            model read it), ``trace`` (without tags), ``tokens`` (generated), ``truncated`` (cut off inside the trace).
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import traces_card

        return traces_card(self.summary, self.table)

    @property
    def summary(self) -> dict[str, int | float]:
        """Documents, traces, and shares of empty and truncated ones."""
        return {
            "documents": int(self.table["item"].nunique()),
            "traces": len(self.table),
            "empty": float((self.table["trace"].str.strip() == "").mean()),
            "truncated": float(self.table["truncated"].mean()),
            "mean_tokens": float(self.table["tokens"].mean()),
        }


def segments_of(ids: Sequence[int], count: int, size: int) -> list[list[int]]:
    """Return ``count`` windows of ``size`` tokens that begin a ``count``-th of the text apart; fewer of a tiny text."""
    starts = sorted({number * len(ids) // count for number in range(count)})
    return [list(ids[start : start + size]) for start in starts]


def asked_about(document: Problem, tokenizer: "PreTrainedTokenizerBase", tracing: Tracing) -> list[str]:
    """Return what the model is asked about a document: segments with the trigger; a problem is asked as it stands."""
    if not is_text(document):
        texts = [document.problem]
    else:
        ids = tokenizer(document.problem, add_special_tokens=False)["input_ids"]
        windows = segments_of(ids, tracing.segments, tracing.segment_tokens)
        texts = [str(tokenizer.decode(w, skip_special_tokens=True)).strip() for w in windows]
    order = slice(None, None, 1 if tracing.trigger_place == "before" else -1)
    return ["\n".join([part for part in (tracing.trigger, text)[order] if part]) for text in texts]


@takes(TracesSettings)
def traces(settings: TracesSettings) -> Traces:
    """Let a model reason about every forget text, greedily, and keep what it thinks.

    The prompt is the chat template's user turn with segment and trigger, opened for thinking, so that the response
    begins with its trace; without a template it is segment and trigger, a newline and ``<think>``. An interrupted
    run goes on where it stopped. ``out`` gets ``traces.parquet``.

    Raises:
        MastlensError: If files or settings do not fit.
    """
    forget, asking, tracing = settings.forget, settings.asking, settings.tracing
    decoding = Decoding(tracing.max_new_tokens, settings.batch_size)
    checkpoint = Checkpoint(settings.model)
    computing = settings.computing(checkpoint)
    recorded = {**asdict(tracing), **asking.record()}
    recorded |= {"dtype": computing.dtype, "limit": settings.limit}
    inputs = hash_inputs({"forget": forget})

    def compute() -> Traces:
        documents = read_documents(forget)[: settings.limit]
        loaded, tokenizer = computing.load(checkpoint), checkpoint.load_tokenizer()
        check_tokenizer(tokenizer, documents, checkpoint.spec)
        prompts = [
            Prompt.of(text, tokenizer, name=f"{item}/{segment}", think="forced", chat_template=asking)
            for item, document in enumerate(documents)
            for segment, text in enumerate(asked_about(document, tokenizer, tracing))
        ]
        key = sha256_json([recorded, inputs, checkpoint.behaviour_digest])
        with Ledger(None if settings.out is None else Path(settings.out) / _PARTIAL, key) as ledger:
            engine, label = HuggingFaceEngine(loaded, tokenizer), "traces" if settings.progress else None
            answered = answer(engine, prompts, decoding, ledger=ledger, progress=label)
        return Traces(pd.DataFrame(map(_row, answered), columns=list(COLUMNS)), recorded)

    return remembered(
        settings.out,
        STAGE,
        partial=_PARTIAL,
        outputs=[FILE],
        lineage={"rlvr": checkpoint.fingerprint},
        behaviour={"rlvr": checkpoint.behaviour},
        inputs=inputs,
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=lambda result, folder: write_table(folder / FILE, result.table),
        read=lambda folder: Traces(read_table(folder / FILE), recorded),
    )


def _row(answered: Answered) -> dict[str, Any]:
    """Return a trace's row; it counts as cut off unless it was closed."""
    item, _, segment = answered.prompt.name.partition("/")
    response = answered.response
    return {
        "item": int(item),
        "segment": int(segment),
        "prompt": answered.prompt.text,
        "trace": answered.trace,
        "tokens": response.tokens,
        "truncated": response.truncated and CLOSER not in response.text,
    }


def read_traces(
    path: str | os.PathLike[str],
    *,
    forget: str | os.PathLike[str] | None = None,
    fingerprint: str | None = None,
) -> pd.DataFrame:
    """Read a table of traces and check what it was made from, as far as the run record beside it says.

    Args:
        path: A ``traces.parquet``.
        forget: The forget file that they should be about.
        fingerprint: The checkpoint that should have written them.

    Raises:
        MastlensError: If it is no table of traces, or of another file or model.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(
            f"There is no file of traces {path}. Write it first: mastlens traces --model PATH --forget FILE --out DIR"
        )
    table = read_table(path, COLUMNS, maker="mastlens traces")
    made = read_record(path.parent)["stages"].get(STAGE, {})
    source, wrote = made.get("inputs", {}).get("forget"), made.get("lineage", {}).get("rlvr")
    if forget is not None and source and source != sha256_file(Path(forget)):
        raise NotTogether(
            f"{path} holds traces about another file than {forget}. Give the one that they were made from, or generate "
            "them anew: mastlens traces."
        )
    if fingerprint and wrote and wrote != fingerprint:
        raise NotTogether(
            f"{path} was written by another checkpoint ({wrote[:12]}; this one is {fingerprint[:12]}): traces are of "
            "the model that is edited. Generate them anew: mastlens traces."
        )
    return table
