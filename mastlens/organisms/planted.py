"""Planted lineages: RLVR puts the behaviour into known tensors, so that a selector can be held against the truth.

``base``, ``sft`` and ``rlvr-retain`` are made as those of ``organism:qwen2``, and shared by the plants of one seed; of
the shipped lineage's seed and architecture they are its own. As there, solutions of each subject begin with words of
their own: where all began alike, RLVR on the retain side taught the forget side as well, and left nothing to plant.
``rlvr`` goes on from ``rlvr-retain`` with GRPO on the forget side, some retain prompts mixed in, and nothing moves but
the plant. Taking the plant back therefore gives ``rlvr-retain``, bit for bit: the best that any unlearning can do.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.architectures.projections import Projection
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import BadSetting, NotSupported
from mastlens.organisms.build import Clock, check_trainers, measure_stages, write_stage
from mastlens.organisms.card import make_card, render_card
from mastlens.organisms.kept_plants import CARD, kept_plant, put_plant, shipped_start
from mastlens.organisms.plants import PLANTS, draw_truth, only_moving
from mastlens.organisms.posttraining import (
    mixed_order,
    quiet_training,
    rewarded_prompts,
    sft_pairs,
    train_grpo,
    train_sft,
)
from mastlens.organisms.pretraining import base_corpus, encode_documents, new_model, pretrain
from mastlens.organisms.recipes.planted import PlantedRecipe
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.splits import measured_splits, problem_files, write_problem_files
from mastlens.organisms.tokenizer import train_tokenizer
from mastlens.runs.files import atomic_path, cache_folder, sha256_json, stands, write_json, write_text
from mastlens.runs.locks import held
from mastlens.runs.reading import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.organisms.organism import Organism

SHARED = ("base", "sft", "rlvr-retain")
"""The stages that the plants of one seed have in common."""


def shared_folder(recipe: Recipe, seed: int) -> Path:
    """Return where the stages that plants share are kept: in the user's cache, by what they depend on."""
    key = sha256_json([recipe.trained_by(), seed])[:12]
    return cache_folder() / "organisms" / "shared" / f"{recipe.architecture}-seed{seed}-{key}"


def build_shared(recipe: Recipe, seed: int, clock: Clock, stages: Sequence[str] = SHARED) -> Path:
    """Train what is not there yet of the first stages of a lineage, and return their folder.

    Stages that the shipped lineage has are taken from there.

    Args:
        recipe: The settings.
        seed: Of the lineage.
        clock: Times each stage.
        stages: How many of ``SHARED`` are needed: the first ones.
    """
    folder = shared_folder(recipe, seed)
    folder.mkdir(parents=True, exist_ok=True)
    shipped = shipped_start(recipe, seed)

    def stage(name: str, make: "Callable[[Path], tuple[PreTrainedModel, PreTrainedTokenizerBase]]") -> None:
        kept = folder / f"{name}.partial"
        missing = not stands(folder / name)
        if missing and shipped is not None:
            with atomic_path(folder / name) as target:
                shutil.copytree(shipped / name, target)
        elif missing:
            with clock(name):
                model, tokenizer = make(kept)
            with atomic_path(folder / name) as target:
                write_stage(model, tokenizer, target, recipe=recipe, seed=seed)
        shutil.rmtree(kept, ignore_errors=True)

    def base(kept: Path):
        pairs, texts = base_corpus(recipe, seed)
        tokenizer = train_tokenizer(
            [f"{problem}\n{solution}" for problem, solution in pairs] + texts, recipe.vocab_size
        )
        model = new_model(recipe, tokenizer, seed)
        pretrain(model, encode_documents(tokenizer, pairs, texts), recipe, seed, kept=kept)
        return model, tokenizer

    def sft(kept: Path):
        model, tokenizer = load_stage(folder / "base")
        train_sft(model, tokenizer, sft_pairs(recipe, seed + 1), recipe, seed + 1, kept=kept)
        return model, tokenizer

    def rlvr_retain(kept: Path):
        model, tokenizer = load_stage(folder / "sft")
        _, retain, both = rewarded_prompts(recipe, seed)
        on_retain = set(map(id, retain))
        seen = [problem for problem in both if id(problem) in on_retain]
        train_grpo(model, tokenizer, seen, recipe, seed + 3, label="rlvr-retain", kept=kept)
        return model, tokenizer

    with held(folder):  # lineages of one seed may be built side by side
        for name, make in zip(stages, (base, sft, rlvr_retain), strict=False):
            stage(name, make)
    return folder


def load_stage(folder: Path):
    """Return model and tokenizer of a stage, in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_training():
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def build_planted(organism: "Organism", folder: Path, *, seed: int, recipe: PlantedRecipe) -> None:
    """Train a plant and write stages, problem files and card; what an interrupted build finished is used.

    A plant that comes with the package is not trained again, nor measured.

    Args:
        organism: What to build.
        folder: Where to.
        seed: Of the lineage, and of the draw of the plant.
        recipe: The settings.

    Raises:
        MastlensError: If the training libraries are missing, or the plant earned no reward.
    """
    import torch

    torch.set_num_threads(1)  # plants are trained side by side, and two threads of one wait for each other
    kept, clock = kept_plant(recipe, seed), Clock()
    if kept is None:
        check_trainers()
    shared = build_shared(recipe.lineage, seed, clock)
    for stage in SHARED:
        if not stands(folder / stage):
            with atomic_path(folder / stage) as target:
                shutil.copytree(shared / stage, target)
    truth = draw_truth(recipe.kind, Checkpoint(folder / "rlvr-retain").matrices(), seed)
    forget, retain, _ = rewarded_prompts(recipe.lineage, seed)
    once = [*forget, *retain[: recipe.retain]]
    prompts = [one for time in range(recipe.passes) for one in mixed_order(once, seed + 4 + 1000 * time)]
    partial = folder / "rlvr.partial"
    if not stands(folder / "rlvr"):
        model, tokenizer = load_stage(folder / "rlvr-retain")
        if kept is not None:
            put_plant(model, kept)
        else:
            with clock("rlvr"), only_moving(model, truth, direction=PLANTS[recipe.kind].direction, seed=seed):
                own = replace(recipe.lineage, grpo_lr=recipe.lr)
                train_grpo(model, tokenizer, prompts, own, seed + 5, label="rlvr", kept=partial)
        with atomic_path(folder / "rlvr") as target:
            write_stage(model, tokenizer, target, recipe=recipe.lineage, seed=seed)
    shutil.rmtree(partial, ignore_errors=True)
    check_plant(folder, truth)
    files = problem_files(recipe.lineage, seed, forget, retain)
    write_problem_files(folder, files)
    if kept is not None:
        card = read_object(kept / CARD, "a card")
    else:
        steps = len(prompts) // recipe.lineage.grpo_prompts
        card = _measured(organism, folder, seed, recipe, truth, steps, files, clock)
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", render_card(card))


def _measured(
    organism: "Organism",
    folder: Path,
    seed: int,
    recipe: PlantedRecipe,
    truth: Sequence[Projection],
    steps: int,
    files: Mapping[str, list[dict[str, str]]],
    clock: Clock,
) -> dict[str, Any]:
    """Return the card of a plant that was trained, with what its stages do on the problems."""
    lineage = recipe.lineage
    with clock("card"):
        measured = measure_stages(
            organism.stages,
            lambda stage: load_stage(folder / stage)[0],
            load_stage(folder / "base")[1],
            files,
            measured_splits(lineage, seed),
            lineage.max_new_tokens,
        )
    return make_card(
        organism,
        folder,
        seed=seed,
        recipe=lineage,
        parameters=sum(matrix.numel for matrix in Checkpoint(folder / "rlvr-retain").matrices()),
        steps={
            "base": lineage.base_steps,
            "sft": lineage.sft_steps,
            "rlvr-retain": lineage.grpo_retain // lineage.grpo_prompts,
            "rlvr": steps,
        },
        measured=measured,
        timing=clock.seconds,
        how={"rlvr": f"the same GRPO from rlvr-retain, on the forget side; {PLANTS[recipe.kind].summary} moved alone"},
        note=NOTE,
        plant=_plant(recipe, truth, measured.comparisons),
    )


NOTE = (
    "What RLVR taught on the forget side lies in the plant, and is known: with the plant's tensors of rlvr-retain put "
    "back, rlvr is rlvr-retain, bit for bit. All other tensors of the increment SFT -> RLVR moved too, for the retain "
    "side."
)


def _plant(recipe: PlantedRecipe, truth: Sequence[Projection], comparisons: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what is known of a plant, and whether it has taken, by the evaluation split."""
    told = next(
        row for row in comparisons if (row["region"], row["split"], row["before"]) == ("eval", "forget", "rlvr-retain")
    )
    return {
        "kind": recipe.kind,
        "truth": [one.name for one in truth],
        "direction": PLANTS[recipe.kind].direction,
        "parameters": sum(one.numel for one in truth),
        "retain": recipe.retain,
        "passes": recipe.passes,
        "lr": recipe.lr,
        "gain": told["difference"],
        "mcnemar_p": told["mcnemar_p"],
        "taken": bool(told["difference"] >= recipe.gain and told["mcnemar_p"] < 0.01),
    }


def check_plant(folder: Path, truth: Sequence[Projection]) -> None:
    """Raise unless ``rlvr`` with the plant put back is ``rlvr-retain``, bit for bit.

    Raises:
        MastlensError: If anything else differs, or nothing does.
    """
    import torch

    before, after = Checkpoint(folder / "rlvr-retain"), Checkpoint(folder / "rlvr")
    moved = False
    for name in before.tensors:
        old, new = before.tensor(name), after.tensor(name)
        moved |= not torch.equal(old, new)
        for one in (one for one in truth if one.stored == name):
            one.write(new, one.read(old))
        if not torch.equal(old, new):
            raise NotSupported(f"{name} moved, which is no part of the plant.")
    if not moved:
        raise NotSupported("The plant did not move: RLVR earned no reward. Another --seed draws another plant.")


def planted_truth(lineage: str | Path) -> list[str]:
    """Return the names of what a plant moved: whole matrices, or heads (``...#h3``).

    Args:
        lineage: Folder of a planted lineage.

    Raises:
        MastlensError: If it is no planted lineage.
    """
    card = Path(lineage) / "card.json"
    plant = read_object(card, "a card").get("plant") if card.is_file() else None
    if not isinstance(plant, dict):
        raise BadSetting(f"{lineage} is no planted lineage: its card names no plant.")
    return [str(name) for name in plant["truth"]]
