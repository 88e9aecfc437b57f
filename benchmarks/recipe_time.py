"""Training time a trained token, recipe by recipe, beside TRL's own GRPOTrainer with the same settings.

    python -m benchmarks.recipe_time [--prompts 32] [--rounds 3] [--repeats 3]

The SFT stage of ``organism:qwen2``, at its own numbers; processor time of this process on one thread, which other work
on the machine disturbs least. Recipes take turns, so that what drifts meets all alike. KL to SFT is measured in one
round of three, as in a whole run. Writes ``benchmarks/results/recipe-time.md``.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from mastlens.organisms import get_organism, lineage_folder
from mastlens.organisms.planted import load_stage
from mastlens.organisms.posttraining import rewarded_prompts, train_grpo
from mastlens.organisms.rlvr import RECIPES, trainer
from mastlens.organisms.rlvr.recipe import Run
from mastlens.organisms.rlvr.record import Recorder

PLAIN = "TRL's GRPOTrainer"
NAMES = ("grpo", "dr-grpo", "dapo", "stare-c2", "grpo-kl", "lora-grpo")
RESULT = Path(__file__).parent / "results" / "recipe-time.md"


def once(name: str, rounds: int, prompts: int, folder: Path) -> tuple[float, float]:
    """Return processor seconds of training by a recipe, and response tokens that it was trained on."""
    numbers = replace(get_organism("qwen2").recipe, grpo_prompts=prompts)
    problems = rewarded_prompts(numbers, 0)[2][: rounds * numbers.grpo_prompts]
    model, tokenizer = load_stage(lineage_folder("qwen2") / "sft")
    recorder = Recorder("rlvr", folder / "rows")
    start = time.process_time()
    if name == PLAIN:
        train_grpo(model, tokenizer, problems, numbers, 3, label=name)
    else:
        run = Run("rlvr", model, tokenizer, problems, numbers, 3, 0, recorder, folder, {}, lambda *_: None)
        RECIPES[name].train(run)
    seconds = time.process_time() - start
    return seconds, sum(row["responses"] * row["response_tokens"] for row in recorder.rows)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=32, help="prompts a round, of eight responses each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    trainer.MEASURED = max(1, asked.rounds // 3)
    seconds: dict[str, list[float]] = {name: [] for name in (PLAIN, *NAMES)}
    tokens: dict[str, float] = {}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        once("grpo", 1, asked.prompts, Path(scratch))  # imports, and what is made once
        for _ in range(asked.repeats):
            for name, taken in seconds.items():
                spent, tokens[name] = once(name, asked.rounds, asked.prompts, Path(scratch))
                taken.append(spent)
    tokens[PLAIN] = tokens["grpo"]  # the same bits, hence the same responses
    per_token = {name: [1e3 * one / tokens[name] for one in taken] for name, taken in seconds.items()}
    plain = statistics.median(per_token[PLAIN])
    lines = [
        "# Training time of recipes",
        "",
        f"`python -m benchmarks.recipe_time --prompts {asked.prompts} --rounds {asked.rounds} --repeats "
        f"{asked.repeats}`: processor time a trained token, sampling included, from the SFT stage of `organism:qwen2`; "
        f"{asked.prompts} prompts of eight responses a round.",
        "",
        "| recipe | ms a token, median | lowest to highest | beside plain TRL |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {statistics.median(taken):.3f} | {min(taken):.3f} to {max(taken):.3f} "
            f"| {statistics.median(taken) / plain:.2f} |"
            for name, taken in per_token.items()
        ),
        "",
    ]
    RESULT.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
