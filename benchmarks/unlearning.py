"""The unlearning step beside open-unlearning's trainers: the same losses, and what a selection saves.

A random Qwen2 model (40 M parameters, 28 layers, so 112 attention projections as in Qwen2.5-1.5B), 16 problems to
forget and 16 to keep, batches of 4, float32, AdamW (betas 0.9 and 0.999, no decay, constant learning rate, norm
clipped at 1), and open-unlearning's coefficients but for SimNPO's margin (``objective_of``). The arms start from the
same weights and see the same batches in the same order:

- ``open-unlearning``: its trainer, imported from a checkout (:mod:`benchmarks.open_unlearning` says which, and what
  stands in for what it lacks under today's versions);
- ``all parameters``: :func:`mastlens.unlearning.unlearning_steps` on every parameter, biases and norms included, which
  is what open-unlearning moves (``mastlens unlearn --all-parameters`` moves weight matrices only);
- ``16 of 112``: on every seventh attention projection from the lowest layer on: the way back ends at the bottom;
- ``16 of the upper 56``: the same in layers 14 to 27.

Losses: step by step over ``--rounds`` steps. Time: those very steps; the arms take turns, one step each. The first
step, which holds what is set up once (a copy of the model, reference log-probabilities), is left out of the ratio of
medians, whose interval is a bootstrap over steps, and is part of ``whole run``, which depends on how many passes over
the 16 problems the steps make. Memory: peak anonymous memory of two steps beyond the loaded model, each arm in a fresh
process. Growth: steps and memory of gradient ascent on more and more projections, and on ever higher ones.

    git clone https://github.com/locuslab/open-unlearning
    OMP_NUM_THREADS=1 python -m benchmarks.unlearning --open-unlearning open-unlearning --out benchmarks/results
"""

import argparse
import json
import math
import statistics
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.common import from_fresh_process, interleaved, ratio, shown, surroundings, table, version_line
from benchmarks.common import write_results as write
from benchmarks.open_unlearning import SHIMS, trainer_steps
from mastlens.problems.encoding import Batch, EncodedProblem, collate
from mastlens.runs.cost import measured
from mastlens.unlearning import Objective, make_objective, unlearning_steps
from mastlens.unlearning.loop import batch_schedule

LAYERS, VOCABULARY, PROBLEMS, BATCH, SEED, LR = 28, 16_384, 16, 4, 0, 1e-4
THEIRS, ALL, SPREAD, UPPER = "open-unlearning", "all parameters", "16 of 112", "16 of the upper 56"
SELECTIONS = {SPREAD: (16, 0), UPPER: (16, 14)}
"""Arm to (number of projections, lowest layer)."""
TIMED = {
    "ga": (THEIRS, ALL, SPREAD, UPPER),
    "graddiff": (THEIRS, ALL),
    "npo": (THEIRS, ALL, SPREAD, UPPER),
    "simnpo": (THEIRS, ALL),
}
"""Objective to arms."""
TERMS = ("forget", "retain")
MEASURED = ("ga", "npo")
"""Objectives whose arms are measured for memory too."""
POINTS = [*((count, 0) for count in (1, 16, 56, 112)), *((16, lowest) for lowest in (7, 14, 21, 24))]
"""(number of projections, lowest layer): more and more of them, and ever higher ones."""
GOALS = {"loss": 1e-4, "faster": {"npo": 2.0, "ga": 1.4}, "memory": 0.3}
DIFFERENCES = (
    "Losses of accumulated batches are averaged, whatever tokens are in each: problems of unequal length in several "
    "batches make another step than the same problems in one. Its trainers run here with one batch a step.",
    "All parameters move, biases and norms too. Ours do the same here.",
    "A retain sample is drawn at random for each forget sample. Both arms get the same batches here.",
    "It trains in training mode, ours in evaluation mode; the model here has no dropout.",
    "NPO sums log-probabilities over a solution, as the paper has it, and so does ours.",
    "SimNPO's forget term is 0 at 9.7 nats a token without a margin; the margin is log(vocabulary) here, for both.",
    "SimNPO counts labels before they are shifted: the same number where the first token is prompt, as here.",
    "NPO keeps a second model and runs it anew at every step; ours takes its log-probabilities once.",
    "NPO and SimNPO hand labels to the model, which takes a cross-entropy that nothing uses.",
    "Logits exist at every position, prompt and padding included; ours at those that count.",
)


def make_model(layers: int = LAYERS) -> Qwen2ForCausalLM:
    """Return the model in evaluation mode; the same weights each time."""
    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=1408,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).eval()


def make_problems(seed: int) -> list[EncodedProblem]:
    """Return problems of unequal lengths: 8 to 31 tokens of prompt, 32 to 63 of solution."""
    draw = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.integers(0, VOCABULARY, draw.integers(low, high)).tolist())

    return [EncodedProblem(ids(8, 32), ids(32, 64)) for _ in range(PROBLEMS)]


def projections(count: int, lowest: int = 0, layers: int = LAYERS) -> list[str]:
    """Return the names of ``count`` attention projections, evenly spaced from layer ``lowest`` to the top."""
    names = [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(lowest, layers) for p in "qkvo"]
    return [names[i * len(names) // count] for i in range(count)]


def objective_of(name: str) -> Objective:
    """Return an objective with open-unlearning's coefficients, but for SimNPO's margin.

    A random model gives every token about log(vocabulary) nats. Without a margin of that size SimNPO's forget term is 0
    in float32 from the first step on, and there is nothing to compare.
    """
    return make_objective(name, preset="open-unlearning", delta=math.log(VOCABULARY) if name == "simnpo" else None)


def batches_of(name: str, steps: int, size: int = BATCH) -> list[dict[str, Batch]]:
    """Return the batches of the schedule that :func:`unlearning_steps` follows, ``BATCH`` problems in ``size`` each."""
    sides = {"forget": 0} if name == "ga" else {"forget": 0, "retain": 1}
    problems = {side: make_problems(seed) for side, seed in sides.items()}
    rows = {side: batch_schedule(PROBLEMS, BATCH, steps, SEED, number) for side, number in sides.items()}
    return [
        {side: collate([problems[side][i] for i in rows[side][step][start : start + size]]) for side in sides}
        for step in range(steps)
        for start in range(0, BATCH, size)
    ]


def our_steps(
    model: Qwen2ForCausalLM, name: str, names: Sequence[str], steps: int
) -> Generator[tuple[float, float], None, None]:
    """Yield what :func:`trainer_steps` yields, the forget and the retain term, from mastlens."""
    forget, retain = make_problems(0), None if name == "ga" else make_problems(1)
    settings = {"lr": LR, "steps": steps, "batch_size": BATCH, "seed": SEED}
    for step in unlearning_steps(model, names, objective_of(name), forget, retain, **settings):
        yield step.forget_loss, step.retain_loss


def steps_of(
    arm: str, model: Qwen2ForCausalLM, name: str, steps: int, checkout: Path
) -> Generator[tuple[float, float], None, None]:
    """Return an arm's steps; an arm is one of the four, or ``COUNT@LOWEST`` for a selection."""
    if arm == THEIRS:
        return trainer_steps(checkout, model, objective_of(name), batches_of(name, steps), lr=LR)
    if arm == ALL:
        names = [parameter for parameter, _ in model.named_parameters()]
    else:
        count, lowest = SELECTIONS[arm] if arm in SELECTIONS else map(int, arm.split("@"))
        names = projections(count, lowest, model.config.num_hidden_layers)
    return our_steps(model, name, names, steps)


def largest_relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest |found - expected| / |expected|; NaN where something is."""
    return float(np.max(np.abs(found - expected) / np.abs(expected)))


def learned_difference(found: torch.nn.Module, expected: torch.nn.Module, start: torch.nn.Module) -> float:
    """Return the norm of the difference of what two models learned, relative to that of what ``expected`` learned."""
    apart = learned = 0.0
    for a, b, c in zip(found.parameters(), expected.parameters(), start.parameters(), strict=True):
        apart += float((a - b).detach().double().square().sum())
        learned += float((b - c).detach().double().square().sum())
    return (apart / learned) ** 0.5


def run(name: str, steps: int, checkout: Path) -> dict[str, Any]:
    """Return losses and seconds of one objective's arms."""
    models = {arm: make_model() for arm in TIMED[name]}
    runs = {arm: steps_of(arm, models[arm], name, steps, checkout) for arm in TIMED[name]}
    losses: dict[str, list[tuple[float, float]]] = {arm: [] for arm in runs}
    turns = {arm: lambda arm=arm: losses[arm].append(next(runs[arm])) for arm in runs}
    seconds = interleaved(turns, steps, uncounted=0)
    for left in runs.values():
        left.close()
    theirs, ours = np.array(losses[THEIRS]).T, np.array(losses[ALL]).T
    terms = {term: row for row, term in enumerate(TERMS[:1] if name == "ga" else TERMS)}
    differences = {term: largest_relative(ours[row], theirs[row]) for term, row in terms.items()}
    if not max(differences.values()) <= GOALS["loss"]:  # NaN is no agreement either
        raise SystemExit(f"{name}: the losses differ by {differences}")
    record = {
        "objective": objective_of(name).record(),
        "losses": {term: {arm: [of[row] for of in losses[arm]] for arm in losses} for term, row in terms.items()},
        "differences": differences,
        "forget_moved": largest_relative(theirs[0], theirs[0][:1]),
        "learned_difference": learned_difference(models[ALL], models[THEIRS], make_model()),
        "seconds": {arm: [round(s, 4) for s in found] for arm, found in seconds.items()},
        "faster": {
            arm: {
                "than open-unlearning": ratio(seconds[THEIRS][1:], seconds[arm][1:]),
                "than all parameters": ratio(seconds[ALL][1:], seconds[arm][1:]),
                "whole run": sum(seconds[THEIRS]) / sum(seconds[arm]),
            }
            for arm in seconds
        },
    }
    print(json.dumps({name: record}), flush=True)
    return record


def split_difference(steps: int, checkout: Path) -> float:
    """Return how much of what gradient ascent learns open-unlearning changes if it accumulates two halves a batch."""
    models = {1: make_model(), 2: make_model()}
    for parts, model in models.items():
        given = batches_of("ga", steps, BATCH // parts)
        for _ in trainer_steps(checkout, model, objective_of("ga"), given, lr=LR, accumulated=parts):
            pass
    return learned_difference(models[2], models[1], make_model())


def growth(points: Sequence[tuple[int, int]], rounds: int, checkout: Path) -> list[dict[str, Any]]:
    """Return median seconds of a step of gradient ascent and peak MB for each (number, lowest layer)."""
    arms = [f"{count}@{lowest}" for count, lowest in points]
    runs = {arm: steps_of(arm, make_model(), "ga", rounds + 1, checkout) for arm in arms}
    seconds = interleaved({arm: lambda arm=arm: next(runs[arm]) for arm in arms}, rounds)
    for left in runs.values():
        left.close()
    return [
        {
            "projections": count,
            "lowest_layer": lowest,
            "seconds": [round(s, 4) for s in seconds[arm]],
            "peak_mb": peak_mb(arm, "ga", checkout),
        }
        for arm, (count, lowest) in zip(arms, points, strict=True)
    ]


def measure_arm(arm: str, name: str, checkout: Path) -> float | None:
    """Return this process' peak anonymous memory over two steps, beyond the loaded model."""
    for _ in steps_of(THEIRS if arm == THEIRS else ALL, make_model(layers=1), name, 1, checkout):
        pass  # what a first step sets up once is no arm's own
    model = make_model()
    with measured(interval=0.002) as cost:
        for _ in steps_of(arm, model, name, 2, checkout):
            pass
    return cost.peak_mb


def peak_mb(arm: str, name: str, checkout: Path) -> float:
    """Return an arm's peak anonymous memory, from a fresh process."""
    asked = ("--arm", arm, "--objective", name, "--open-unlearning", str(checkout))
    return round(from_fresh_process("benchmarks.unlearning", *asked), 1)


def as_page(result: Mapping[str, Any]) -> list[str]:
    """Return the result as the lines of a page."""
    lines = [
        "# Unlearning: a step beside open-unlearning",
        "",
        f"{result['parameters'] / 1e6:.1f} M parameters (random Qwen2, {LAYERS} layers), batches of {BATCH} of "
        f"{PROBLEMS} problems a side, float32, {result['threads']} threads; {result['rounds']} interleaved steps. "
        f"Goals: losses within {GOALS['loss']}; 16 of 112 projections {GOALS['faster']['npo']} times faster a step for "
        f"NPO and {GOALS['faster']['ga']} times for gradient ascent, in {GOALS['memory']} of the memory.",
        "",
        f"Command: `{result['command']}`",
        "",
        "## The same losses, all parameters",
    ]
    rows = [
        (
            name,
            f"{record['forget_moved']:.1e}",
            *(f"{record['differences'][term]:.1e}" if term in record["differences"] else "" for term in TERMS),
            f"{record['learned_difference']:.1e}",
        )
        for name, record in result["objectives"].items()
    ]
    header = ("objective", "forget term moved by", "forget terms differ by", "retain terms differ by")
    lines += table((*header, "learned weights differ by"), rows)
    lines += ["", "Largest relative difference of any step; the weights' is of the norm of what was learned."]
    lines += ["", "## Time", "", "Times faster, ratios of medians with 95% bootstrap intervals over steps."]
    header = ("objective", "arm", "median s a step", "first step s", "than open-unlearning", "than all parameters")
    lines += table(
        (*header, "whole run"),
        [
            (
                name,
                arm,
                f"{statistics.median(seconds[1:]):.3f}",
                f"{seconds[0]:.2f}",
                shown(record["faster"][arm]["than open-unlearning"], 2),
                shown(record["faster"][arm]["than all parameters"], 2),
                f"{record['faster'][arm]['whole run']:.2f}",
            )
            for name, record in result["objectives"].items()
            for arm, seconds in record["seconds"].items()
        ],
    )
    lines += ["", "## Memory", "", "Peak MB beyond the weights, and its share of open-unlearning's; medians."]
    rows = []
    for name, peaks in result["peak_mb"].items():
        medians = {arm: statistics.median(found) for arm, found in peaks.items()}
        rows += [(name, arm, f"{mb:.0f}", f"{mb / medians[THEIRS]:.3f}") for arm, mb in medians.items()]
    lines += table(("objective", "arm", "peak MB", "share"), rows)
    lines += ["", "## Growth with number and depth of the selected projections, gradient ascent"]
    lines += table(
        ("projections", "lowest layer", "median s a step", "peak MB"),
        [
            (p["projections"], p["lowest_layer"], f"{statistics.median(p['seconds']):.3f}", f"{p['peak_mb']:.0f}")
            for p in result["growth"]
        ],
    )
    lines += ["", "## What differs in open-unlearning, and what stood in for it", ""]
    lines += [f"- {difference}" for difference in DIFFERENCES]
    lines += [f"- Stand-in: {shim}." for shim in SHIMS]
    lines += [
        "",
        f"With each batch accumulated from two halves, open-unlearning's gradient ascent learns something else by "
        f"{result['split_difference']:.1e} of the norm of what it learns.",
        "",
        version_line(result),
    ]
    return lines


def main() -> None:
    """Run the benchmark, or one arm of it for its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open-unlearning", type=Path, required=True, help="a checkout of locuslab/open-unlearning")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rounds", type=int, default=20, help="steps; a fifth of them for the growth")
    parser.add_argument("--memory-rounds", type=int, default=1)
    parser.add_argument("--objective", choices=TIMED, help="this one only")
    parser.add_argument("--arm", help="measure this arm's memory in this process and print it")
    asked = parser.parse_args()
    checkout, few = asked.open_unlearning, max(3, asked.rounds // 5)
    if asked.arm:
        print(measure_arm(asked.arm, asked.objective, checkout))
        return
    chosen = [asked.objective] if asked.objective else list(TIMED)
    result = {
        "command": "python -m benchmarks.unlearning --open-unlearning PATH "
        f"--rounds {asked.rounds} --memory-rounds {asked.memory_rounds}",
        **surroundings(),
        "parameters": sum(parameter.numel() for parameter in make_model().parameters()),
        "rounds": asked.rounds,
        "memory_rounds": asked.memory_rounds,
        "goals": GOALS,
        "objectives": {name: run(name, asked.rounds, checkout) for name in chosen},
        "split_difference": split_difference(few, checkout),
        "peak_mb": {
            name: {arm: [peak_mb(arm, name, checkout) for _ in range(asked.memory_rounds)] for arm in TIMED[name]}
            for name in chosen
            if name in MEASURED
        },
        "growth": growth(POINTS, few, checkout),
    }
    write(asked.out, "unlearning", result, as_page(result))


if __name__ == "__main__":
    main()
