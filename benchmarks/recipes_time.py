"""Training time a trained token of recipes, beside plain TRL's GRPO: ratios in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.recipes_time --out benchmarks/results

Every arm trains the shipped SFT model on the same prompts, in turns. Plain is TRL's own ``GRPOTrainer`` with the
verifiable reward and nothing of ours around it. A token counts as often as it was in a loss; loading does not count.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import order_of, ratio, shown, surroundings, table, version_line, write_results
from mastlens.organisms import get_organism
from mastlens.organisms.planted import load_stage
from mastlens.organisms.posttraining import rewarded_prompts, train_grpo
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.rlvr import RECIPES
from mastlens.organisms.rlvr.recipe import Run
from mastlens.organisms.rlvr.record import Recorder, kept_rows
from mastlens.organisms.rlvr.trainer import train_by_grpo

PLAIN, LENGTH, GOAL = "plain TRL", "completions/mean_length", 1.1
COMPARED = ("grpo", "dr-grpo", "dapo", "stare-o1")
"""What has a goal; others are stated."""


def numbers_of(prompts: int, rounds: int) -> Recipe:
    """Return the lineage's numbers at so many prompts a round."""
    own = get_organism("qwen2").recipe
    assert isinstance(own, Recipe)
    return replace(own, grpo_prompts=prompts, grpo_forget=prompts * rounds // 2, grpo_retain=prompts * rounds // 2)


def trained(name: str, numbers: Recipe) -> dict[str, float]:
    """Train by a recipe, or plainly; return seconds and tokens in losses."""
    from trl import GRPOTrainer

    model, tokenizer = load_stage(get_organism("qwen2").folder / "sft")
    _, _, problems = rewarded_prompts(numbers, 0)
    responses = numbers.grpo_prompts * numbers.grpo_samples
    begun = time.perf_counter()
    if name == PLAIN:
        made = []

        def plain(**given: Any) -> Any:
            made.append(GRPOTrainer(**given))
            return made[0]

        train_grpo(model, tokenizer, problems, numbers, 3, label=name, make=plain)
        seconds, lengths = (
            time.perf_counter() - begun,
            [row[LENGTH] for row in made[0].state.log_history if LENGTH in row],
        )
        return {"seconds": seconds, "tokens": responses * sum(lengths)}
    recipe = RECIPES.find(name)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        recorder = Recorder("rlvr", place / "rows")
        run = Run("rlvr", model, tokenizer, problems, numbers, 3, 0, recorder, place, {}, lambda *_: None)
        train_by_grpo(recipe, run)
        seconds, rows = time.perf_counter() - begun, kept_rows(place / "rows")
    return {"seconds": seconds, "tokens": recipe.updates * responses * sum(row["response_tokens"] for row in rows)}


def measure(names: list[str], prompts: int, rounds: int, turns: int) -> dict[str, Any]:
    """Return seconds a token of every arm, round by round, and ratios to plain TRL."""
    numbers, arms = numbers_of(prompts, rounds), [PLAIN, *names]
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(turns):
        for arm in order_of(arms, turn):
            one = trained(arm, numbers)
            found[arm].append(one["seconds"] / one["tokens"])
            print(f"{arm}: {one['seconds']:.1f} s, {one['tokens']:.0f} tokens", flush=True)
    return {
        "prompts": prompts,
        "rounds": rounds,
        "turns": turns,
        "seconds_a_token": found,
        "ratios": {arm: ratio(found[arm], found[PLAIN]) for arm in names},
    }


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "recipes", nargs="*", default=list(COMPARED), metavar="RECIPE", help="without a scorer or a match"
    )
    parser.add_argument("--prompts", type=int, default=16, help="a round")
    parser.add_argument("--rounds", type=int, default=6, help="of a training")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    result = measure(asked.recipes, asked.prompts, asked.rounds, asked.turns)
    command = f"OMP_NUM_THREADS={torch.get_num_threads()} python -m benchmarks.recipes_time {' '.join(asked.recipes)}"
    result |= {"command": f"{command} --turns {asked.turns} --out benchmarks/results", **surroundings()}
    rows = [(arm, shown(found), GOAL if arm in COMPARED else "–") for arm, found in result["ratios"].items()]
    page = [
        "# Recipes: what they cost beside plain TRL", "",
        f"Seconds of training a token in a loss, over those of TRL's own GRPO: the shipped SFT model, {asked.prompts} "
        f"prompts of 8 responses a round, {asked.rounds} rounds, {asked.turns} interleaved turns, "
        f"{result['threads']} threads. Ratios of medians with 95 % bootstrap intervals over turns.", "",
        f"Command: `{result['command']}`",
        *table(("recipe", "ratio", "goal, at most"), rows), "",
        version_line(result),
    ]  # fmt: skip
    write_results(asked.out, "recipes_time", result, page)


if __name__ == "__main__":
    main()
