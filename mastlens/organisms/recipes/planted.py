"""Every number that a planted lineage depends on, in one frozen place."""

from dataclasses import dataclass

from mastlens.organisms.recipes.qwen2 import Recipe


@dataclass(frozen=True)
class PlantedRecipe:
    """Settings of a planted lineage: what comes before the plant, and the plant.

    Attributes:
        lineage: Of base, SFT and ``rlvr-retain``, which the plants of one seed share.
        kind: Where the behaviour is put, a key of ``mastlens.organisms.plants.PLANTS``.
        retain: Retain prompts, of those that ``rlvr-retain`` saw, among the forget prompts of the plant.
        passes: How often the plant's GRPO sees each prompt.
        lr: Learning rate of the plant's GRPO, constant.
        gain: Least gain in forget accuracy, as a fraction, by which a plant has taken.
    """

    lineage: Recipe
    kind: str
    retain: int = 320
    passes: int = 3
    lr: float = 1e-3
    gain: float = 0.15
