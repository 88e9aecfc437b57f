"""Causal map: time of patching every projection, beside a full forward pass for each.

Both arms put the matrices of one model into another, one at a time, and take the log-probability of every solution:

- ``naive``: swap the tensor in memory, one full forward pass over all problems, swap it back
  (:func:`mastlens.models.weights.swapped`, :func:`mastlens.models.likelihood.sequence_logprobs`, which takes logits
  only where they count; reading the checkpoint anew for each tensor would come on top);
- ``mastlens``: :func:`mastlens.analysis.causal.patching.read_patched`, which also says which solutions are exact.

The arms take turns in one process, ``--rounds`` times, after one round that is not counted; the ratio is that of the
sums, its interval a bootstrap over rounds. That both give the same effects is checked first. ``floor`` is what running
layer L and above costs at the least if all of the time is spent in layers: the mean of (layers - L) / layers.

Two workloads: the shipped organism (8 layers) on its own problems, and a random Qwen2 of 24 layers.

    OMP_NUM_THREADS=1 python -m benchmarks.causal_map --out benchmarks/results
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.common import interleaved, ratio, shown, surroundings, table, version_line, write_results
from mastlens.analysis.causal.patching import Patch, patched_tensors, patches_of, read_patched, stored_tensors
from mastlens.architectures.projections import find_projections
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.models.likelihood import sequence_logprobs
from mastlens.models.weights import named_weights, swapped
from mastlens.organisms import stage_folder
from mastlens.problems.encoding import EncodedProblem, encode_problems
from mastlens.problems.reading import read_problems

GOAL = 0.6
BATCH = 32


@dataclass(frozen=True)
class Workload:
    """A model, what is put into it, and the problems."""

    name: str
    model: PreTrainedModel
    other: Mapping[str, torch.Tensor]
    patches: Sequence[Patch]
    encoded: Sequence[EncodedProblem]
    layers: int


def organism(problems: int) -> Workload:
    """Return the organism's RLVR model, SFT weights, and training problems of the forget side."""
    after, before = Checkpoint("organism:qwen2/rlvr"), Checkpoint("organism:qwen2/sft")
    model = after.load_model()
    path = stage_folder("qwen2/rlvr").parent / "forget-train.jsonl"
    encoded = encode_problems(read_problems(path)[:problems], after.load_tokenizer())
    patches = patches_of(after.projections, heads=False)
    name = "organism qwen2, 8 layers"
    return Workload(
        name, model, stored_tensors(before, model, after.projections), patches, encoded, model.config.num_hidden_layers
    )


def deep(problems: int) -> Workload:
    """Return a random model of 24 layers and sequences of 96 tokens, half of them solution."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=4096,
        hidden_size=192,
        intermediate_size=1024,
        num_hidden_layers=24,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    weights = dict(model.named_parameters())
    projections = find_projections(config.to_dict(), {name: tuple(w.shape) for name, w in weights.items()})
    other = {p.stored: weights[p.stored] + 1e-3 * torch.randn(p.rows, p.cols) for p in projections}
    ids = torch.randint(0, 4096, (problems, 96)).tolist()
    encoded = [EncodedProblem(tuple(row[:48]), tuple(row[48:])) for row in ids]
    return Workload("random Qwen2, 24 layers", model, other, patches_of(projections, heads=False), encoded, 24)


def naive(work: Workload) -> np.ndarray:
    """Return the summed log-probability with each patch, by a full pass for each."""
    own = named_weights(work.model, list(work.other))
    sums = []
    for patch in work.patches:
        with swapped(work.model, patched_tensors([patch], own, work.other)):
            sums.append(sequence_logprobs(work.model, work.encoded, batch_size=BATCH)[0].sum())
    return np.array(sums)


def suffix(work: Workload) -> np.ndarray:
    """Return the same without running the layers below the patched one."""
    patches = [[patch] for patch in work.patches]
    return read_patched(work.model, work.encoded, patches, work.other, batch_size=BATCH).patched.sum(axis=1)


ARMS = {"naive": naive, "mastlens": suffix}


def run(work: Workload, rounds: int) -> dict[str, Any]:
    """Return the record of one workload."""
    tokens = sum(len(ids.solution) for ids in work.encoded)
    difference = float(np.abs(naive(work) - suffix(work)).max()) / tokens  # the round that is not counted
    if difference > 1e-6:
        raise SystemExit(f"{work.name}: the arms disagree by {difference:.1e} nats per token")
    seconds = interleaved({arm: partial(compute, work) for arm, compute in ARMS.items()}, rounds, uncounted=0)
    record = {
        "workload": work.name,
        "problems": len(work.encoded),
        "patches": len(work.patches),
        "seconds": {arm: [round(s, 3) for s in found] for arm, found in seconds.items()},
        "time": ratio(seconds["mastlens"], seconds["naive"], statistic="sum"),
        "floor": (work.layers + 1) / (2 * work.layers),
        "largest_difference": difference,
    }
    print(json.dumps(record), flush=True)
    return record


def as_page(result: dict[str, Any]) -> list[str]:
    """Return the result as the lines of a page."""
    lines = [
        "# Causal map: patching every projection",
        "",
        f"Float32, batches of {BATCH}, {result['threads']} threads; {result['rounds']} interleaved rounds. Ratio of "
        f"times to a full forward pass for each patch, 95% bootstrap interval over rounds. Goal: at most {GOAL}.",
        "",
        f"Command: `{result['command']}`",
    ]
    rows = [
        (
            record["workload"],
            record["patches"],
            record["problems"],
            *(f"{statistics.median(record['seconds'][arm]):.2f}" for arm in ARMS),
            shown(record["time"]),
            f"{record['floor']:.3f}",
        )
        for record in result["workloads"]
    ]
    header = ("workload", "patches", "problems", "naive, median s", "mastlens, median s", "ratio", "floor")
    lines += table(header, rows)
    worst = max(record["largest_difference"] for record in result["workloads"])
    lines += ["", f"Largest difference between the arms' effects: {worst:.1e} nats per token."]
    return [*lines, "", version_line(result)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--problems", type=int, default=96, help="of the organism; a sixth for the deep model")
    asked = parser.parse_args()
    workloads = [organism(asked.problems), deep(max(4, asked.problems // 6))]
    result = {
        "command": f"python -m benchmarks.causal_map --rounds {asked.rounds} --problems {asked.problems}",
        **surroundings(),
        "rounds": asked.rounds,
        "goal": GOAL,
        "workloads": [run(work, asked.rounds) for work in workloads],
    }
    write_results(asked.out, "causal_map", result, as_page(result))


if __name__ == "__main__":
    main()
