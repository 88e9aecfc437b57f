"""The RLVR run of a shipped lineage, run again to have its steps: they are too large to ship, and not needed often."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.folders import tokenizer_files
from mastlens.errors import NotFound, unknown
from mastlens.organisms import DEFAULT_SEED, lineage_folder, rlvr_recipe
from mastlens.organisms.build import check_trainers, own_randomness, write_stage
from mastlens.organisms.posttraining import quiet_training, rewarded_prompts, train_rlvr
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.settings import OrganismTrajectorySettings
from mastlens.runs.calls import takes
from mastlens.runs.files import atomic_path, cache_folder, sha256_file, sha256_json, stands, write_json
from mastlens.runs.stages import versions

RECORD = "replay.json"


@takes(OrganismTrajectorySettings)
def organism_trajectory(settings: OrganismTrajectorySettings) -> Path:
    """Return the folder of an RLVR run's steps, ``step_N``; made on the first call, found afterwards.

    RLVR starts from the lineage's SFT stage with the prompts, order and seed of the build. On the machine that built
    the lineage the last step is the lineage's ``rlvr``, bit for bit. Elsewhere rounding differs, sampled solutions
    with it, and the run is another one of the same kind; ``replay.json`` says which (``same_as_shipped``). It takes
    about eight minutes on two cores. ``seed`` is what the lineage was built with.

    Raises:
        MastlensError: If there is no such lineage, or TRL is not installed.
    """
    name, lineage, cache, seed = settings.name, settings.lineage, settings.cache, settings.seed
    recipe = settings.recipe or rlvr_recipe(name)
    source = lineage_folder(name) if lineage is None else Path(lineage)
    folder, key = _place(name, source, cache, seed, recipe)
    if stands(folder) and (folder / RECORD).is_file():
        return folder
    check_trainers()
    with atomic_path(folder) as temporary, own_randomness():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source / "sft")

        def save(model, target: Path) -> None:
            write_stage(model, tokenizer, target, recipe=recipe, seed=seed)
            for file_name, file in tokenizer_files(source / "sft").items():
                shutil.copyfile(file, target / file_name)  # a tokenizer that was read notes that it was

        with quiet_training():
            model = AutoModelForCausalLM.from_pretrained(source / "sft")
        *_, problems = rewarded_prompts(recipe, seed)
        train_rlvr(model, tokenizer, problems, recipe, seed, trajectory=temporary, save=save)
        last = max(temporary.iterdir(), key=lambda step: int(step.name.removeprefix("step_")))
        shipped = source / "rlvr" / "model.safetensors"
        record = {
            **key,
            "same_as_shipped": sha256_file(last / "model.safetensors") == sha256_file(shipped),
            "versions": versions(),
        }
        write_json(temporary / RECORD, record)
    return folder


def _place(
    name: str, source: Path, cache: str | os.PathLike[str] | None, seed: int, recipe: Recipe
) -> tuple[Path, dict[str, object]]:
    key = {"sft": Checkpoint(source / "sft").fingerprint, "seed": seed, "recipe": asdict(recipe)}
    return (cache_folder() if cache is None else Path(cache)) / "trajectories" / f"{name}-{sha256_json(key)[:12]}", key


def cached_step(name: str, step: str = "") -> Path:
    """Return the folder of a shipped lineage's steps, or of one step, from the cache.

    Raises:
        MastlensError: If the run is not in the cache, or has no such step.
    """
    folder, _ = _place(name, lineage_folder(name), None, DEFAULT_SEED, rlvr_recipe(name))
    if not (folder / RECORD).is_file():
        raise NotFound(
            f"The steps of organism:{name} are not shipped and not in the cache ({cache_folder()}). Run its RLVR "
            f"again, about eight minutes: mastlens organism trajectory {name}"
        )
    if not step:
        return folder
    steps = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if step not in steps:
        raise unknown(f"step of the organism {name}", step, steps)
    return folder / step
