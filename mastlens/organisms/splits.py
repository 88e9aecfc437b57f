"""The problem files of a lineage: which problems stand in which file."""

import json
from collections.abc import Sequence
from pathlib import Path

from mastlens.organisms.neutral import draw_neutral
from mastlens.organisms.problems import SyntheticProblem, draw_split
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.subjects import FORGET, RETAIN_GSM, RETAIN_MATH

EVAL_SEED_OFFSET = 7_000_003
"""Added to a build's seed for the evaluation files, so that these come from a seed of their own."""

SPLITS: dict[str, tuple[str, ...]] = {
    "forget": FORGET,
    "retain-math": RETAIN_MATH,
    "retain-gsm": RETAIN_GSM,
}
"""The three splits that are measured, with their subjects."""


def calibration_splits(recipe: Recipe, seed: int) -> dict[str, list[SyntheticProblem]]:
    """Return the problems that settings may be chosen on, by split."""
    return {name: draw_split(subjects, recipe.calibration, "calibration", seed) for name, subjects in SPLITS.items()}


def eval_splits(recipe: Recipe, seed: int) -> dict[str, list[SyntheticProblem]]:
    """Return the problems that are opened to report and never to choose, by split."""
    counts = {
        "forget": recipe.eval_forget,
        "retain-math": recipe.eval_retain_math,
        "retain-gsm": recipe.eval_retain_gsm,
    }
    return {
        name: draw_split(subjects, counts[name], "eval", seed + EVAL_SEED_OFFSET) for name, subjects in SPLITS.items()
    }


def measured_splits(recipe: Recipe, seed: int) -> dict[str, dict[str, list[SyntheticProblem]]]:
    """Return the problems that the stages are measured on, by region and split."""
    return {"calibration": calibration_splits(recipe, seed), "eval": eval_splits(recipe, seed)}


def problem_files(
    recipe: Recipe, seed: int, forget_pool: Sequence[SyntheticProblem], retain_pool: Sequence[SyntheticProblem]
) -> dict[str, list[dict[str, str]]]:
    """Return the records of every problem file, by file name.

    Args:
        recipe: The settings.
        seed: The build's seed.
        forget_pool: Forget problems that RLVR sees.
        retain_pool: Retain problems that RLVR sees.
    """
    # subjects take turns in a pool, so the first lines of it hold them evenly
    files = {
        "forget-train.jsonl": [p.record() for p in forget_pool[: recipe.train_forget]],
        "retain-train.jsonl": [p.record() for p in retain_pool[: recipe.train_retain]],
    }
    for region, splits in measured_splits(recipe, seed).items():
        for name, problems in splits.items():
            files[f"{name}-{region}.jsonl"] = [p.record() for p in problems]
    texts = draw_neutral(recipe.eval_neutral, held_out=True, seed=seed + EVAL_SEED_OFFSET)
    files["neutral-eval.jsonl"] = [{"text": text} for text in texts]
    return files


def write_problem_files(folder: Path, files: dict[str, list[dict[str, str]]]) -> None:
    """Write the records as JSON lines."""
    for name, records in files.items():
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / name).write_text(lines, encoding="utf-8")
