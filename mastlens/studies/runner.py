"""A whole study: what has to be measured, the target, every arm, and the tables of all of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.lineage import Lineage
from mastlens.errors import BadSetting
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.devices import device_of
from mastlens.runs.executors import LOCAL, Executor, Processes, find_executor, single_threaded
from mastlens.runs.files import sha256_file, write_json, write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import stage
from mastlens.studies.arms import ARMS, Arm
from mastlens.studies.commands import PROTOCOL, RunSettings
from mastlens.studies.imitation import draw_responses
from mastlens.studies.planning import check_objectives, plan_arms
from mastlens.studies.protocol import ProtocolRun, run_protocol
from mastlens.studies.selecting import check_selections, measure_tables
from mastlens.studies.settings import StudySettings, parse_study, read_study, study_file
from mastlens.studies.tables import contrast_draws, gather_arms, summarise_study
from mastlens.studies.working import MEASURES, REFERENCE, SOURCE, Arms, bench_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

TABLE, SUMMARY, CONTRASTS = "study.parquet", "summary.parquet", "contrasts.parquet"
TARGET = "target.json"


@dataclass(frozen=True, repr=False)
class Study(Carded):
    """What a study found.

    Attributes:
        table: One row an arm; see ``gather_arms``.
        summary: One row an objective, selection and measure; see ``summarise_study``.
        contrasts: One row an objective, selection, random control and measure; see ``contrast_draws``.
        settings: What made it.
        out: Its folder.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    out: Path = Path()

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.edits import study_card

        return study_card(self.table, self.contrasts, self.settings)

    def plot(self) -> "go.Figure":
        """Draw what every arm forgot against what it cost, an objective a panel."""
        from mastlens.plots.study import plot_study

        return plot_study(self.table)

    def plot_selections(self, objective: str, measure: str = "retain_accuracy") -> "go.Figure":
        """Draw one measure of every selection under one objective, beside its random draws."""
        from mastlens.plots.study import plot_study_selections

        return plot_study_selections(self.table, objective=objective, measure=measure)


@takes(RunSettings)
def run_study(asked: RunSettings) -> Study | ProtocolRun:
    """Run a study, or what is still missing of it, and write its tables.

    Each arm has a folder of its own under ``arms`` with its own ``run.json``. However a run ends, the next goes on
    with the first arm that is not finished. Settings are chosen on the calibration files; the evaluation files are
    opened once for each arm, at its end. An arm that never reaches the target, or diverges, says so and stops nothing.

    Writes ``study.parquet``, ``summary.parquet`` and ``contrasts.parquet``, the tables that its rules read, and
    ``target.json``. In Python a study may also be its contents, as a dictionary or settings. ``seed`` is that of the
    random draws of tensors; seeds of batches stand in the study. Results do not depend on ``workers`` or ``executor``.

    ``protocol:NAME`` is a published protocol: ``model`` and a benchmark (``source``) are measured, unlearned by each of
    its objectives and measured again; ``protocol.parquet`` has what came out, ``protocol_published.parquet`` the
    numbers of others, on other models.

    Raises:
        MastlensError: If the study makes no sense, or ``out`` holds another one.
    """
    study, out, workers = asked.study, asked.out, asked.workers
    seed, device, overwrite, progress = asked.seed, asked.device, asked.overwrite, asked.progress
    if isinstance(study, str) and study.startswith(PROTOCOL):
        return run_protocol(asked, study.removeprefix(PROTOCOL))
    of_protocol = [name for name in asked.protocol_only() if getattr(asked, name) is not None]
    if alone := ["--judge" if name == "judged_by" else f"--{name.replace('_', '-')}" for name in of_protocol]:
        raise BadSetting(
            f"{', '.join(alone)}: of a protocol alone ({PROTOCOL}NAME); a study's file says it all itself."
        )
    settings = _read(study, asked.organism)
    if out is None:
        if not isinstance(study, str | os.PathLike):
            raise BadSetting("Say where the study goes: out.")
        out = study_file(study).stem + ("" if asked.organism is None else f"-{asked.organism}")
    out = Path(out)
    if workers is None and asked.executor == LOCAL:
        workers = 1
    executor = find_executor(
        asked.executor, workers=workers, gpus=device_of(device).startswith("cuda"), local=Processes
    )
    check_selections(settings)
    check_objectives(settings)
    checkpoint = Checkpoint(settings.lineage.rlvr)
    Lineage.open(checkpoint, sft=settings.lineage.sft, base=settings.lineage.base)
    with single_threaded():
        measure_tables(settings, out, device=device, overwrite=overwrite, progress=progress)
        arms = plan_arms(settings, out, checkpoint, seed=seed)
        draw_responses(settings, bench_of(settings, device), arms, out, overwrite=overwrite, progress=progress)
        options = {
            "target": _target(settings, out, device, overwrite),
            "device": device,
            "overwrite": overwrite,
        }
        _finish_all(arms, Arms(settings, out, options, {arm.name: arm for arm in arms}), executor, progress)
    return _tabulate(settings, arms, out)


run = run_study
"""The name of the command."""


def _read(study: "str | os.PathLike[str] | Mapping[str, Any] | StudySettings", organism: str | None) -> StudySettings:
    if isinstance(study, StudySettings):
        if organism is not None:
            raise BadSetting("Settings of a study name their checkpoints and files: leave organism out.")
        return study
    return parse_study(study, organism=organism) if isinstance(study, Mapping) else read_study(study, organism)


def _target(settings: StudySettings, out: Path, device: str, overwrite: bool) -> float:
    """Return the forget accuracy to reach: as the study says, or the reference's on the calibration problems."""
    if settings.target.forget_accuracy is not None:
        return settings.target.forget_accuracy
    if settings.lineage.reference is None:
        raise BadSetting(
            "The study names no reference model whose forget accuracy could be the target. Set forget_accuracy under "
            "[target], or reference under [lineage]."
        )
    bench, reference = bench_of(settings, device), Checkpoint(settings.lineage.reference)
    summary = settings.summary
    with stage(
        out,
        "target",
        outputs=[TARGET],
        lineage={"rlvr": bench.checkpoint.fingerprint, "reference": reference.fingerprint},
        behaviour={"rlvr": bench.checkpoint.behaviour, "reference": reference.behaviour},
        inputs={role: digest for role, digest in bench.inputs.items() if role.endswith("-calibration")},
        settings={"decoding": summary["decoding"], "matching": summary["target"]},
        device=device,
        overwrite=overwrite or not (out / TARGET).is_file(),
    ) as current:
        if current.done:
            return float(current.notes["forget_accuracy"])
        accuracy = bench.forget_accuracy(reference.load_model(device=device))
        write_json(out / TARGET, {"forget_accuracy": accuracy})
        current.notes = {"forget_accuracy": accuracy}
    return accuracy


def _finish_all(arms: Sequence[Arm], work: Arms, executor: Executor, progress: bool) -> None:
    """Finish every arm: the anchors here, for all others are measured against them, the rest where they are to run."""
    anchors = [arm for arm in arms if arm.name in (SOURCE, REFERENCE)]
    rest = [arm.name for arm in arms if arm not in anchors]
    for arm in anchors:
        work.workshop.examine(arm)
    with tqdm(total=len(arms), desc="study", unit="arm", smoothing=0.05, disable=not progress) as bar:
        for arm in anchors:
            work.workshop.finish(arm)
            bar.update()
        if executor != Processes(1):
            work = replace(work)  # without this process's models
        for name, _ in executor.run(work, rest) if rest else ():
            bar.set_postfix_str(name)
            bar.update()


def _tabulate(settings: StudySettings, arms: list[Arm], out: Path) -> Study:
    names = {arm.name: out / ARMS / arm.name / MEASURES for arm in arms}
    with stage(
        out,
        "study",
        outputs=[TABLE, SUMMARY, CONTRASTS],
        lineage={"rlvr": Checkpoint(settings.lineage.rlvr).fingerprint},
        inputs={name: sha256_file(path) for name, path in names.items()},
        settings=settings.summary,
        overwrite=True,  # made of the arms alone, each of which answers for its own settings
    ) as current:
        if not current.done:
            table = gather_arms(arms, out)
            write_table(out / TABLE, table)
            write_table(out / SUMMARY, summarise_study(table))
            write_table(out / CONTRASTS, contrast_draws(table))
    table, summary, contrasts = (read_table(out / name) for name in (TABLE, SUMMARY, CONTRASTS))
    return Study(table, summary, contrasts, settings.summary, out)
