"""Plants that come with the package: the tensors that moved, and the card. The rest of them is shipped anyway.

A plant is the shipped ``rlvr-retain`` but for a few tensors, and these are small: a lineage that took half an hour to
train is put together in seconds, bit for bit.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.organisms.organism import SHIPPED
from mastlens.organisms.recipes.planted import PlantedRecipe
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.runs.files import atomic_path, write_tensors
from mastlens.runs.reading import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLANTS_HERE = SHIPPED / "planted"
TENSORS, CARD = "plant.safetensors", "card.json"


def shipped_start(recipe: Recipe, seed: int) -> Path | None:
    """Return the folder of the shipped lineage where its first stages are those of this recipe and seed."""
    from mastlens.organisms import get_organism  # which knows the plants

    own = get_organism("qwen2")
    same = isinstance(own.recipe, Recipe) and own.recipe.trained_by() == recipe.trained_by()
    return own.folder if same and read_object(own.folder / CARD, "a card")["seed"] == seed else None


def kept_plant(recipe: PlantedRecipe, seed: int) -> Path | None:
    """Return the folder of a plant that was trained by this recipe and seed, and is shipped."""
    folder = PLANTS_HERE / f"{recipe.kind}-seed{seed}"
    if not (folder / CARD).is_file() or shipped_start(recipe.lineage, seed) is None:
        return None
    card = read_object(folder / CARD, "a card")
    same = {key: card["plant"][key] for key in ("kind", "retain", "passes", "lr")}
    trained = card["recipe"] == asdict(recipe.lineage)
    return folder if trained and same.items() <= asdict(recipe).items() else None


def keep_plant(lineage: Path, out: Path) -> Path:
    """Write what a planted lineage has that the shipped one has not.

    Args:
        lineage: Folder of the lineage.
        out: Folder of such plants.

    Returns:
        The plant's folder.
    """
    card = read_object(lineage / CARD, "a card")
    after = Checkpoint(lineage / "rlvr")
    moved = dict.fromkeys(name.partition("#")[0] for name in card["plant"]["truth"])
    target = out / f"{card['plant']['kind']}-seed{card['seed']}"
    with atomic_path(target) as folder:
        folder.mkdir()
        write_tensors(folder / TENSORS, {name: after.tensor(name) for name in moved})
        shutil.copyfile(lineage / CARD, folder / CARD)
    return target


def put_plant(model: "PreTrainedModel", plant: Path) -> None:
    """Put the tensors of a plant that is kept into its ``rlvr-retain``, in place."""
    model.load_state_dict(load_file(plant / TENSORS), strict=False)
