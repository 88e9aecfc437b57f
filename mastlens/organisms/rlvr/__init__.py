"""How RLVR is done: recipes by name, each in one file, from one SFT stage to a checkpoint that can be analysed.

``mastlens organism build NAME --recipe R`` trains a lineage's RLVR stages by a recipe in place of its own GRPO. Base
and SFT are the lineage's, so that what differs between two such lineages is what the recipe left in the weights.
"""

from typing import TYPE_CHECKING

from mastlens.organisms.rlvr.recipe import RLVRRecipe
from mastlens.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RECIPES", "RLVRRecipe", "describe_recipes"]

RECIPES: Registry[RLVRRecipe] = Registry(
    "RLVR recipe",
    accepts=lambda value: isinstance(value, RLVRRecipe),
    package="mastlens.organisms.rlvr.recipes",
    group="mastlens.recipes",
)
"""Every recipe by its name."""


def describe_recipes() -> "pd.DataFrame":
    """Return every recipe.

    Columns: ``recipe``, ``summary``, ``advantage``, ``loss``, ``clip``, ``beta``, ``updates``, ``source``. Words of
    ``advantage`` and ``loss`` are TRL's; ``mastlens.organisms.rlvr.recipe`` says what they mean.
    """
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "recipe": name,
                "summary": recipe.summary,
                "advantage": recipe.advantage,
                "loss": recipe.loss,
                "clip": f"{recipe.clip_low:g}/{recipe.clip_high:g}",
                "beta": recipe.beta,
                "updates": recipe.updates,
                "source": recipe.source,
            }
            for name, recipe in RECIPES.items()
        ]
    )
