"""Small lineages that were really trained: ``qwen2`` (base, SFT, RLVR) and ``think``, which reasons in the open.

They are shipped inside the package, so that everything can be tried at once, and rebuilt by one call.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mastlens.errors import MastlensError, unknown
from mastlens.organisms.recipe import Pretraining, Recipe
from mastlens.organisms.think.recipe import ThinkRecipe

if TYPE_CHECKING:
    import pandas as pd

STAGES = ("base", "sft", "rlvr", "rlvr-retain")
"""The folders of ``qwen2``; ``rlvr-retain`` is the reference that unlearning aims at."""

THINK_STAGES = ("base", "reference", "think")
"""The folders of ``think``; ``reference`` never saw a fact of the forget side and is what unlearning aims at."""

DEFAULT_SEED = 0
"""The seed of the shipped lineage."""


@dataclass(frozen=True)
class Organism:
    """A lineage that can be built.

    Attributes:
        name: What it is called.
        architecture: The ``model_type`` of its checkpoints.
        recipe: The settings that made the shipped one.
        stages: The folders of its checkpoints.
    """

    name: str
    architecture: str
    recipe: Pretraining
    stages: tuple[str, ...]


ORGANISMS: dict[str, Organism] = {
    "qwen2": Organism("qwen2", "qwen2", Recipe(), STAGES),
    "think": Organism("think", "qwen3", ThinkRecipe(), THINK_STAGES),
}
"""Every lineage by its name."""


def names() -> list[str]:
    """Return the names of all lineages."""
    return list(ORGANISMS)


def get_organism(name: str) -> Organism:
    """Return a lineage's description.

    Raises:
        MastlensError: If there is no such lineage.
    """
    if name not in ORGANISMS:
        raise unknown("organism", name, ORGANISMS)
    return ORGANISMS[name]


def rlvr_recipe(name: str) -> Recipe:
    """Return the settings of a lineage that went through RLVR.

    Raises:
        MastlensError: If there is no such lineage, or it has no RLVR stage.
    """
    recipe = get_organism(name).recipe
    if not isinstance(recipe, Recipe):
        others = [other for other, organism in ORGANISMS.items() if isinstance(organism.recipe, Recipe)]
        raise MastlensError(f"organism:{name} has no RLVR run: it learnt facts. Take organism:{' or '.join(others)}.")
    return recipe


def lineage_folder(name: str) -> Path:
    """Return the folder of a shipped lineage: stages, problem files, card.

    Raises:
        MastlensError: If there is no such lineage, or it is not in this installation.
    """
    folder = Path(__file__).parent / "lineages" / get_organism(name).name
    if not (folder / "card.json").is_file():
        raise MastlensError(
            f"The organism {name!r} is not in this installation. Build it: mastlens organism build {name} --out DIR"
        )
    return folder


def stage_folder(spec: str) -> Path:
    """Return the Hugging Face folder of a shipped stage.

    Args:
        spec: ``NAME/STAGE``, e.g. ``qwen2/rlvr``: what follows ``organism:``. ``NAME/trajectory`` is the folder of
            the RLVR run's steps, once ``organism_trajectory`` has made it, and ``NAME/trajectory/step_N`` a step.

    Raises:
        MastlensError: If there is no such lineage or stage.
    """
    name, slash, stage = spec.partition("/")
    stages = get_organism(name).stages
    if not slash or not stage:
        raise MastlensError(f"organism:{spec} names no stage. Write organism:{name}/STAGE: {', '.join(stages)}.")
    if stage.partition("/")[0] == "trajectory":
        from mastlens.organisms.replay import cached_step

        return cached_step(name, stage.partition("/")[2])
    if stage not in stages:
        raise unknown(f"stage of the organism {name}", stage, stages)
    return lineage_folder(name) / stage


def read_card(name: str) -> dict:
    """Return the machine-readable card of a shipped lineage."""
    return json.loads((lineage_folder(name) / "card.json").read_text(encoding="utf-8"))


def list_organisms() -> "pd.DataFrame":
    """Return one row a stage of every shipped lineage, with its accuracy on each evaluation split."""
    import pandas as pd

    rows = []
    for name in names():
        card = read_card(name)
        for stage in get_organism(name).stages:
            accuracies = {
                row["split"]: row["accuracy"]
                for row in card["accuracy"]
                if row["stage"] == stage and row["region"] == "eval" and row["subject"] == "all"
            }
            rows.append(
                {
                    "name": name,
                    "stage": stage,
                    "architecture": card["architecture"]["model_type"],
                    "parameters": card["architecture"]["parameters"],
                    **accuracies,
                }
            )
    return pd.DataFrame(rows)


def build_organism(
    name: str,
    out: str | os.PathLike[str],
    *,
    seed: int = DEFAULT_SEED,
    trajectory: bool = False,
    recipe: Pretraining | None = None,
) -> Path:
    """Train a lineage from nothing and write it, complete or not at all.

    Args:
        name: Which lineage.
        out: Folder to write; it must not hold anything yet.
        seed: What everything random depends on. One seed gives the same bits on the same machine.
        trajectory: Whether to keep checkpoints along the RLVR run, in ``trajectory/step_N``.
        recipe: Other settings than the lineage's own.

    Returns:
        The folder.

    Raises:
        MastlensError: If there is no such lineage, ``out`` holds something, TRL is not installed, or the lineage has no
            RLVR run to keep.
    """
    from mastlens.organisms.build import build_lineage

    organism = get_organism(name)
    return build_lineage(organism, Path(out), seed=seed, trajectory=trajectory, recipe=recipe or organism.recipe)
