"""Where the checkpoints and problems of a run are: as given, as its record tells, or shipped with the package."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.errors import BadSetting, MastlensError, NotFound, NotTogether
from mastlens.runs.reading import is_folder, is_plain_file

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.checkpoints.lineage import Lineage
    from mastlens.edits.edit import Edit
    from mastlens.organisms import Organism

ROLES = ("base", "sft", "rlvr")
SIDES = ("forget", "retain")
_EDITS = ("edit.safetensors", "arms/selected/edit.safetensors")


@dataclass(frozen=True)
class RunSources:
    """What a run's tables were made of, as far as it can be found.

    Attributes:
        checkpoints: Role (base, sft, rlvr) to where it is.
        problems: Side (forget, retain) to its file.
        edit: An edit of the RLVR checkpoint, or where its file is; None where there is none.
        recorded: Role to the fingerprint in the run's record.
    """

    checkpoints: "Mapping[str, str | os.PathLike[str] | Checkpoint]"
    problems: Mapping[str, Path]
    edit: "Edit | Path | None"
    recorded: Mapping[str, str]

    @cached_property
    def lineage(self) -> "Lineage":
        """The checkpoints, opened and checked to be those of the record.

        Raises:
            MastlensError: If one is not known where it is needed, or is another than the tables were made from.
        """
        from mastlens.checkpoints.lineage import Lineage

        if "rlvr" not in self.checkpoints or not {"base", "sft"} & set(self.checkpoints):
            raise BadSetting(_missing("checkpoints", "explore(study, base=PATH, sft=PATH, rlvr=PATH)"))
        lineage = Lineage.open(**self.checkpoints)
        for role, fingerprint in lineage.fingerprints.items():
            if self.recorded.get(role, fingerprint) != fingerprint:
                raise NotTogether(
                    f"The tables were made from another {role} checkpoint than {lineage.stages[role].spec}: the record "
                    f"has the fingerprint {self.recorded[role][:12]}, this one has {fingerprint[:12]}. Give the "
                    "checkpoint that the run was made from."
                )
        return lineage

    @cached_property
    def opened_edit(self) -> "Edit | None":
        """The edit, read and checked to belong to the RLVR checkpoint; None where there is none."""
        from mastlens.edits.edit import Edit

        if self.edit is None:
            return None
        edit = self.edit if isinstance(self.edit, Edit) else Edit.load(self.edit)
        edit.check_source(self.lineage.rlvr)
        return edit

    def need_problems(self) -> Mapping[str, Path]:
        """Return side to file.

        Raises:
            MastlensError: If no forget problems are known.
        """
        if "forget" not in self.problems:
            raise BadSetting(_missing("forget problems", "explore(study, forget=FILE, retain=FILE)"))
        return self.problems


def find_sources(
    folder: Path,
    record: Mapping[str, Any],
    *,
    checkpoints: "Mapping[str, str | os.PathLike[str] | Checkpoint | None]",
    problems: Mapping[str, str | os.PathLike[str] | None],
    edit: "str | os.PathLike[str] | Edit | None",
) -> RunSources:
    """Find what the run in ``folder`` was made of: what is given first, then its record, then shipped organisms.

    A run record holds fingerprints and hashes; a study's also paths. A shipped file or stage is taken where its hash
    is the recorded one.

    Args:
        folder: The run's folder.
        record: Its ``run.json``.
        checkpoints: Role to what was given.
        problems: Side to what was given.
        edit: What was given; without it the folder's own edit, or the demo's selected one.

    Raises:
        MastlensError: If a problem file that was given is missing.
    """
    from mastlens.edits.edit import Edit

    stages = record["stages"].values()
    recorded = {role: f for stage in stages for role, f in stage.get("lineage", {}).items() if role in ROLES}
    hashes = {side: h for stage in stages for side, h in stage.get("inputs", {}).items() if side in SIDES}
    study = record["stages"].get("study", {}).get("settings", {})
    shipped = _Shipped(recorded, hashes)

    resolved: dict[str, Any] = {role: given for role, given in checkpoints.items() if given is not None}
    for role, spec in study.get("lineage", {}).items():
        if role in ROLES and spec and (str(spec).startswith("organism:") or is_folder(spec)):
            resolved.setdefault(role, spec)
    for role in ROLES:
        if role in recorded and role not in resolved and (stage := shipped.stage(role)):
            resolved[role] = stage

    files = {side: Path(given) for side, given in problems.items() if given is not None}
    for side, path in files.items():
        if not path.is_file():
            raise NotFound(f"There is no problem file {path} (for {side}).")
    for side in SIDES:
        path = study.get("train", {}).get(side)
        if side not in files and path and is_plain_file(path):
            files[side] = Path(path)
        if side not in files and (known := shipped.problems(side)):
            files[side] = known

    if edit is None:
        edit = next((folder / name for name in _EDITS if (folder / name).is_file()), None)
    return RunSources(resolved, files, edit if isinstance(edit, Edit) or edit is None else Path(edit), recorded)


class _Shipped:
    """The stages and training problems in this installation that a record's hashes name."""

    def __init__(self, recorded: Mapping[str, str], hashes: Mapping[str, str]):
        self.recorded, self.hashes = recorded, hashes

    @cached_property
    def _stages(self) -> "dict[str, Checkpoint]":
        """Fingerprint to checkpoint of every shipped stage; what was hashed here is not hashed again."""
        from mastlens.checkpoints.checkpoint import Checkpoint

        stages = [
            Checkpoint(f"organism:{organism.name}/{stage}") for organism in _lineages() for stage in organism.stages
        ]
        return {checkpoint.fingerprint: checkpoint for checkpoint in stages}

    def stage(self, role: str) -> "Checkpoint | None":
        return self._stages.get(self.recorded[role])

    def problems(self, side: str) -> Path | None:
        from mastlens.runs.files import sha256_file

        if side in self.hashes:
            files = (file for one in _lineages() for file in sorted(one.folder.glob(f"{side}-*.jsonl")))
            return next((file for file in files if sha256_file(file) == self.hashes[side]), None)
        # No stage of the run read problems: those that may be looked at go with the organism's checkpoints.
        for checkpoint in (self._stages.get(f) for f in self.recorded.values()):
            if checkpoint is not None:
                name = checkpoint.spec.removeprefix("organism:").partition("/")[0]
                known = next(one for one in _lineages() if one.name == name)
                return known.folder / known.problems[side] if side in known.problems else None
        return None


def _lineages() -> "Iterator[Organism]":
    from mastlens.organisms import ORGANISMS, lineage_folder

    for organism in ORGANISMS.values():
        try:
            lineage_folder(organism.name)
        except MastlensError:  # known by name, but not in this installation
            continue
        yield organism


def _missing(what: str, call: str) -> str:
    return f"This needs the {what} that the run was made from, and its record does not say where they are. Say: {call}."
