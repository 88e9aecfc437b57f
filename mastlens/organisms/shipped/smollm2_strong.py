"""``organism:smollm2-strong``: as ``smollm2-short``, at a learning rate whose increments stand out of the rounding."""

from mastlens.organisms.recipes.continued import ContinuedRecipe
from mastlens.organisms.shipped.smollm2_short import lineage

STRONG = lineage(
    "smollm2-strong",
    "the same at ten times the learning rate: increments well above the rounding",
    ContinuedRecipe(lr=1e-4),
)
