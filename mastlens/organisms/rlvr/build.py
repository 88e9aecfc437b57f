"""The build of a lineage by a recipe: its own base and SFT, RLVR as the recipe does it, problem files, card, record."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from mastlens.errors import BadSetting, NotFound, NotSupported, NotTogether
from mastlens.organisms import DEFAULT_SEED
from mastlens.organisms.build import Clock, measure_stages, write_stage
from mastlens.organisms.card import make_card, render_card
from mastlens.organisms.organism import Organism
from mastlens.organisms.partial import claim
from mastlens.organisms.planted import build_shared, load_stage
from mastlens.organisms.posttraining import rewarded_prompts
from mastlens.organisms.problems import SyntheticProblem
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.rlvr.recipe import RLVRRecipe, Run
from mastlens.organisms.rlvr.record import FILE, Recorder, as_table, kept_rows
from mastlens.organisms.rlvr.scoring import StepScorer
from mastlens.organisms.rlvr.trainer import NoSignal
from mastlens.organisms.splits import measured_splits, problem_files, write_problem_files
from mastlens.registry import code_digest
from mastlens.runs.files import atomic_path, sha256_file, sha256_json, stands, write_json, write_table, write_text
from mastlens.runs.reading import read_object

BEGUN = "begun.json"
"""In the folder of an unfinished lineage: what its stages depend on."""

STARTS = ("base", "sft")
STAGES = ("rlvr", "rlvr-retain")


def by_recipe(
    organism: Organism,
    how: RLVRRecipe,
    match: Path | None,
    scorer: StepScorer | None = None,
    *,
    start_seed: int | None = None,
) -> Organism:
    """Return a lineage that is built by a recipe: resumable, and otherwise what it is.

    Args:
        organism: The lineage.
        how: The recipe.
        match: Folder of the lineage whose accuracy is to be reached.
        scorer: What scores steps.
        start_seed: Of base and SFT; None for the seed of the build.

    Raises:
        MastlensError: If it has no RLVR run that starts from SFT, or what is to be matched is missing or not asked for.
    """
    if not isinstance(organism.recipe, Recipe):
        raise NotSupported(f"organism:{organism.name} has no RLVR run from SFT whose place a recipe could take.")
    if match is not None and not how.needs_match:
        raise BadSetting(f"The recipe {how.name} matches no accuracy. Leave --match out.")
    build = partial(build_by_recipe, how=how, match=match, scorer=scorer, start_seed=start_seed)
    return replace(organism, build=build, resumable=True)


def build_by_recipe(
    organism: Organism,
    folder: Path,
    *,
    seed: int,
    recipe: Recipe,
    trajectory: bool,
    how: RLVRRecipe,
    match: Path | None,
    scorer: StepScorer | None = None,
    start_seed: int | None = None,
) -> None:
    """Train ``rlvr`` and ``rlvr-retain`` by a recipe and write stages, files, card and record.

    What an interrupted build finished is used, and a stage goes on from the last of its checkpoints, to the same bits;
    one that learns tasks one after another begins anew. Base and SFT are those of the shipped lineage where its numbers
    and seed are asked for; else they are trained once for all recipes, and kept in the cache.

    Raises:
        MastlensError: If the folder holds a build of other settings, or nothing could be learnt.
    """
    clock = Clock()
    began = seed if start_seed is None else start_seed
    start, source = _start(organism, recipe, began, clock)
    sft = sha256_file(start / "sft" / "model.safetensors")
    matched = _matched(organism, match, source, seed, sft) if how.needs_match else None
    scored = {} if scorer is None else {"scorer": scorer.settings}
    claim(folder, _settings(how, recipe, seed, trajectory, sft, matched) | scored, BEGUN)
    for stage in STARTS:
        if not stands(folder / stage):
            with atomic_path(folder / stage) as target:
                shutil.copytree(start / stage, target)
    forget, retain, both = rewarded_prompts(recipe, seed)
    on_retain = set(map(id, retain))
    for stage in STAGES:
        if not stands(folder / stage):
            problems = both if stage == "rlvr" else [problem for problem in both if id(problem) in on_retain]
            with clock(stage):
                _train(stage, problems, folder, seed, recipe, how, matched, scorer, kept=trajectory and stage == "rlvr")

    files = problem_files(recipe, seed, forget, retain)
    write_problem_files(folder, files)
    rows = [row for stage in STAGES for row in kept_rows(folder / f"training-{stage}.rows")]
    write_table(folder / FILE, as_table(rows))
    told = {stage: read_object(folder / f"told-{stage}.json") for stage in STAGES}
    model, tokenizer = load_stage(folder / "base")
    with clock("card"):
        measured = measure_stages(
            organism.stages,
            lambda stage: load_stage(folder / stage)[0],
            tokenizer,
            files,
            measured_splits(recipe, seed),
            recipe.max_new_tokens,
        )
    card = make_card(
        organism,
        folder,
        seed=seed,
        recipe=recipe,
        parameters=model.num_parameters(),
        steps={"base": recipe.base_steps, "sft": recipe.sft_steps, **{stage: told[stage]["steps"] for stage in STAGES}},
        measured=measured,
        timing=clock.seconds,
        how={
            "rlvr": f"{how.name} from sft: {how.summary}",
            "rlvr-retain": "the same from the same sft, on the retain prompts that rlvr sees and on no others",
        },
        note=NOTE,
        rlvr={
            "recipe": asdict(how),
            "code": code_digest(type(how)),
            "start": source if began == seed else f"{source}, of seed {began}",
            "match": None if matched is None else matched["lineage"],
            **scored,
            "stages": told,
            "training": rows,
        },
    )
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", render_card(card))
    for name in (BEGUN, *(pattern.format(stage) for stage in STAGES for pattern in _ALONG_THE_WAY)):
        (folder / name).unlink(missing_ok=True)


NOTE = (
    "Base and SFT are those of every lineage of this name, numbers and seed; only how RLVR was done is the recipe's. "
    "Two recipes are not matched in accuracy: what differs between their increments mixes how something was learnt "
    "with how much was. The recipe matched-sft is the control for that."
)

_LATER = ("grpo_", "max_new_tokens", "train_", "calibration", "eval_", "trajectory")
"""Numbers that base and SFT do not depend on, by how they begin."""

_ALONG_THE_WAY = ("training-{}.rows", "told-{}.json", "samples-{}.ledger")


def _train(
    stage: str,
    problems: Sequence[SyntheticProblem],
    folder: Path,
    seed: int,
    recipe: Recipe,
    how: RLVRRecipe,
    matched: Mapping[str, Any] | None,
    scorer: StepScorer | None,
    *,
    kept: bool,
) -> None:
    """Train a stage from ``sft`` and write it, with what the card says of it and its rows beside it."""
    model, tokenizer = load_stage(folder / "sft")

    def save(model: Any, target: Path) -> None:
        write_stage(model, tokenizer, target, recipe=recipe, seed=seed)

    steps = how.steps(len(problems), recipe)
    at = {round(steps * (i + 1) / recipe.trajectory) for i in range(recipe.trajectory)} - {0} if kept else set()
    run = Run(
        stage=stage,
        model=model,
        tokenizer=tokenizer,
        problems=problems,
        numbers=recipe,
        seed=seed + 3,  # as in a build without a recipe, whose bits plain GRPO gives
        lineage_seed=seed,
        recorder=Recorder(stage, folder / f"training-{stage}.rows"),
        folder=folder,
        saved={step: folder / "trajectory" / f"step_{step}" for step in sorted(at)},
        save=save,
        match=matched,
        scorer=scorer,
        kept=folder / f"kept-{stage}",
    )
    try:
        told = dict(how.train(run))
    except NoSignal:  # with another reward the stage begins anew
        shutil.rmtree(folder / f"kept-{stage}", ignore_errors=True)
        raise
    write_json(folder / f"told-{stage}.json", told)
    with atomic_path(folder / stage) as target:
        save(model, target)
    shutil.rmtree(folder / f"kept-{stage}", ignore_errors=True)


def _start(organism: Organism, recipe: Recipe, seed: int, clock: Clock) -> tuple[Path, str]:
    """Return the folder of base and SFT, and what the card says of where they are from."""
    later = {name: getattr(organism.recipe, name) for name in asdict(recipe) if name.startswith(_LATER)}
    beginning = replace(recipe, **later)  # so that lineages that begin alike share what they begin with
    if (beginning, seed, organism.cached) == (organism.recipe, DEFAULT_SEED, False) and organism.present:
        return organism.folder, f"organism:{organism.name}"
    return build_shared(beginning, seed, clock, STARTS), "trained from nothing"


def _matched(organism: Organism, match: Path | None, source: str, seed: int, sft: str) -> dict[str, Any]:
    """Return the card of the lineage whose accuracy is to be reached, with what it is called.

    Raises:
        MastlensError: If none is named, it has no card, or it goes on from another SFT.
    """
    shipped = source == f"organism:{organism.name}"
    if match is None and not shipped:
        raise BadSetting(
            "Which accuracy is to be matched? Name the folder of a lineage of these numbers and this seed that was "
            "reinforced: --match DIR (mastlens organism build ... --recipe grpo --out DIR makes one)."
        )
    folder = organism.folder if match is None else match
    if not (folder / "card.json").is_file():
        raise NotFound(f"{folder} has no card.json: it is no lineage whose accuracy could be matched.")
    card = read_object(folder / "card.json", "a card")
    if (card.get("seed"), card.get("stages", {}).get("sft", {}).get("sha256")) != (seed, sft):
        raise NotTogether(
            f"{folder} goes on from another SFT, or was built from another seed: an accuracy is matched only within "
            "one lineage, on the same calibration problems."
        )
    return {**card, "lineage": source if match is None else folder.name}


def _settings(
    how: RLVRRecipe, recipe: Recipe, seed: int, trajectory: bool, sft: str, matched: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what the stages of a build depend on, by name."""
    own = {f"recipe.{key}": value for key, value in asdict(how).items() if key not in ("summary", "source")}
    numbers = {f"numbers.{key}": value for key, value in asdict(recipe).items()}
    target = None if matched is None else sha256_json(matched["accuracy"])
    code = code_digest(type(how))
    return {
        **own,
        "code of the recipe": code,
        **numbers,
        "seed": seed,
        "trajectory": trajectory,
        "sft": sft,
        "match": target,
    }
