"""Gradients for coupling: time and memory beside a plain forward and backward pass of transformers.

Three arms compute the mean gradient of the attention projections of one random Qwen2 model (46 M parameters) on the
same 64 sequences of 128 tokens, in batches of 8, in float32:

- ``plain``: ``model(..., labels=labels).loss.backward()``, every parameter keeps its gradient;
- ``attention``: the same, ``requires_grad`` on the attention projections alone;
- ``mastlens``: :func:`mastlens.models.gradients.mean_gradients`.

Time: the arms take turns in one process, ``--rounds`` times, after one round that is not counted; the ratio is that of
the sums, its interval a bootstrap over rounds. Memory: peak anonymous memory beyond the loaded model, each arm in a
fresh process, once a round of ``--memory-rounds``. That all arms give the same gradients is checked first.

Two workloads: ``every token`` (only the first token is prompt; nothing to skip) and ``half prompt``.

    OMP_NUM_THREADS=2 python -m benchmarks.coupling --out benchmarks/results
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.common import (
    from_fresh_process,
    interleaved,
    ratio,
    shown,
    surroundings,
    table,
    version_line,
    write_results,
)
from mastlens.models.gradients import mean_gradients
from mastlens.problems.encoding import EncodedProblem, batches
from mastlens.runs.cost import measured

LENGTH, BATCH = 128, 8
WORKLOADS = {"every token": 1, "half prompt": 64}  # tokens of prompt
GOALS = {"time": 0.75, "memory": 0.6}


def write_model(folder: Path) -> int:
    """Write the model and return its number of parameters."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=2752,  # Qwen2.5's ratio
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def load_model(folder: Path) -> PreTrainedModel:
    """Return the model in float32 and evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def sequences(count: int, prompt: int) -> list[EncodedProblem]:
    """Return random sequences of 128 tokens, the first ``prompt`` of which do not count."""
    ids = torch.randint(0, 32_000, (count, LENGTH), generator=torch.Generator().manual_seed(1)).tolist()
    return [EncodedProblem(tuple(row[:prompt]), tuple(row[prompt:])) for row in ids]


def attention_names(model: PreTrainedModel) -> list[str]:
    """Return the names of the attention projections' weights."""
    return [n for n, _ in model.named_parameters() if n.endswith(tuple(f".{p}_proj.weight" for p in "qkvo"))]


def plain(model: PreTrainedModel, encoded: list[EncodedProblem], *, attention_only: bool) -> dict[str, torch.Tensor]:
    """Return the mean gradients the way one writes it with transformers alone."""
    names = attention_names(model)
    parameters = dict(model.named_parameters())
    model.requires_grad_(not attention_only)
    for name in names:
        parameters[name].requires_grad_(True)
    tokens = 0
    for _, batch in batches(encoded, BATCH):
        labels = batch.input_ids.masked_fill(~batch.is_solution, -100)
        count = int(batch.is_solution.sum())
        loss = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), labels=labels, use_cache=False
        ).loss
        (loss * count).backward()
        tokens += count
    gradients = {name: parameters[name].grad / tokens for name in names}  # type: ignore[operator]
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    return gradients


ARMS: dict[str, Callable[[PreTrainedModel, list[EncodedProblem]], dict[str, torch.Tensor]]] = {
    "plain": lambda model, encoded: plain(model, encoded, attention_only=False),
    "attention": lambda model, encoded: plain(model, encoded, attention_only=True),
    "mastlens": lambda model, encoded: mean_gradients(model, encoded, attention_names(model), batch_size=BATCH),
}


def largest_difference(model: PreTrainedModel, encoded: list[EncodedProblem]) -> float:
    """Return the largest |difference| of any arm's gradient to the plain one, relative to its norm."""
    expected = ARMS["plain"](model, encoded)
    found = [ARMS[arm](model, encoded) for arm in ("attention", "mastlens")]
    return float(np.max([float((part[n] - g).norm() / g.norm()) for part in found for n, g in expected.items()]))


def peak_mb(folder: Path, arm: str, count: int, prompt: int) -> float:
    """Return an arm's peak anonymous memory beyond the loaded model, from a fresh process."""
    asked = ("--arm", arm, "--model", str(folder), "--sequences", str(count), "--prompt", str(prompt))
    return from_fresh_process("benchmarks.coupling", *asked)


def measure_arm(folder: Path, arm: str, count: int, prompt: int) -> float | None:
    """Return this process' peak anonymous memory while one arm runs, beyond the loaded model."""
    model = load_model(folder)
    encoded = sequences(count, prompt)
    with torch.no_grad():  # what the first forward pass sets up once is no arm's own
        model(input_ids=torch.tensor([encoded[0].prompt + encoded[0].solution]), logits_to_keep=1)
    with measured(interval=0.002) as cost:
        ARMS[arm](model, encoded)
    return cost.peak_mb


def run(folder: Path, *, rounds: int, memory_rounds: int, count: int) -> list[dict[str, Any]]:
    """Return one record a workload and arm."""
    model = load_model(folder)
    records = []
    for workload, prompt in WORKLOADS.items():
        encoded = sequences(count, prompt)
        difference = largest_difference(model, encoded)
        if not difference <= 1e-5:  # NaN is no agreement either
            raise SystemExit(f"{workload}: the arms disagree by {difference:.1e} of a gradient's norm")
        seconds = interleaved({arm: partial(compute, model, encoded) for arm, compute in ARMS.items()}, rounds)
        peaks = {arm: [peak_mb(folder, arm, count, prompt) for _ in range(memory_rounds)] for arm in ARMS}
        for arm in ARMS:
            records.append(
                {
                    "workload": workload,
                    "arm": arm,
                    "seconds": [round(s, 3) for s in seconds[arm]],
                    "peak_mb": [round(p, 1) for p in peaks[arm]],
                    "time": ratio(seconds[arm], seconds["plain"], statistic="sum"),
                    "memory": ratio(peaks[arm], peaks["plain"], statistic="sum"),
                    "largest_difference": difference,
                }
            )
            print(json.dumps(records[-1]), flush=True)
    return records


def as_page(result: dict[str, Any]) -> list[str]:
    """Return the result as the lines of a page."""
    lines = [
        "# Coupling: gradients of the attention projections",
        "",
        f"{result['parameters'] / 1e6:.1f} M parameters (Qwen2), {result['sequences']} sequences of {LENGTH} tokens, "
        f"batches of {BATCH}, float32, {result['threads']} threads; {result['rounds']} interleaved rounds, "
        f"{result['memory_rounds']} fresh processes an arm. Ratios to `plain`, 95% bootstrap intervals over rounds. "
        f"Goals: at most {GOALS['time']} of the time and {GOALS['memory']} of the memory.",
        "",
        f"Command: `{result['command']}`",
    ]
    rows = [
        (
            record["workload"],
            record["arm"],
            f"{statistics.median(record['seconds']):.2f}",
            shown(record["time"]),
            f"{statistics.median(record['peak_mb']):.0f}",
            shown(record["memory"]),
        )
        for record in result["arms"]
    ]
    lines += table(("workload", "arm", "median s", "time ratio", "peak MB beyond the model", "memory ratio"), rows)
    worst = max(record["largest_difference"] for record in result["arms"])
    lines += ["", f"Largest difference between the arms' gradients: {worst:.1e} of the gradient's norm."]
    return [*lines, "", version_line(result)]


def main() -> None:
    """Run the benchmark, or one arm of it for its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--memory-rounds", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--arm", choices=ARMS, help="measure this arm's memory in this process and print it")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompt", type=int, default=1)
    asked = parser.parse_args()
    if asked.arm:
        print(measure_arm(asked.model, asked.arm, asked.sequences, asked.prompt))
        return
    with tempfile.TemporaryDirectory() as scratch:
        parameters = write_model(Path(scratch))
        arms = run(Path(scratch), rounds=asked.rounds, memory_rounds=asked.memory_rounds, count=asked.sequences)
    result = {
        "command": f"python -m benchmarks.coupling --rounds {asked.rounds} --memory-rounds {asked.memory_rounds}",
        "parameters": parameters,
        "sequences": asked.sequences,
        **surroundings(),
        "rounds": asked.rounds,
        "memory_rounds": asked.memory_rounds,
        "goals": GOALS,
        "arms": arms,
    }
    write_results(asked.out, "coupling", result, as_page(result))


if __name__ == "__main__":
    main()
