"""What one process of a study does: makes arms and measures them, each a stage of its own folder."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import FILE as EDIT_FILE
from mastlens.edits.edit import Edit
from mastlens.edits.negation import negate
from mastlens.errors import MastlensError, NotFound
from mastlens.models.weights import swapped
from mastlens.registry import code_digest
from mastlens.runs.executors import Work
from mastlens.runs.files import sha256_file, write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, read_record, stage
from mastlens.studies.arms import (
    ARMS,
    Arm,
    EditWithSteps,
    edit_without_gradient,
    is_unrecorded,
    kept_edit,
    matched_edit,
)
from mastlens.studies.bench import Bench
from mastlens.studies.exam import Exam, measure_answers
from mastlens.studies.imitation import own_texts, responses_file
from mastlens.studies.reading import located
from mastlens.studies.settings import SFT, StudySettings
from mastlens.unlearning.objectives import OBJECTIVES, make_objective

ANSWERS, MEASURES = "responses.parquet", "measures.parquet"
SOURCE, REFERENCE = "rlvr", "reference"
"""The arms that all others are held against."""


class Workshop:
    """Makes and measures the arms of a study in one process.

    Args:
        settings: The study.
        out: Its folder.
        target: Forget accuracy to reach on the calibration problems.
        device: Where to compute.
        overwrite: Replace arms made from other inputs or settings.
    """

    def __init__(self, settings: StudySettings, out: Path, *, target: float, device: str, overwrite: bool):
        self.settings, self.out, self.target, self.device, self.overwrite = settings, out, target, device, overwrite
        lineage = settings.lineage
        self.bench = bench_of(settings, device)
        self.reference = None if lineage.reference is None else Checkpoint(lineage.reference)
        self.exam = Exam(self.bench, settings.eval, self.reference)

    def finish(self, arm: Arm) -> None:
        """Make the arm, let it answer, and measure it, unless its folder says that this is done.

        Raises:
            MastlensError: If it cannot be made, with its name.
        """
        try:
            self.examine(arm)
        except MastlensError as error:
            raise located(error, f"arm {arm.name}") from error
        folder = self.out / ARMS / arm.name
        held_against = {"arm": arm.name, "source": SOURCE, **({"reference": REFERENCE} if self.reference else {})}
        paths = {role: self.out / ARMS / name / ANSWERS for role, name in held_against.items()}
        with stage(
            folder,
            "measure",
            outputs=[MEASURES],
            lineage=self._lineage,
            inputs=hash_inputs(paths),
            settings={},
            overwrite=True,  # made of answers alone, which were not replaced without being asked
        ) as current:
            if not current.done:
                perplexity = read_record(folder)["stages"]["evaluate"]["notes"]["perplexity"]
                answers = {role: read_table(path) for role, path in paths.items()}
                measures = measure_answers(
                    answers["arm"],
                    answers["source"],
                    answers.get("reference"),
                    perplexity=math.nan if perplexity is None else perplexity,
                )
                write_table(folder / MEASURES, measures)
        if not arm.keep:
            (folder / EDIT_FILE).unlink(missing_ok=True)

    def examine(self, arm: Arm) -> None:
        """Make the arm and open the evaluation files for it, once; the run record counts the openings."""
        folder = self.out / ARMS / arm.name
        before = read_record(folder)["stages"].get("evaluate", {}).get("notes", {})
        with stage(
            folder,
            "evaluate",
            outputs=[ANSWERS],
            lineage=self._lineage,
            behaviour=self._behaviour,
            inputs={**self.bench.inputs, **self.exam.inputs},
            settings=self._deciding(arm),
            device=self.device,
            overwrite=self.overwrite or is_unrecorded(folder, "evaluate"),
        ) as current:
            if not current.done:
                answers, perplexity, notes = self._examined(arm, folder)
                write_table(folder / ANSWERS, answers)
                opened = int(before.get("eval_opened", 0)) + 1
                kept = None if math.isnan(perplexity) else perplexity
                current.notes = {**notes, "perplexity": kept, "eval_opened": opened}

    @property
    def _lineage(self) -> dict[str, str]:
        fingerprints = {"rlvr": self.bench.checkpoint.fingerprint}
        if self.reference is not None:
            fingerprints["reference"] = self.reference.fingerprint
        return fingerprints

    @property
    def _behaviour(self) -> dict[str, dict[str, str]]:
        digests = {"rlvr": self.bench.checkpoint.behaviour}
        if self.reference is not None:
            digests["reference"] = self.reference.behaviour
        return digests

    def _deciding(self, arm: Arm) -> dict[str, Any]:
        summary = self.settings.summary
        if arm.kind == "matched":
            code = code_digest(OBJECTIVES.find(arm.making["name"]))
            matched = {"decoding": summary["decoding"], "matching": summary["target"], "target": self.target}
            needs = make_objective(**arm.making).needs
            if needs.own_responses:
                matched["own_responses"] = sha256_file(responses_file(self.out, arm.seed))
            if arm.start == SFT or needs.increment or needs.own_responses:
                matched["sft"] = self.bench.sft.fingerprint
            return {**arm.identity, **matched, **({} if code is None else {"code": code})}
        return {**arm.identity, "decoding": summary["decoding"], "rank": self.settings.rank}

    def _examined(self, arm: Arm, folder: Path) -> tuple[pd.DataFrame, float, dict[str, Any]]:
        if arm.kind == "model":
            model = self.bench.model
            if arm.name != SOURCE:
                model = Checkpoint(arm.making["checkpoint"]).load_model(device=self.device)
            return self.exam.answers(model), self.bench.perplexity(model), {}
        edit, notes = self._edit(arm, folder)
        with swapped(self.bench.model, edit.after):
            return self.exam.answers(self.bench.model), self.bench.perplexity(self.bench.model), notes

    def _edit(self, arm: Arm, folder: Path) -> tuple[Edit, dict[str, Any]]:
        compute = self._negated if arm.kind == "negated" else self._matched
        return kept_edit(
            folder,
            functools.partial(compute, arm, folder),
            checkpoint=self.bench.checkpoint,
            inputs=self.bench.inputs,
            settings=self._deciding(arm),
            device=self.device,
            overwrite=self.overwrite,
        )

    def _matched(self, arm: Arm, folder: Path) -> EditWithSteps:
        assert arm.grid is not None
        objective = make_objective(**arm.making)
        return matched_edit(
            self.bench,
            folder,
            arm.names,
            objective,
            grid=arm.grid,
            target=self.target,
            retain=arm.retain,
            seed=arm.seed,
            start=arm.start,
            take=arm.take,
            own=own_texts(self.settings, self.bench, self.out, arm.seed, objective),
            settings={"arm": arm.name},
        )

    def _negated(self, arm: Arm, folder: Path) -> EditWithSteps:
        lineage = self.settings.lineage
        edit = negate(
            sft=lineage.sft,
            rlvr=self.bench.checkpoint,
            base=lineage.base if arm.making["part"] != "all" else None,
            names=list(arm.names),
            rank=self.settings.rank,
            **arm.making,
            progress=False,
        )
        return edit_without_gradient(edit)


def bench_of(settings: StudySettings, device: str) -> Bench:
    """Return the bench of a study."""
    return Bench(
        settings.lineage.rlvr,
        train=settings.train,
        calibration=settings.calibration,
        decoding=settings.decoding,
        neutral=settings.neutral,
        refusals=settings.refusals,
        sft=settings.lineage.sft,
        forget_items=settings.target.forget_items,
        retain_items=settings.target.retain_items,
        device=device,
    )


@dataclass(frozen=True)
class Arms(Work):
    """The arms of a study, made and measured one by one, wherever its folder is seen.

    Attributes:
        settings: The study.
        out: Its folder.
        options: Of the ``Workshop``.
        arms: Name to arm.
    """

    settings: StudySettings
    out: Path
    options: Mapping[str, Any]
    arms: Mapping[str, Arm]

    @cached_property
    def workshop(self) -> Workshop:
        """What makes them, opened once a process."""
        return Workshop(self.settings, self.out, **self.options)

    def do(self, part: str) -> None:
        """Make and measure an arm."""
        self.workshop.finish(self.arms[part])

    def check_here(self) -> None:
        """Raise unless the study's folder is there."""
        if not self.out.is_dir():
            raise NotFound(
                f"There is no folder {self.out}. Every worker writes its arms there itself: put it where all see the "
                "same path."
            )
