"""The build: four stages really trained, problem files, card."""

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.errors import BadSetting, MissingPackage, NotSupported, StageRefused
from mastlens.evaluation.perplexity import neutral_perplexity
from mastlens.organisms.card import Measured, make_card, render_card
from mastlens.organisms.partial import ASKED, claim
from mastlens.organisms.posttraining import (
    quiet_training,
    rewarded_prompts,
    sft_pairs,
    train_grpo,
    train_rlvr,
    train_sft,
)
from mastlens.organisms.pretraining import base_corpus, encode_documents, new_model, pretrain
from mastlens.organisms.problems import SyntheticProblem
from mastlens.organisms.recipes.pretraining import Pretraining
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.splits import measured_splits, problem_files, write_problem_files
from mastlens.organisms.stage_accuracy import compare_stages, measure_responses, summarise
from mastlens.organisms.tokenizer import train_tokenizer
from mastlens.runs.files import atomic_path, remove_all_leftovers, remove_leftovers, write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mastlens.organisms.organism import Organism

_THREADS = 2  # sums depend on how they are cut up, so the count is fixed and not the machine's


def build_lineage(organism: "Organism", out: Path, *, seed: int, trajectory: bool, recipe: Any = None) -> Path:
    """Train all stages and write them with problem files and card.

    Args:
        organism: What to build.
        out: Folder to write; it must not hold anything yet.
        seed: What everything random depends on.
        trajectory: Whether to keep checkpoints along the RLVR run.
        recipe: The settings; None for the organism's own.
    """
    build, recipe = organism.build, recipe or organism.recipe
    if build is None or recipe is None:
        from mastlens.organisms import ORGANISMS

        begun = [one.name for one in ORGANISMS.values() if _start(one).startswith(f"organism:{organism.name}/")]
        more = f" Lineages that go on from it: {', '.join(begun)}." if begun else ""
        raise NotSupported(
            f"organism:{organism.name} is a folder of checkpoints: there is no recipe to build it by.{more}"
        )
    if not isinstance(recipe, type(organism.recipe)):
        raise BadSetting(
            f"organism:{organism.name} is built by a {type(organism.recipe).__name__}, not a {type(recipe).__name__}."
        )
    if organism.trainers:
        check_trainers()
    remove_leftovers(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise StageRefused(f"{out} exists already. Choose another folder, or remove it first.")
    if trajectory and not isinstance(recipe, Recipe):
        raise NotSupported(f"organism:{organism.name} has no RLVR run whose steps could be kept.")
    with atomic_path(out) as folder, own_randomness():
        if organism.resumable:  # what is finished of an interrupted build waits beside the place where it belongs
            begun = out.with_name(f"{out.name}.unfinished")
            claim(begun, {"seed": seed, **asdict(recipe)})
            remove_all_leftovers(begun)
            try:
                build(organism, begun, seed=seed, recipe=recipe, trajectory=trajectory)
            except BaseException:
                if {path.name for path in begun.iterdir()} <= {ASKED}:
                    shutil.rmtree(begun)
                raise
            (begun / ASKED).unlink()
            begun.rename(folder)
        else:
            folder.mkdir()
            build(organism, folder, seed=seed, recipe=recipe, trajectory=trajectory)
    return out


def _start(organism: "Organism") -> str:
    """Return the checkpoint that a lineage goes on from; nothing where it begins from nothing."""
    return str(getattr(organism.recipe, "start", ""))


def check_trainers() -> None:
    """Raise unless the training libraries are installed."""
    missing = [name for name in ("trl", "datasets", "accelerate", "peft") if find_spec(name) is None]
    if missing:
        raise MissingPackage(
            f"Building a lineage needs {', '.join(missing)}. Install the extra: pip install 'mastlens[train]'"
        )


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """Fix the number of threads, and give the caller's random states and threads back afterwards."""
    import torch

    threads, state = torch.get_num_threads(), random.getstate()
    torch.set_num_threads(_THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        torch.set_num_threads(threads)


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, label: str) -> Iterator[None]:
        """Time what runs within."""
        start = time.perf_counter()
        yield
        self.seconds[label] = round(time.perf_counter() - start, 1)


def build_qwen2(organism: "Organism", folder: Path, seed: int, trajectory: bool, recipe: Recipe) -> None:
    """Train base, SFT, RLVR and the RLVR run without the forget side into a folder, and write files and card."""
    clock = Clock()
    with clock("corpus"):
        pairs, texts = base_corpus(recipe, seed)
        tokenizer = train_tokenizer(
            [f"{problem}\n{solution}" for problem, solution in pairs] + texts, recipe.vocab_size
        )
        documents = encode_documents(tokenizer, pairs, texts)

    def save(model, target: Path) -> None:
        write_stage(model, tokenizer, target, recipe=recipe, seed=seed)

    def load(stage: str):
        from transformers import AutoModelForCausalLM

        with quiet_training():
            return AutoModelForCausalLM.from_pretrained(folder / stage)

    with clock("base"):
        model = new_model(recipe, tokenizer, seed)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        pretrain(model, documents, recipe, seed)
        save(model, folder / "base")

    with clock("sft"):
        model = load("base")
        train_sft(model, tokenizer, sft_pairs(recipe, seed + 1), recipe, seed + 1)
        save(model, folder / "sft")

    forget, retain, both = rewarded_prompts(recipe, seed)
    on_retain = set(map(id, retain))

    with clock("rlvr"):
        model = load("sft")
        kept = folder / "trajectory" if trajectory else None
        train_rlvr(model, tokenizer, both, recipe, seed, trajectory=kept, save=save)
        save(model, folder / "rlvr")

    with clock("rlvr-retain"):
        model = load("sft")
        seen = [problem for problem in both if id(problem) in on_retain]
        train_grpo(model, tokenizer, seen, recipe, seed + 3, label="rlvr-retain")
        save(model, folder / "rlvr-retain")

    files = problem_files(recipe, seed, forget, retain)
    write_problem_files(folder, files)
    with clock("card"):
        measured = measure_stages(
            organism.stages, load, tokenizer, files, measured_splits(recipe, seed), recipe.max_new_tokens
        )
    card = make_card(
        organism,
        folder,
        seed=seed,
        recipe=recipe,
        parameters=parameters,
        steps=_steps(recipe),
        measured=measured,
        timing=clock.seconds,
    )
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", render_card(card))


def write_stage(model, tokenizer, target: Path, *, recipe: Pretraining, seed: int) -> None:
    """Write weights and tokenizer into a folder whose configuration the trainers have not touched.

    A run whose steps are kept goes on as one whose steps are not: what it samples does not depend on the writing.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        fresh = new_model(recipe, tokenizer, seed)
    fresh.load_state_dict(model.state_dict())
    with quiet_training():
        fresh.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _steps(recipe: Recipe) -> dict[str, int]:
    return {
        "base": recipe.base_steps,
        "sft": recipe.sft_steps,
        "rlvr": (recipe.grpo_forget + recipe.grpo_retain) // recipe.grpo_prompts,
        "rlvr-retain": recipe.grpo_retain // recipe.grpo_prompts,
    }


def measure_stages(
    stages: Sequence[str],
    load: "Callable[[str], PreTrainedModel]",
    tokenizer,
    files: Mapping[str, list[dict[str, str]]],
    regions: Mapping[str, Mapping[str, Sequence[SyntheticProblem]]],
    max_new_tokens: int,
) -> Measured:
    """Measure what every stage of a lineage can do, on calibration and evaluation splits.

    The evaluation splits are opened here and nowhere before: nothing in a build depends on what they show.

    Args:
        stages: Their names.
        load: Returns the model of a stage.
        tokenizer: Of all of them.
        files: The problem files; of these the neutral texts are read.
        regions: Problems by region and split.
        max_new_tokens: Longest response.
    """
    accuracy, tables, perplexity = [], {}, {}
    for stage in stages:
        model = load(stage).eval()
        for region, splits in regions.items():
            table = measure_responses(model, tokenizer, splits, max_new_tokens, f"{stage} on {region}")
            tables[stage, region] = table
            accuracy += [{"stage": stage, "region": region, **row} for row in summarise(table)]
        texts = [record["text"] for record in files["neutral-eval.jsonl"]]
        perplexity[stage] = neutral_perplexity(model, tokenizer, texts)
    comparisons = [
        {
            "region": region,
            "split": split,
            "before": before,
            "after": "rlvr",
            **compare_stages(tables[before, region], tables["rlvr", region], split),
        }
        for region in regions
        for split in regions[region]
        for before in ("sft", "rlvr-retain")
    ]
    return Measured(accuracy, comparisons, perplexity)
