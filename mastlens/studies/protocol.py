"""A published protocol on a model of one's own: a benchmark, the objectives and metrics of its papers, one table."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.analysis.coupling.coupling import couple
from mastlens.analysis.increments.geometry import geometry
from mastlens.errors import BadSetting, MastlensError, NotFound, unknown
from mastlens.evaluation.metrics.comparing import compare_metrics
from mastlens.evaluation.metrics.settings import MetricChoice
from mastlens.evaluation.multiple_choice import choices
from mastlens.evaluation.responses import evaluate
from mastlens.evaluation.suites.converting import convert_benchmark
from mastlens.plots.cards.carded import Carded
from mastlens.runs.files import write_table
from mastlens.selection.ranking import rank
from mastlens.studies.commands import PROTOCOL, RunSettings
from mastlens.studies.protocol_items import COLUMNS, answer_means, choice_means, paired_rows
from mastlens.studies.published import ProtocolArm, ProtocolSettings, read_protocol
from mastlens.unlearning.editing import unlearn

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

TABLE, PUBLISHED = "protocol.parquet", "protocol_published.parquet"
BEFORE, REFERENCE = "before", "reference"


@dataclass(frozen=True, repr=False)
class ProtocolRun(Carded):
    """What a protocol found.

    Attributes:
        table: One row an arm (``before``, ``reference`` and each objective) and aggregate: ``metric``, ``split``,
            ``aggregate``, ``n``, ``value`` with ``ci_low`` and ``ci_high``, ``null``; of an objective also
            ``difference`` to before with ``difference_low``, ``difference_high`` and ``p``, paired by item; ``note``.
        published: Numbers of others on other models: ``model``, ``method``, ``metric``, ``value``, ``source``.
        settings: What made it.
        out: Its folder.
    """

    table: pd.DataFrame
    published: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    out: Path = Path()

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.metrics import protocol_card

        return protocol_card(self.table, self.settings)

    def plot(self, arm: str = BEFORE) -> "go.Figure":
        """Draw every aggregate of one arm, beside what chance gives."""
        from mastlens.plots.metrics import plot_metrics

        rows = self.table[self.table["arm"] == arm]
        if not len(rows):
            raise unknown("arm", arm, self.table["arm"].unique())
        return plot_metrics(rows)


def run_protocol(asked: RunSettings, name: str) -> ProtocolRun:
    """Run a protocol, or what is still missing of it: every step of it is a stage with a folder of its own.

    Raises:
        MastlensError: If there is no such protocol, a model or source is missing, or the benchmark lacks a split.
    """
    protocol = _asked(read_protocol(name), asked, name)
    out = Path(name if asked.out is None else asked.out)
    assert asked.source is not None
    sets = convert_benchmark(
        protocol.benchmark,
        asked.source,
        part=protocol.part or None,
        limit=asked.limit,
        out=out / "sets",
        overwrite=asked.overwrite,
    ).files
    if protocol.reasoning is None:
        table = _Objectives(asked, protocol, sets, out).run()
    else:
        from mastlens.studies.protocol_reasoning import run_reasoning

        table = run_reasoning(asked, protocol, sets, out, before=BEFORE)
    published = pd.DataFrame(protocol.numbers, columns=["model", "method", "metric", "value", "source"])
    write_table(out / TABLE, table)
    write_table(out / PUBLISHED, published)
    told = {"protocol": name, "title": protocol.title, "model": str(asked.model), "note": protocol.note}
    return ProtocolRun(table, published, told, out)


def _asked(protocol: ProtocolSettings, asked: RunSettings, name: str) -> ProtocolSettings:
    """Return the protocol with what is set beside it.

    Raises:
        MastlensError: If something that it needs is missing, or something is given that it has no use for.
    """
    if asked.model is None or asked.source is None:
        raise BadSetting(
            f"{PROTOCOL}{name} is run on a model of yours and on {protocol.benchmark} as it is published: give --model "
            f"PATH and --source SOURCE (a folder laid out as its dataset on the hub, or OWNER/NAME@REVISION). "
            f"{protocol.note}"
        )
    before = {"--sft": asked.sft, "--base": asked.base}
    if protocol.ranked and (missing := [option for option, path in before.items() if path is None]):
        raise BadSetting(
            f"{PROTOCOL}{name} selects matrices by what RLVR changed: give {' and '.join(missing)}, the checkpoints "
            "before --model."
        )
    reasoning = {"--judge": asked.judged_by, "--layer": asked.layer}
    unused = {} if protocol.ranked else dict(before)
    unused |= {} if protocol.reasoning else reasoning
    unused |= {"--where": asked.where} if protocol.ranked else {}
    if given := [option for option, value in unused.items() if value is not None]:
        raise BadSetting(f"{PROTOCOL}{name} has no use for {', '.join(given)}: leave it out.")
    own = {key: getattr(asked, key) for key in ("steps", "batch_size", "max_new_tokens")}
    placed = {key: value for key in ("where", "layer") if (value := getattr(asked, key)) is not None}
    if placed and protocol.reasoning is not None:
        own["reasoning"] = replace(protocol.reasoning, **placed)
    elif placed:
        own["arms"] = tuple(replace(arm, **placed) for arm in protocol.arms)
    return replace(protocol, **{key: value for key, value in own.items() if value is not None})


@dataclass(frozen=True)
class _Objectives:
    """A protocol that measures a model, unlearns it by one objective after another, and measures each.

    Attributes:
        asked: What was asked for.
        protocol: The protocol.
        sets: The benchmark's files.
        out: Its folder.
    """

    asked: RunSettings
    protocol: ProtocolSettings
    sets: Mapping[str, Path]
    out: Path

    def run(self) -> pd.DataFrame:
        """Return the table."""
        asked, protocol, sets = self.asked, self.protocol, self.sets
        splits = _taken(sets, protocol.splits, protocol.optional, protocol.benchmark)
        texts = _taken(sets, protocol.texts, protocol.optional_texts, protocol.benchmark)
        needed = {"forget": protocol.forget, **({"retain": protocol.retain} if protocol.retain else {})}
        trained = _taken_as(sets, needed, protocol.benchmark)
        selected = self._rankings(trained) if protocol.ranked else {}
        more = () if set(protocol.optional_texts) - set(texts) else protocol.optional_metrics
        names = (*protocol.metrics, *more)
        reference = self.out / REFERENCE
        if asked.reference is not None:
            self._measure(asked.reference, REFERENCE, splits, _chosen(names, texts))
            names = (*names, *protocol.reference_metrics)
        choice = _chosen(names, texts, None if asked.reference is None else reference)
        self._measure(asked.model, BEFORE, splits, choice)
        for arm in protocol.arms:
            unlearn(
                rlvr=asked.model,
                **trained,
                objective=arm.objective,
                preset=arm.preset or None,
                **_edited(arm, selected),
                steps=protocol.steps,
                lr=protocol.lr,
                batch_size=protocol.batch_size,
                out=self.out / arm.label,
                **self._shared,
            )
            edit = self.out / arm.label / "edit.safetensors"
            self._measure(asked.model, arm.label, splits, choice, edit)
        arms = [REFERENCE] * (asked.reference is not None) + [BEFORE, *(arm.label for arm in protocol.arms)]
        tables = [_metric_rows(arm, self.out / arm, self.out / BEFORE) for arm in arms if choice is not None]
        means = {arm: [*self._means(self.out / arm)] for arm in arms}
        if means[BEFORE]:
            tables.append(paired_rows(means, BEFORE, [REFERENCE]))
        table = pd.concat(tables, ignore_index=True)
        order = table["arm"].map({arm: place for place, arm in enumerate(arms)})
        return table.iloc[order.argsort(kind="stable")].reset_index(drop=True)

    @property
    def _shared(self) -> dict[str, Any]:
        return {key: getattr(self.asked, key) for key in ("overwrite", "progress", "device", "seed")}

    def _rankings(self, trained: Mapping[str, Path]) -> dict[str, Path]:
        """Return each rule's ranking: of what it selects on the training problems."""
        asked, tables = self.asked, self.out / "tables"
        before = {"sft": asked.sft, "rlvr": asked.model}
        kept = {"out": tables, "overwrite": asked.overwrite, "progress": asked.progress}
        measured = geometry(base=asked.base, **before, seed=asked.seed, **kept).table
        couple(**before, **trained, spectrum=False, seed=asked.seed, device=asked.device, **kept)
        count = int((measured["increment"] == "rlvr").sum())
        found = {}
        for arm in self.protocol.arms:
            if arm.rule and arm.rule not in found:
                folder = self.out / "rankings" / arm.rule
                told = {"seed": asked.seed, "overwrite": asked.overwrite}
                rank(tables, rule=arm.rule, top=max(1, round(arm.share * count)), out=folder, **told)
                found[arm.rule] = folder / "ranking.parquet"
        return found

    def _measure(
        self, model: Any, arm: str, splits: Mapping[str, Path], metrics: MetricChoice | None, edit: Path | None = None
    ) -> None:
        """Evaluate a model, with or without an edit, into the folder of its arm."""
        of_model = {"model": model, "edit": edit, "out": self.out / arm, **self._shared}
        evaluate(splits=splits, max_new_tokens=self.protocol.max_new_tokens, metrics=metrics, **of_model)
        asked = {name: self.sets[name] for name in self.protocol.choices if name in self.sets}
        if asked:
            choices(questions=asked, **of_model)

    def _means(self, folder: Path) -> Any:
        """Yield what is told of an arm beside metrics."""
        if self.protocol.answers:
            yield from answer_means(folder)
        if set(self.protocol.choices) & set(self.sets):
            yield from choice_means(folder)


def _chosen(names: tuple[str, ...], texts: Mapping[str, Path], reference: Path | None = None) -> MetricChoice | None:
    return MetricChoice(names=names, texts=texts or None, reference=reference) if names else None


def _edited(arm: ProtocolArm, rankings: Mapping[str, Path]) -> dict[str, Any]:
    """Return what of a model an arm edits."""
    if arm.rule:
        return {"ranking": rankings[arm.rule]}
    return {"where": arm.where} if arm.where else {"all_parameters": True}


def _taken(
    sets: Mapping[str, Path], needed: tuple[str, ...], optional: tuple[str, ...], benchmark: str
) -> dict[str, Path]:
    """Return the files of these splits."""
    found = _taken_as(sets, {name: name for name in needed}, benchmark)
    return found | {name: sets[name] for name in optional if name in sets}


def _taken_as(sets: Mapping[str, Path], needed: Mapping[str, str], benchmark: str) -> dict[str, Path]:
    for split in needed.values():
        if split not in sets:
            raise NotFound(
                f"The source of {benchmark} has no {split!r}, which the protocol takes; it has {', '.join(sets)}. Add "
                "the file that its dataset on the hub has."
            )
    return {role: sets[split] for role, split in needed.items()}


def _metric_rows(arm: str, folder: Path, before: Path) -> pd.DataFrame:
    """Return the aggregates of an arm, with its differences to before."""
    from mastlens.evaluation.metrics.tables import TABLE as SUMMARY
    from mastlens.runs.reading import read_table

    table = read_table(folder / SUMMARY)
    table = table[table["failed"] == ""].assign(arm=arm)
    keys = ["metric", "split", "aggregate"]
    columns = {"difference": "difference", "ci_low": "difference_low", "ci_high": "difference_high", "p": "p"}
    if arm in (BEFORE, REFERENCE):
        return table.assign(**dict.fromkeys(columns.values(), nan))[list(COLUMNS)]
    try:
        changes = compare_metrics(before, folder).table[[*keys, *columns]].rename(columns=columns)
    except MastlensError as error:  # the same items by construction: what differs was changed by hand
        raise BadSetting(f"{folder} is not of this run any more: {error} Run again with --overwrite.") from error
    return table.merge(changes, on=keys, how="left")[list(COLUMNS)]
