"""``organism:smollm2-short``: SFT and RLVR from a real pre-trained model, for measuring at real size."""

from pathlib import Path

from mastlens.organisms.organism import CACHED, Organism
from mastlens.organisms.recipes.continued import ContinuedRecipe


def _build(organism: Organism, folder: Path, *, seed: int, recipe: ContinuedRecipe, trajectory: bool) -> None:
    from mastlens.organisms.continued import build_continued

    build_continued(organism, folder, seed=seed, recipe=recipe, trajectory=trajectory)


def lineage(name: str, summary: str, recipe: ContinuedRecipe) -> Organism:
    """Return a lineage that goes on from SmolLM2-135M-Instruct."""
    return Organism(
        name=name,
        summary=summary,
        folder=CACHED / name,
        stages=("base", "sft", "rlvr"),
        roles={"base": "base", "sft": "sft", "rlvr": "rlvr"},
        splits=("forget", "retain"),
        problems={"forget": "forget-train.jsonl", "retain": "retain-train.jsonl"},
        architecture="llama",
        recipe=recipe,
        build=_build,
        trainers=False,
        resumable=True,
        decoding={"max_new_tokens": 128},
    )


SHORT = lineage(
    "smollm2-short", "SmolLM2-135M with 20 steps of SFT and 20 of RLVR, for measuring at real size", ContinuedRecipe()
)
