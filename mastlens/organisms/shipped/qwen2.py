"""``organism:qwen2``: base, SFT and RLVR on synthetic mathematics, and the RLVR run without the forget side."""

from pathlib import Path

from mastlens.organisms.organism import SHIPPED, STUDIES, Organism
from mastlens.organisms.recipes.pretraining import Pretraining
from mastlens.organisms.recipes.qwen2 import Recipe


def _build(organism: Organism, folder: Path, *, seed: int, recipe: Pretraining, trajectory: bool) -> None:
    from mastlens.organisms.build import build_qwen2

    assert isinstance(recipe, Recipe)
    build_qwen2(organism, folder, seed, trajectory, recipe)


QWEN2 = Organism(
    name="qwen2",
    summary="base, SFT and RLVR on synthetic mathematics; rlvr-retain was never rewarded on the forget side",
    folder=SHIPPED / "qwen2",
    stages=("base", "sft", "rlvr", "rlvr-retain"),
    roles={"base": "base", "sft": "sft", "rlvr": "rlvr", "reference": "rlvr-retain"},
    splits=("forget", "retain-math", "retain-gsm"),
    problems={"forget": "forget-train.jsonl", "retain": "retain-train.jsonl"},
    architecture="qwen2",
    recipe=Recipe(),
    build=_build,
    study=STUDIES / "unlearning.toml",
    studies={"unlearning": STUDIES / "unlearning.toml", "rewind": STUDIES / "rewind.toml"},
    command="mastlens run organism:qwen2 --out DIR",
    decoding={"max_new_tokens": 56, "batch_size": 152},
)
