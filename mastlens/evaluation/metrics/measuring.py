"""The field's metrics of a model on its splits: everything that several of them need is read once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting, MastlensError
from mastlens.evaluation.metrics.catalogue import find_metrics
from mastlens.evaluation.metrics.items import ItemSet, read_items, read_text_items
from mastlens.evaluation.metrics.metric import OPTIONS, RESPONSES, Aggregate, Metric
from mastlens.evaluation.metrics.reading import EncodedItems, SplitReading, encode_items, read_splits
from mastlens.evaluation.metrics.settings import MetricChoice
from mastlens.evaluation.metrics.tables import ITEMS, STAGE, SUMMARY, TABLE, VALUES, Measured, TableScores
from mastlens.evaluation.metrics.traps import holdout_notes, model_shape, note_of, reference_notes
from mastlens.plots.cards.carded import Carded
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import context_length
from mastlens.runs.settings import FilePath
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tables import Kept, json_rows
from mastlens.statistics import NONE, Interval, mean_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.evaluation.settings import EvaluateSettings
    from mastlens.plots.cards.card import Card

COLUMNS = ("metric", "split", "aggregate", "n", "value", "ci_low", "ci_high", "null", "beyond_null", "note", "failed")
VALUE_COLUMNS = ("metric", "part", "split", "item", "value", "null")
ITEM_COLUMNS = ("split", "item", "line", "text_digest", "token_digest", "tokens", "loss")


@dataclass(frozen=True, repr=False)
class MetricScores(Carded):
    """What metrics say of a model.

    Attributes:
        table: One row an aggregate: ``metric``, ``split`` (``ONE / OTHER`` of two), ``aggregate``, ``n`` items,
            ``value``, ``ci_low``, ``ci_high``, ``null`` (what chance gives), ``beyond_null`` (whether the 95 % interval
            of what lies between them, item by item, leaves 0 out), ``note``, and ``failed``, which says why there is no
            number.
        values: One row a metric, part, split and item: ``value``, ``null``.
        items: One row an item: ``split``, ``item``, ``line``, ``text_digest`` and ``token_digest`` (what tells whether
            two models were asked and read the same), ``tokens`` of its answer, ``loss`` (mean a token, in nats).
        settings: What made them.
    """

    table: pd.DataFrame
    values: pd.DataFrame
    items: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, str]:
        """Metric to why there is no number of it; the others are there."""
        rows = self.table[self.table["failed"] != ""]
        return dict(zip(rows["metric"], rows["failed"], strict=True))

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.metrics import metrics_card

        return metrics_card(self.table, self.settings)

    def plot(self) -> "go.Figure":
        """Draw every aggregate with its interval, beside what chance gives."""
        from mastlens.plots.metrics import plot_metrics

        return plot_metrics(self.table)


def measure_metrics(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    splits: Mapping[str, ItemSet],
    metrics: Sequence[str | Metric],
    *,
    responses: Mapping[str, Sequence[str]] | None = None,
    reference: Measured | None = None,
    think: str = "free",
    chat_template: Asked = True,
    batch_size: int | str = 32,
    progress: bool = True,
) -> MetricScores:
    """Return what metrics say of a model in memory; one that cannot be had loses none of the others.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        splits: Name to items (``read_items``); what a split is for is told by how its name begins.
        metrics: The metrics (``find_metric``).
        responses: Split to what the model wrote to its items; metrics of text need it.
        reference: What was measured of a model that never saw what was to be forgotten.
        think: The think mode of the prompts.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        batch_size: Texts a forward pass; it does not change the result beyond rounding.
        progress: Show progress bars.

    Raises:
        MastlensError: If there is no such metric, the reference is of other items or tokens, or none can be had.
    """
    asked = find_metrics(metrics)
    sources = list(dict.fromkeys(source for metric in asked for source in metric.takes or (metric,)))
    failed: dict[Metric, str] = {}

    def guarded(metric: Metric, made: Callable[[], Any]) -> Any:
        try:
            return made()
        except MastlensError as error:
            failed.setdefault(metric, str(error))
            return None

    where: dict[Metric, list[str]] = {}
    for metric in asked:
        found = guarded(metric, lambda metric=metric: _applies(metric, splits, reference, responses))
        if found is not None:
            for source in metric.takes or (metric,):
                where[source] = [s for s in splits if s in {*where.get(source, ()), *found}]
    if len(failed) == len(asked):
        raise BadSetting("\n".join(dict.fromkeys(failed.values())))
    encoded = encode_items(
        splits.values(),
        tokenizer,
        context=context_length(model.config),
        chat_template=chat_template,
        think=think,
    )
    items = _item_table(encoded)
    losses = {} if reference is None else reference.losses_of(items)
    needs = {s: {need for one, on in where.items() if s in on for need in one.needs} for s in splits}
    reads = read_splits(
        model, encoded, needs, responses=responses, reference_losses=losses, batch_size=batch_size, progress=progress
    )
    items["loss"] = np.concatenate(
        [read.losses if read.answers else np.full(len(read.encoded.texts), nan) for read in reads]
    )
    by_split = {read.split: read for read in reads}
    shape = model_shape(model)
    values, notes = [], {**holdout_notes(items, list(splits)), **reference_notes(items, reference, shape)}
    for source in sources:
        rows = guarded(
            source, lambda source=source: [_values(source, by_split[s], notes) for s in where.get(source, ())]
        )
        values += rows or []
    table = pd.concat(values, ignore_index=True) if values else pd.DataFrame(columns=VALUE_COLUMNS)
    scores, others = TableScores(table, "this model"), None if reference is None else reference.scores
    rows = []
    for metric in asked:
        lost = next((failed[source] for source in metric.takes if source in failed), None)
        if lost is not None:
            failed.setdefault(metric, lost)
        found = (
            None if metric in failed else guarded(metric, lambda metric=metric: [*metric.aggregates(scores, others)])
        )
        rows += [_row(metric, one, notes) for one in found or []]
        if metric in failed:
            rows.append(_row(metric, None, notes) | {"failed": failed[metric]})
    return MetricScores(pd.DataFrame(rows, columns=list(COLUMNS)), table, items, {"model": shape})


def _applies(
    metric: Metric,
    splits: Mapping[str, ItemSet],
    reference: Measured | None,
    responses: Mapping[str, Sequence[str]] | None,
) -> list[str]:
    """Return the splits that a metric is measured on; raises where they cannot give it."""
    needs = {need for source in metric.takes or (metric,) for need in source.needs}
    asked = [split for split, one in splits.items() if not (one.texts and needs & {OPTIONS, RESPONSES})]
    if not asked:
        raise BadSetting(
            f"The metric {metric.name!r} is of answers to problems, and there are texts alone: give --split."
        )
    found = metric.applies(asked)
    for split in found:
        metric.check(splits[split])
    if metric.of_reference and reference is None:
        raise BadSetting(
            f"The metric {metric.name!r} needs {metric.of_reference} of a reference model: evaluate one that never saw "
            "what was to be forgotten on the same files, then give its folder as --metrics-reference DIR."
        )
    if RESPONSES in needs and (missing := [split for split in found if split not in (responses or {})]):
        raise BadSetting(
            f"The metric {metric.name!r} needs what the model writes to {', '.join(missing)}: give responses."
        )
    return found


def _item_table(encoded: Sequence[EncodedItems]) -> pd.DataFrame:
    tables = [
        pd.DataFrame(
            {
                "split": one.items.split,
                "item": range(len(one.texts)),
                "line": [item.problem.line for item in one.items.items],
                "text_digest": one.text_digests,
                "token_digest": one.token_digests,
                "tokens": [len(texts[0].solution) for texts in one.texts],
            }
        )
        for one in encoded
    ]
    return pd.concat(tables, ignore_index=True)


def _values(metric: Metric, read: SplitReading, notes: dict[tuple[str, str], str]) -> pd.DataFrame:
    """Return a metric's numbers of a split, and note what is to be known of them."""
    tables = [
        pd.DataFrame(
            {
                "metric": metric.spelled,
                "part": part,
                "split": read.split,
                "item": range(len(found.values)),
                "value": found.values.astype(float),
                "null": np.broadcast_to(found.null, found.values.shape).astype(float),
            }
        )
        for part, found in metric.measure(read).items()
    ]
    notes[metric.spelled, read.split] = metric.note(read)
    return pd.concat(tables, ignore_index=True)


def _row(metric: Metric, one: Aggregate | None, notes: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return a row of the table of aggregates; without numbers where there is no aggregate."""
    if one is None:
        blank = {"split": "", "aggregate": "", "n": 0, "value": nan, "ci_low": nan, "ci_high": nan, "null": nan}
        return {"metric": metric.spelled, **blank, "beyond_null": False, "note": "", "failed": ""}
    interval, beyond = _interval(metric, one)
    of_items = dict.fromkeys(notes.get((m.spelled, one.split), "") for m in (metric, *metric.takes))
    return {
        "metric": metric.spelled,
        "split": one.split,
        "aggregate": one.aggregate,
        "n": one.n,
        "value": one.number.value,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "null": one.null,
        "beyond_null": beyond,
        "note": "; ".join(filter(None, [one.note, *of_items, *note_of(metric, one.split, notes)])),
        "failed": "",
    }


def _interval(metric: Metric, one: Aggregate) -> tuple[Interval, bool]:
    """Return the interval of an aggregate, and whether it is beyond what chance gives."""
    if one.interval is not None or one.items is None:
        interval = one.interval or one.number.interval()
        return interval, bool(interval.low > one.null or interval.high < one.null)
    known = one.items[~np.isnan(one.items)]
    if not known.size:
        return NONE, False
    interval, (least, most) = mean_interval(known), metric.bounds
    if one.nulls is None or np.isnan(one.nulls[~np.isnan(one.items)]).any():
        beyond = False
    else:
        apart = mean_interval(known - one.nulls[~np.isnan(one.items)])
        beyond = bool(apart.low > 0 or apart.high < 0)
    return Interval(max(least, interval.low), min(most, interval.high)), beyond


def check_metrics(chosen: MetricChoice, splits: Mapping[str, FilePath]) -> None:
    """Raise ``MastlensError`` where metrics are of nothing, a split has two meanings, or there is no such metric."""
    texts = chosen.texts or {}
    if not splits and not texts:
        raise BadSetting("Metrics are of problem files or texts: give --split NAME=FILE beside --metrics.")
    if both := sorted(set(texts) & set(splits)):
        raise BadSetting(f"{', '.join(both)}: a split is problems or texts. Give one of them another name.")
    find_metrics(chosen.names)


def run_metrics(asked: "EvaluateSettings", chosen: MetricChoice, responses: pd.DataFrame) -> MetricScores:
    """Measure the metrics of an evaluation, or read them back; raises as ``measure_metrics``.

    Args:
        asked: The evaluation.
        chosen: The metrics.
        responses: What the model wrote, as ``evaluate`` has it; of several samples the first counts.
    """
    metrics = find_metrics(chosen.names)
    reference = None if chosen.reference is None else Measured.read(chosen.reference)
    tested = EditedCheckpoint.open(asked.model, asked.edit)
    computing = asked.computing(tested.checkpoint)
    files, texts = dict(asked.splits or {}), dict(chosen.texts or {})
    settings: dict[str, Any] = {
        "metrics": [metric.spelled for metric in metrics],
        "of": [metric.record() for metric in metrics],
        "dtype": computing.dtype,
        "limit": asked.limit,
        "think": asked.think,
        **asked.asking.record(),
    }
    inputs = hash_inputs({**files, **{f"texts {name}": path for name, path in texts.items()}})
    inputs |= {"responses": _responses_digest(responses)}
    if reference is not None:
        inputs |= hash_inputs({f"reference {file}": reference.folder / file for file in (VALUES, ITEMS)})

    def compute() -> MetricScores:
        sets = {name: read_items(name, path, asked.limit) for name, path in files.items()}
        sets |= {name: read_text_items(name, path, asked.limit) for name, path in texts.items()}
        first = responses[responses["sample"] == 0]
        said = {name: first.loc[first["split"] == name, "response"].tolist() for name in files}
        with tested.loaded(computing) as (loaded, tokenizer):
            found = measure_metrics(
                loaded,
                tokenizer,
                sets,
                metrics,
                responses=said,
                reference=reference,
                think=asked.think,
                chat_template=asked.asking,
                batch_size=asked.batch_size,
                progress=asked.progress,
            )
        return MetricScores(found.table, found.values, found.items, settings | found.settings)

    kept = Kept(
        MetricScores,
        {"table": TABLE, "values": VALUES, "items": ITEMS},
        (SUMMARY, _summary),
    )
    return tested.remembered(STAGE, kept, asked, settings=settings, inputs=inputs, compute=compute)


def _summary(scores: MetricScores) -> dict[str, Any]:
    found = {"metrics": json_rows(scores.table), "failed": scores.failed}
    return found | ({"model": scores.settings["model"]} if "model" in scores.settings else {})


def _responses_digest(responses: pd.DataFrame) -> str:
    from mastlens.runs.files import sha256_json

    return sha256_json(responses[["split", "item", "sample", "response"]].values.tolist())
