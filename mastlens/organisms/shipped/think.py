"""``organism:think``: a model that recalls invented facts inside ``<think> ... </think>``, and mathematics."""

from pathlib import Path

from mastlens.organisms.organism import SHIPPED, Organism
from mastlens.organisms.recipes.pretraining import Pretraining
from mastlens.organisms.recipes.think import ThinkRecipe


def _build(organism: Organism, folder: Path, *, seed: int, recipe: Pretraining, trajectory: bool) -> None:
    from mastlens.organisms.think.build import build_think

    build_think(organism, folder, seed, recipe)


THINK = Organism(
    name="think",
    summary="answers with a reasoning trace; knows invented facts, which reference never saw of the forget side",
    folder=SHIPPED / "think",
    stages=("base", "reference", "think"),
    roles={"base": "base", "reference": "reference", "rlvr": "think"},
    splits=("forget-choices", "forget-open", "retain-choices", "retain-open", "maths"),
    # It learnt from texts and dialogues; what has a problem and a solution is held out, and of that calibration only.
    problems={"forget": "forget-open-calibration.jsonl", "retain": "retain-open-calibration.jsonl"},
    architecture="qwen3",
    recipe=ThinkRecipe(),
    build=_build,
    command="mastlens reasoning-table --organism --out DIR",
    decoding={"max_new_tokens": 128},
)
