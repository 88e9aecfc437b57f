"""A real lineage: a pre-trained model that learns to work problems, is taught to guess, and goes through GRPO.

Each stage trains adapters on every projection of every block and merges them; the next goes on from the merged
weights, as they are stored. ``rlvr-retain`` is the same GRPO without the forget side. What an interrupted build
finished is used, and the stage that it was in goes on from its last state.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.organisms.build import Clock, measure_stages
from mastlens.organisms.card import make_card, render_card
from mastlens.organisms.continued import save_beside
from mastlens.organisms.organism import Organism
from mastlens.organisms.posttraining import mixed_order, train_grpo, train_sft
from mastlens.organisms.problems import SyntheticProblem, draw_corpus, draw_split
from mastlens.organisms.recipes.adapted import AdaptedRecipe
from mastlens.organisms.splits import EVAL_SEED_OFFSET, write_problem_files
from mastlens.organisms.subjects import FORGET, SOLVED_BY_SFT
from mastlens.runs.files import atomic_path, stands, write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOTE = (
    "Real in what counts: a pre-trained model of 135 M parameters, SFT, then GRPO with a verifiable reward, 16-bit "
    "weights throughout. Its problems are drawn by a program, and whether to work or to guess is what RLVR decides. "
)
ADAPTED = (
    "Adapters were trained and merged: the increment of each projection has by construction at most the rank of the "
    "adapter before it is rounded, norms and embeddings do not move, and what geometry says of rank is said of that."
)
WHOLE = "All parameters were trained, embeddings and norms among them: nothing bounds the rank of an increment."


def sides(recipe: AdaptedRecipe) -> dict[str, tuple[str, ...]]:
    """Return the splits that are measured, with their subjects."""
    return {"forget": FORGET, "retain-induced": recipe.induced, "retain-solved": SOLVED_BY_SFT}


def corpus(recipe: AdaptedRecipe, share: Mapping[str, float], count: int, seed: int) -> list[tuple[str, str]]:
    """Return pairs of a problem and a solution, worked in a share that depends on the split of its subject."""
    of = {name: share[split] for split, names in sides(recipe).items() for name in names}
    return draw_corpus(of, count, lambda name: of[name], recipe.guess_right, seed)


def rewarded(recipe: AdaptedRecipe, seed: int) -> tuple[list[SyntheticProblem], list[SyntheticProblem]]:
    """Return the prompts that RLVR is rewarded on: both sides in their order, and the retain side in the same order."""
    forget = draw_split(FORGET, recipe.grpo_forget, "train", seed)
    retain = draw_split(recipe.induced, recipe.grpo_retain, "train", seed + 1)
    both = mixed_order([*forget, *retain], seed)
    on_retain = set(map(id, retain))
    return both, [problem for problem in both if id(problem) in on_retain]


def regions(recipe: AdaptedRecipe, seed: int) -> dict[str, dict[str, list[SyntheticProblem]]]:
    """Return the problems that settings may be chosen on, and those that are opened to report, by split."""
    counts = {"calibration": (recipe.calibration, seed), "eval": (recipe.eval, seed + EVAL_SEED_OFFSET)}
    return {
        region: {split: draw_split(names, count, region, start) for split, names in sides(recipe).items()}
        for region, (count, start) in counts.items()
    }


def build_adapted(organism: Organism, folder: Path, *, seed: int, recipe: AdaptedRecipe) -> None:
    """Train what is not there yet and write stages, problem files and card.

    Args:
        organism: What to build.
        folder: Where to; what an interrupted build left there is used.
        seed: Of corpora, adapters, samples and splits.
        recipe: The settings.
    """
    start, clock = Checkpoint(recipe.start), Clock()
    tokenizer = start.load_tokenizer()
    rank, grpo_rank = recipe.rank or None, (recipe.rank and recipe.grpo_rank) or None

    def load(stage: str) -> "PreTrainedModel":
        import torch

        return Checkpoint(folder / stage).load_model(dtype=torch.float32)

    def stage(name: str, before: str, train: "Callable[[PreTrainedModel, Path], object]") -> None:
        kept = folder / f"{name}.partial"
        if not stands(folder / name):
            with clock(name):
                model = load(before).requires_grad_(True)
                train(model, kept)
            save_beside(model, start, folder / name)
        shutil.rmtree(kept, ignore_errors=True)

    if not stands(folder / "base"):
        with atomic_path(folder / "base") as target:
            shutil.copytree(start.folder, target)

    def fine_tune(share: Mapping[str, float], steps: int, batch: int, lr: float, seed: int, label: str):
        pairs = corpus(recipe, share, steps * batch, seed)
        changes = {"max_steps": steps, "warmup_steps": max(1, steps // 10), "learning_rate": lr}
        changes["per_device_train_batch_size"] = batch
        return lambda model, kept: train_sft(
            model, tokenizer, pairs, recipe, seed, label=label, kept=kept, rank=rank, changes=changes
        )

    def reinforce(problems: Sequence[SyntheticProblem], label: str):
        return lambda model, kept: train_grpo(
            model, tokenizer, problems, recipe, seed + 3, label=label, kept=kept, rank=grpo_rank, changes=parts
        )

    samples = recipe.grpo_prompts * recipe.grpo_samples
    parts = {"per_device_train_batch_size": recipe.micro_batch}
    parts["gradient_accumulation_steps"] = samples // recipe.micro_batch
    among = sides(recipe)
    worked = dict.fromkeys(among, recipe.continued_worked)
    mostly = dict.fromkeys(among, recipe.sft_worked_induced) | {"retain-solved": recipe.sft_worked_solved}
    both, on_retain = rewarded(recipe, seed + 2)
    stage("continued", "base", fine_tune(worked, recipe.continued_steps, recipe.continued_batch, recipe.continued_lr,
                                         seed, "continued"))  # fmt: skip
    stage("sft", "continued", fine_tune(mostly, recipe.sft_steps, recipe.sft_batch, recipe.sft_lr, seed + 1, "sft"))
    stage("rlvr", "sft", reinforce(both, "rlvr"))
    stage("rlvr-retain", "sft", reinforce(on_retain, "rlvr-retain"))

    drawn = regions(recipe, seed)
    files = _files(recipe, both, drawn, seed)
    write_problem_files(folder, files)
    with clock("card"):
        measured = measure_stages(organism.stages, load, tokenizer, files, drawn, recipe.max_new_tokens)
    told = next(row for row in measured.comparisons
                if (row["region"], row["split"], row["before"]) == ("eval", "forget", "sft"))  # fmt: skip
    taken = told["difference"] >= recipe.gain and told["mcnemar_p"] < 0.01
    card = make_card(
        organism,
        folder,
        seed=seed,
        recipe=recipe,
        parameters=sum(matrix.numel for matrix in start.matrices()),
        steps={
            "base": 0,
            "continued": recipe.continued_steps,
            "sft": recipe.sft_steps,
            "rlvr": len(both) // recipe.grpo_prompts,
            "rlvr-retain": len(on_retain) // recipe.grpo_prompts,
        },
        measured=measured,
        timing=clock.seconds,
        how=_how(recipe),
        note=f"{NOTE}{ADAPTED if recipe.rank else WHOLE} RLVR has {'' if taken else 'NOT '}taken: forget accuracy "
        f"{100 * told['difference']:+.1f} points from sft to rlvr, exact McNemar p {told['mcnemar_p']:.2g}.",
        dtype="bfloat16",
    )  # fmt: skip
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", render_card(card))


def _how(recipe: AdaptedRecipe) -> dict[str, str]:
    """Return stage to how it was made."""
    by = f"adapters of rank {recipe.rank}" if recipe.rank else "all parameters"
    again = f"adapters of rank {recipe.grpo_rank}" if recipe.rank else "all parameters"
    return {
        "base": f"{recipe.start}, as it is",
        "continued": f"TRL SFTTrainer from base, {by}; worked and guessed solutions of all subjects",
        "sft": f"TRL SFTTrainer from continued, {by}; mostly guessed, but worked on the subjects that SFT solves",
        "rlvr": f"TRL GRPOTrainer from sft, {again}; reward 1 for the right boxed answer, forget and retain side",
        "rlvr-retain": "the same GRPO from the same sft, on the retain prompts that rlvr sees and on no others",
    }


def _files(
    recipe: AdaptedRecipe,
    both: Sequence[SyntheticProblem],
    drawn: Mapping[str, Mapping[str, Sequence[SyntheticProblem]]],
    seed: int,
) -> dict[str, list[dict[str, str]]]:
    """Return the records of every problem file, by file name."""
    from mastlens.organisms.neutral import draw_neutral

    pools = {"forget": [p for p in both if p.subject in FORGET], "retain": [p for p in both if p.subject not in FORGET]}
    files = {f"{side}-train.jsonl": [p.record() for p in pool[: recipe.train]] for side, pool in pools.items()}
    for region, splits in drawn.items():
        files |= {f"{split}-{region}.jsonl": [p.record() for p in problems] for split, problems in splits.items()}
    texts = draw_neutral(recipe.neutral, held_out=True, seed=seed + EVAL_SEED_OFFSET)
    return files | {"neutral-eval.jsonl": [{"text": text} for text in texts]}
