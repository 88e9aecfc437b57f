"""One arm: an edit made and kept in a folder of its own, so that a run that was ended goes on where it stopped."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import FILE as EDIT_FILE
from mastlens.edits.edit import Edit
from mastlens.errors import BadSetting
from mastlens.runs.files import sha256_json, write_table
from mastlens.runs.stages import read_record, stage
from mastlens.studies.bench import Bench
from mastlens.studies.imitation import OwnTexts
from mastlens.studies.settings import SFT, SOURCE
from mastlens.unlearning.matching import Grid, match_forgetting
from mastlens.unlearning.objectives import Objective
from mastlens.unlearning.settings import FIRST

ARMS = "arms"
"""Folder of a run that holds one folder an arm."""

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
STEPS, SEARCH = "steps.parquet", "search.parquet"

EditWithSteps = tuple[Edit, pd.DataFrame, dict[str, Any]]
"""An edit, its steps, and what to keep of its making in the run record."""


@dataclass(frozen=True)
class Arm:
    """One model of a study.

    Attributes:
        name: Its folder under ``arms``.
        kind: ``model`` (a stage of the lineage), ``matched`` (unlearned to the target) or ``negated``.
        objective: Label of the objective; of the others, what was done.
        selection: Label of the selection.
        rule: The rule behind it.
        draw: Of a random selection, from 1; 0 otherwise.
        seed: Of the batches.
        names: The matrices.
        making: What decides the edit beside that: the objective's coefficients, or part and scale; a checkpoint.
        grid: Of a matched arm.
        retain: Whether a matched arm has a retain term.
        start: Where its runs begin: at the ``source``, or at the values of ``sft`` in what is selected.
        take: Which of a run's checkpoints that forgot enough: the ``first``, or the ``best``.
        keep: Whether its edit file stays.
    """

    name: str
    kind: str
    objective: str
    selection: str = ""
    rule: str = ""
    draw: int = 0
    seed: int = 0
    names: tuple[str, ...] = ()
    making: Mapping[str, Any] = field(default_factory=dict)
    grid: Grid | None = None
    retain: bool = False
    start: str = SOURCE
    take: str = FIRST
    keep: bool = True

    def __post_init__(self):
        # The last word on where an arm is written, whatever a study file calls its parts: below its run's folder.
        if not all(_PART.fullmatch(part) for part in self.name.split("/")):
            raise BadSetting(f"The arm {self.name!r} names folders: letters, digits and _ . + - only.")

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the edit, for the run record; defaults of newer settings are left out."""
        unsaid = {"start": SOURCE, "take": FIRST}
        identity = {
            key: value
            for key, value in asdict(self).items()
            if key not in ("keep", "name") and (key not in unsaid or value != unsaid[key])
        }
        return {**identity, "names": sha256_json(list(self.names))}


def is_unrecorded(folder: Path, name: str) -> bool:
    """Return whether a folder's record knows nothing of a stage: what its files hold was left by a run that ended."""
    return name not in read_record(folder)["stages"]


def kept_edit(
    folder: Path,
    compute: Callable[[], EditWithSteps],
    *,
    checkpoint: Checkpoint,
    inputs: Mapping[str, str],
    settings: Mapping[str, Any],
    device: str = "cpu",
    overwrite: bool = False,
) -> tuple[Edit, dict[str, Any]]:
    """Return an arm's edit from its folder, made first if it is not there, with what is known of it.

    Args:
        folder: The arm's folder, which holds nothing but it.
        compute: Makes the edit.
        checkpoint: The checkpoint that is edited.
        inputs: Hashes of what the edit is made from.
        settings: Everything else that decides it.
        device: Recorded with the cost.
        overwrite: Replace an edit made from other inputs or settings.
    """
    with stage(
        folder,
        "edit",
        outputs=[EDIT_FILE, STEPS],
        lineage={"rlvr": checkpoint.fingerprint},
        behaviour={"rlvr": checkpoint.behaviour},
        inputs=inputs,
        settings=settings,
        device=device,
        overwrite=overwrite or is_unrecorded(folder, "edit"),
    ) as current:
        if not current.done:
            edit, steps, notes = compute()
            edit.save(folder / EDIT_FILE)
            write_table(folder / STEPS, steps)
            current.notes = notes
        edit = Edit.load(folder / EDIT_FILE)
    sizes = [tensor.numel() for tensor in edit.after.values()]
    return edit, {"tensors": len(sizes), "parameters": sum(sizes), **current.notes}


def matched_edit(
    bench: Bench,
    folder: Path,
    names: Sequence[str],
    objective: Objective,
    *,
    grid: Grid,
    target: float,
    retain: bool,
    seed: int,
    start: str = SOURCE,
    take: str = FIRST,
    own: OwnTexts | None = None,
    settings: Mapping[str, Any],
) -> EditWithSteps:
    """Make the edit at matched forgetting; what was looked at on the way goes to ``search.parquet`` in ``folder``.

    Args:
        bench: The model and its problems.
        folder: The arm's folder.
        names: Matrices to edit.
        objective: The objective.
        grid: Learning rates and saved steps.
        target: Forget accuracy to reach on the calibration problems.
        retain: Whether to use the retain problems.
        seed: Decides the batches.
        start: Where runs begin.
        take: Which checkpoint of a run is taken.
        own: What models said themselves, for an objective that learns from that.
        settings: Kept with the edit.
    """
    forget, kept = (bench.forget, bench.retain) if own is None else (own.forget, own.retain)
    before = bench.before(names) if start == SFT or objective.needs.increment else None
    match = match_forgetting(
        bench.checkpoint,
        bench.model,
        names,
        objective,
        forget,
        kept if retain else None,
        begin_at=before if start == SFT else None,
        before=before if objective.needs.increment else None,
        imitated=None if own is None else own.imitated,
        take=take,
        alternatives=bench.alternatives(seed) if objective.needs.alternatives else None,
        grid=grid,
        calibration=bench.calibrated(target),
        seed=seed,
        settings={**settings, "objective": objective.record()},
    )
    write_table(folder / SEARCH, match.search)
    keys = ("lr", "step", "reached", "diverged", "seconds", "peak_mb")
    return match.edit, match.steps, {key: getattr(match, key) for key in keys}


def edit_without_gradient(edit: Edit) -> EditWithSteps:
    """Return an edit that took no steps as one that was made."""
    return edit, pd.DataFrame({"step": pd.Series(dtype=int)}), {}
