"""``organism:smollm2-grpo``: a real pre-trained model that went through SFT and GRPO."""

from pathlib import Path

from mastlens.organisms.organism import CACHED, Organism
from mastlens.organisms.recipes.adapted import AdaptedRecipe


def _build(organism: Organism, folder: Path, *, seed: int, recipe: AdaptedRecipe, trajectory: bool) -> None:
    from mastlens.organisms.adapted import build_adapted

    build_adapted(organism, folder, seed=seed, recipe=recipe)


def _lineage(name: str, summary: str, recipe: AdaptedRecipe) -> Organism:
    return Organism(
        name=name,
        summary=summary,
        folder=CACHED / name,
        stages=("base", "continued", "sft", "rlvr", "rlvr-retain"),
        roles={"base": "continued", "sft": "sft", "rlvr": "rlvr", "reference": "rlvr-retain"},
        splits=("forget", "retain-induced", "retain-solved"),
        problems={"forget": "forget-train.jsonl", "retain": "retain-train.jsonl"},
        architecture="llama",
        recipe=recipe,
        build=_build,
        resumable=True,
        decoding={"max_new_tokens": recipe.max_new_tokens, "batch_size": 48},
    )


GRPO = _lineage(
    "smollm2-grpo",
    "SmolLM2-135M after SFT and GRPO with adapters (hours; goes on where it was stopped)",
    AdaptedRecipe(),
)
WHOLE = _lineage(
    "smollm2-grpo-whole",
    "the same with all parameters trained in every stage",
    AdaptedRecipe(rank=0, continued_lr=1e-4, sft_lr=5e-5, grpo_lr=1e-5),
)
