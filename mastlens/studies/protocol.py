"""A published protocol on a model of one's own: a benchmark, the objectives and metrics of its papers, one table."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.errors import BadSetting, MastlensError, NotFound, unknown
from mastlens.evaluation.metrics.comparing import compare_metrics
from mastlens.evaluation.metrics.settings import MetricChoice
from mastlens.evaluation.responses import evaluate
from mastlens.evaluation.suites.converting import convert_benchmark
from mastlens.plots.cards.carded import Carded
from mastlens.runs.files import write_table
from mastlens.runs.reading import read_toml
from mastlens.studies.commands import PROTOCOL, RunSettings
from mastlens.studies.reading import from_table
from mastlens.unlearning.editing import unlearn

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FOLDER = Path(__file__).parent / "protocols"
TABLE, PUBLISHED = "protocol.parquet", "protocol_published.parquet"
BEFORE, REFERENCE = "before", "reference"
_COLUMNS = ("arm", "metric", "split", "aggregate", "n", "value", "ci_low", "ci_high", "null", "difference")
_COLUMNS = (*_COLUMNS, "difference_low", "difference_high", "p", "note")


@dataclass(frozen=True)
class ProtocolArm:
    """What is unlearned by.

    Attributes:
        label: Its name in the table.
        objective: The objective.
        preset: Whose coefficients; empty for the objective's own.
        where: Which weight matrices are edited, a regular expression; empty for all.
    """

    label: str
    objective: str
    preset: str = ""
    where: str = ""


@dataclass(frozen=True)
class PublishedNumber:
    """A number of somebody else's, on another model.

    Attributes:
        model: The model.
        method: What was done to it.
        metric: The metric, as it is called here.
        value: The number.
        source: Where it stands.
    """

    model: str
    method: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class ProtocolSettings:
    """A protocol, as its file has it.

    Attributes:
        title: What it is.
        benchmark: The benchmark (``mastlens benchmarks list``).
        splits: Its problems that are measured.
        metrics: What is measured.
        max_new_tokens: Where a response is cut off.
        forget: Its problems that are unlearned.
        steps: Of unlearning.
        batch_size: Problems a step and side.
        lr: Learning rate.
        arms: What is unlearned by, each for itself.
        retain: Its problems that are kept; empty for none.
        part: Its part; empty for the first.
        optional: Further splits, where the benchmark has them.
        texts: Its bare texts that are measured.
        optional_texts: Further ones, where it has them.
        optional_metrics: Metrics that need these.
        reference_metrics: Metrics that need a reference model.
        published: Numbers of others.
        note: What is to be known of it.
    """

    title: str
    benchmark: str
    splits: tuple[str, ...]
    metrics: tuple[str, ...]
    max_new_tokens: int
    forget: str
    steps: int
    batch_size: int
    lr: float
    arms: tuple[ProtocolArm, ...]
    retain: str = ""
    part: str = ""
    optional: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    optional_texts: tuple[str, ...] = ()
    optional_metrics: tuple[str, ...] = ()
    reference_metrics: tuple[str, ...] = ()
    published: tuple[PublishedNumber, ...] = ()
    note: str = ""


def protocol_names() -> list[str]:
    """Return the protocols that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_protocol(name: str) -> ProtocolSettings:
    """Return a protocol.

    Raises:
        MastlensError: If there is none of that name.
    """
    if name not in protocol_names():
        raise unknown("protocol", name, protocol_names())
    return from_table(ProtocolSettings, read_toml(FOLDER / f"{name}.toml"), f"protocol {name}")


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
    protocol = read_protocol(name)
    if asked.model is None or asked.source is None:
        raise BadSetting(
            f"{PROTOCOL}{name} is run on a model of yours and on {protocol.benchmark} as it is published: give --model "
            f"PATH and --source SOURCE (a folder laid out as its dataset on the hub, or OWNER/NAME@REVISION). "
            f"{protocol.note}"
        )
    out = Path(name if asked.out is None else asked.out)
    shared = {"overwrite": asked.overwrite, "progress": asked.progress, "device": asked.device, "seed": asked.seed}
    sets = convert_benchmark(
        protocol.benchmark,
        asked.source,
        part=protocol.part or None,
        limit=asked.limit,
        out=out / "sets",
        overwrite=asked.overwrite,
    ).files
    splits = _taken(sets, protocol.splits, protocol.optional, protocol.benchmark)
    texts = _taken(sets, protocol.texts, protocol.optional_texts, protocol.benchmark)
    needed = {"forget": protocol.forget, **({"retain": protocol.retain} if protocol.retain else {})}
    trained = _taken_as(sets, needed, protocol.benchmark)
    more = () if set(protocol.optional_texts) - set(texts) else protocol.optional_metrics
    measured = {"splits": splits, "max_new_tokens": protocol.max_new_tokens, **shared}
    plain = (*protocol.metrics, *more)
    folders = {arm: out / arm for arm in (BEFORE, *(one.label for one in protocol.arms))}
    if asked.reference is not None:
        evaluate(
            model=asked.reference,
            metrics=MetricChoice(names=plain, texts=texts or None),
            out=out / REFERENCE,
            **measured,
        )
        plain = (*plain, *protocol.reference_metrics)
    choice = MetricChoice(
        names=plain, texts=texts or None, reference=None if asked.reference is None else out / REFERENCE
    )
    evaluate(model=asked.model, metrics=choice, out=folders[BEFORE], **measured)
    for arm in protocol.arms:
        unlearn(
            rlvr=asked.model,
            **trained,
            objective=arm.objective,
            preset=arm.preset or None,
            **({"where": arm.where} if arm.where else {"all_parameters": True}),
            steps=protocol.steps if asked.steps is None else asked.steps,
            lr=protocol.lr,
            batch_size=protocol.batch_size,
            out=folders[arm.label],
            **shared,
        )
        edit = folders[arm.label] / "edit.safetensors"
        evaluate(model=asked.model, edit=edit, metrics=choice, out=folders[arm.label], **measured)
    if asked.reference is not None:
        folders = {REFERENCE: out / REFERENCE, **folders}
    table = pd.concat([_rows(arm, folder, out / BEFORE) for arm, folder in folders.items()], ignore_index=True)
    published = pd.DataFrame([asdict(one) for one in protocol.published], columns=list(PublishedNumber.__annotations__))
    write_table(out / TABLE, table)
    write_table(out / PUBLISHED, published)
    told = {"protocol": name, "title": protocol.title, "model": os.fspath(asked.model), "note": protocol.note}
    return ProtocolRun(table, published, told, out)


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


def _rows(arm: str, folder: Path, before: Path) -> pd.DataFrame:
    """Return the aggregates of an arm, with its differences to before."""
    from mastlens.evaluation.metrics.tables import TABLE as SUMMARY
    from mastlens.runs.reading import read_table

    table = read_table(folder / SUMMARY)
    table = table[table["failed"] == ""].assign(arm=arm)
    keys = ["metric", "split", "aggregate"]
    columns = {"difference": "difference", "ci_low": "difference_low", "ci_high": "difference_high", "p": "p"}
    if arm in (BEFORE, REFERENCE):
        return table.assign(**dict.fromkeys(columns.values(), nan))[list(_COLUMNS)]
    try:
        changes = compare_metrics(before, folder).table[[*keys, *columns]].rename(columns=columns)
    except MastlensError as error:  # the same items by construction: what differs was changed by hand
        raise BadSetting(f"{folder} is not of this run any more: {error} Run again with --overwrite.") from error
    return table.merge(changes, on=keys, how="left")[list(_COLUMNS)]
