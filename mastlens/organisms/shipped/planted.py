"""``organism:planted-KIND``: lineages of which one knows where RLVR put the forget side."""

from pathlib import Path

from mastlens.organisms.organism import CACHED, STUDIES, Organism
from mastlens.organisms.plants import PLANTS
from mastlens.organisms.recipes.planted import PlantedRecipe
from mastlens.organisms.recipes.qwen2 import Recipe


def _build(organism: Organism, folder: Path, *, seed: int, recipe: PlantedRecipe, trajectory: bool) -> None:
    from mastlens.organisms.planted import build_planted

    build_planted(organism, folder, seed=seed, recipe=recipe)


def _planted(kind: str, architecture: str = "qwen2", *, tied: bool = True, passes: int = 3) -> Organism:
    name = f"planted-{kind}" if architecture == "qwen2" else f"planted-{architecture}-{kind}"
    lineage = Recipe(
        architecture=architecture,
        tied=tied,
        eval_forget=600,
        eval_retain_math=600,
        eval_retain_gsm=600,
    )
    return Organism(
        name=name,
        summary=f"a plant ({architecture}): {PLANTS[kind].summary} moved when RLVR taught the forget side",
        folder=CACHED / name,
        stages=("base", "sft", "rlvr-retain", "rlvr"),
        roles={"base": "base", "sft": "sft", "rlvr": "rlvr", "reference": "rlvr-retain"},
        splits=("forget", "retain-math", "retain-gsm"),
        problems={"forget": "forget-train.jsonl", "retain": "retain-train.jsonl"},
        architecture=architecture,
        recipe=PlantedRecipe(lineage=lineage, kind=kind, passes=passes),
        build=_build,
        trainers=False,  # a plant that comes with the package is put together; the build asks for them else
        resumable=True,
        study=STUDIES / "planted.toml",
        decoding={"max_new_tokens": 56, "batch_size": 152},
    )


SCATTERED = _planted("scattered")
LAYER = _planted("layer")
VO = _planted("vo")
QK = _planted("qk")
MLP = _planted("mlp")
HEADS = _planted("heads")
DIRECTION = _planted("direction")
EMBEDDINGS = _planted("embeddings", passes=1)  # which learn it within one
LLAMA_SCATTERED = _planted("scattered", "llama", tied=False)
LLAMA_EMBEDDINGS = _planted("embeddings", "llama", tied=False, passes=1)
