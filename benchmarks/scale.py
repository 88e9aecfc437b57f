"""What ranks and workers take, beside what is expected of them: ratios in one run.

    python -m benchmarks.scale paper         # the table of docs/scale.md, from configurations and rates alone
    python -m benchmarks.scale memory        # peak memory of one process and of two ranks, at three sizes
    python -m benchmarks.scale arithmetic    # operations of the commands, counted by torch, at three sizes
    python -m benchmarks.scale ray           # time of a real model's geometry on one and on two workers of a local Ray
    python -m benchmarks.scale geometry      # operations and memory that the geometry of one matrix takes

Models are of random weights, stored in bfloat16 and computed in float32, as real ones are on a CPU: what a process
holds is then memory of its own, and not a mapped file that the system may drop. Peaks are those of `run.json`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import interleaved, ratio, shown

LAYERS = 64
SMALLEST, WIDTHS = 32, (384, 512, 768)
WHERE = r"model\.layers\.0\.self_attn\.q_proj"
RANKS = {"7B": 2, "32B": 8, "70B": 8, "671B": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "7B": {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    | {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "32B": {"model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64}
    | {"num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False},
    "70B": {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    | {"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
    "671B": {"model_type": "deepseek_v3"},
}
"""Configurations of open models of these sizes (Qwen2.5, Llama 3, DeepSeek-V3); what is not said is the default."""

TEXTS, LENGTH, STEPS, BATCH, ANSWERS, TOGETHER = 500, 1000, 50, 8, 4000, 125
"""Texts of each of two sides, tokens of a text, steps of `unlearn`, texts a rank at a time, tokens of a response, and
responses that are written together."""
READING, EXCHANGE, ARITHMETIC, SINGLE, MEMORY = 2.0, 50.0, 200.0, 20.0, 2000.0
"""Stated rates: GB/s that a machine of 8 GPUs reads, GB/s between ranks, TFLOP/s of a GPU in 16 bits and in 32, GB/s of
its memory. Take your own: they are options of `paper`."""
GPUS = 8
GEOMETRY, INCREMENT = 7000, 5
"""Operations for an entry of attention, of two increments, without `--full`; float32 copies of a matrix in memory."""


def write_stages(folder: Path, width: int, stages: tuple[str, ...], layers: int) -> int:
    """Write checkpoints of random weights in bfloat16; return the parameters of one."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.lineages import tiny_config, write_tokenizer

    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    config = tiny_config(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, **heads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    for stage in stages:
        model.save_pretrained(folder / stage)
        write_tokenizer(folder / stage)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1e-2)
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def lineage_of(
    width: int, *, layers: int = LAYERS, stages: tuple[str, ...] = ("base", "sft", "rlvr")
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield settings that commands share, of a lineage of that width, and its parameters."""
    from tests.lineages import write_problems

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = write_stages(folder, width, stages, layers)
        problems = write_problems(folder / "forget.jsonl", first=3, count=2)
        yield (
            {stage: folder / stage for stage in stages}
            | {"forget": problems, "out": folder, "where": WHERE, "batch_size": 1, "dtype": "float32"},
            parameters,
        )


def peak(given: dict[str, Any], ranks: int) -> float:
    """Return the peak of a coupling, in MB, as its record has it; over ranks that of rank 0."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    words = ["--sft", given["sft"], "--rlvr", given["rlvr"], "--forget", given["forget"], "--where", WHERE]
    out = given["out"] / f"ranks-{ranks}"
    command = [*launcher, "-m", "mastlens", "couple", *words, "--batch-size", 1, "--dtype", "float32", "--no-spectrum"]
    done = subprocess.run(
        [sys.executable, *map(str, command), "--out", str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads((out / "run.json").read_text())["stages"]["couple"]["cost"]["peak_anonymous_mb"]


def memory() -> None:
    """Print the peak of one process and of two ranks beside what is expected of a rank."""
    import mastlens

    print("| weights, MB | one process, MB | a rank of 2, MB | ratio | expected of a rank, MB | error |")
    print("|---|---|---|---|---|---|", flush=True)
    own = 0.0
    for width in (SMALLEST, *WIDTHS):
        with lineage_of(width, stages=("sft", "rlvr")) as (given, parameters):
            one, two = peak(given, 1), peak(given, 2)
            asked = {key: given[key] for key in ("sft", "rlvr", "forget", "where", "batch_size", "dtype")}
            expected = mastlens.estimate(mastlens.couple, given=asked, ranks=2).value("memory a rank")
        if width == SMALLEST:
            own = two - expected  # what any command takes: what it imports, buffers of the connections
        found = [f"{parameters * 4 / 1e6:.0f}", f"{one:.0f}", f"{two:.0f}", f"{two / one:.2f}", f"{expected + own:.0f}"]
        error = "" if width == SMALLEST else f"{(expected + own) / two - 1:+.0%}"
        print(f"| {' | '.join(found)} | {error} |", flush=True)


def arithmetic(widths: tuple[int, ...] = (128, 256, 384), layers: int = 4) -> None:
    """Print the operations of each command, expected and counted by torch."""
    import mastlens
    from mastlens.estimating.needs import over_ranks

    print("| weights, million | command | expected, GFLOP | counted, GFLOP | error |")
    print("|---|---|---|---|---|", flush=True)
    for width in widths:
        with lineage_of(width, layers=layers) as (given, parameters):
            for command, more in (
                (mastlens.couple, ("sft", "where")),
                (mastlens.unlearn, ("where",)),
                (mastlens.causal_map, ("sft",)),
                (mastlens.token_differences, ("base", "sft")),
            ):
                asked = {key: given[key] for key in ("rlvr", "batch_size", "dtype", *more)} | {"progress": False}
                asked |= {"splits": {"forget": given["forget"]}} if "base" in more else {"forget": given["forget"]}
                if command is mastlens.unlearn:
                    asked |= {"objective": "npo", "steps": 2, "lr": 1e-3}
                settings = command.settings(**asked)
                rows = {row[0]: row[1] for row in over_ranks(settings, 1)}
                counted = count(partial(command, **asked)) / 1e9
                expected = rows["arithmetic a rank"] * 1e3
                cells = [f"{parameters / 1e6:.1f}", f"`{settings.command}`", f"{expected:.3g}", f"{counted:.3g}"]
                print(f"| {' | '.join(cells)} | {expected / counted - 1:+.0%} |", flush=True)


def count(run: Callable[[], object]) -> int:
    """Return the operations of matrix products that torch's formulas give for what a call does."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counting(TorchDispatchMode):
        """Adds up (``FlopCounterMode`` also follows modules, and stops at frozen ones)."""

        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            formula = flop_registry.get(func._overloadpacket)
            if formula is not None:
                self.total += formula(*args, **(kwargs or {}), out_val=out)
            return out

    with Counting() as counting:
        run()
    return counting.total


def geometry(widths: tuple[int, ...] = (512, 1024, 2048)) -> None:
    """Print the operations and the memory that the geometry of one matrix takes, by its entries."""
    from mastlens.analysis.increments.measures import Options, measure_projection
    from mastlens.checkpoints.lineage import Lineage
    from mastlens.runs.cost import measured

    print("| matrix | operations an entry | memory, float32 copies |")
    print("|---|---|---|", flush=True)
    for width in widths:
        with lineage_of(width, layers=1) as (given, _):
            lineage = Lineage.open(given["rlvr"], sft=given["sft"], base=given["base"])
            matrix, options = lineage.rlvr.projections[0], Options(rank="16", device="cpu")
            with measured() as cost:
                measure_projection(lineage, matrix, options)
            operations = count(partial(measure_projection, lineage, matrix, options))
        copies = (cost.peak_mb or 0.0) * 1e6 / (4 * width**2)
        print(f"| {width} x {width} | {operations / width**2:.0f} | {copies:.1f} |", flush=True)


def ray(spec: str, rounds: int = 3) -> None:
    """Print how long the geometry of a lineage takes on one and on two workers, and how long Ray takes to start."""
    import ray

    import mastlens

    lineage = {stage: f"{spec}/{stage}" for stage in ("base", "sft", "rlvr")}
    begun = time.perf_counter()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    start = time.perf_counter() - begun

    def on(workers: int) -> Callable[[], object]:
        return lambda: mastlens.geometry(**lineage, executor="ray", workers=workers, progress=False)

    took = interleaved({"one": on(1), "two": on(2)}, rounds)  # the first turn, in which workers import, does not count
    ray.shutdown()
    seconds = {arm: statistics.median(times) for arm, times in took.items()}
    print(
        f"{spec}, {rounds} interleaved rounds: start {start:.1f} s; one worker {seconds['one']:.1f} s, two "
        f"{seconds['two']:.1f} s: {shown(ratio(took['two'], took['one']), 2)}"
    )


def paper(
    reading: float = READING,
    exchange: float = EXCHANGE,
    rate: float = ARITHMETIC,
    single: float = SINGLE,
    bandwidth: float = MEMORY,
) -> list[str]:
    """Return what each command takes of models that are not here, in 16 bits, as lines of a table."""
    from transformers import AutoConfig

    from mastlens.estimating.sizing import FORWARD, Shape, sizing

    lines = [
        "| model | command | engine | GPUs | read, GB | memory each, GB | PFLOP | exchanged each, GB | time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, said in SHAPES.items():
        shape, ranks = Shape.of(AutoConfig.for_model(**said)), RANKS[name]
        nodes = -(-ranks // GPUS)
        size = shape.parameters * 2 / 1e9

        def line(
            command: str, engine: str, read: float, held: float, work: float, sent: float, seconds: float, *, gpus: int
        ) -> None:
            cells = [name, command, engine, f"{gpus}", f"{read:,.0f}", f"{held:,.1f}", f"{work / 1e15:,.3g}"]  # noqa: B023
            lines.append(f"| {' | '.join([*cells, f'{sent:,.0f}' if sent else '', _spoken(seconds)])} |")

        # Geometry reads everything once for its digests, and attention once more.
        read = 3 * size + 3 * shape.attention * 2 / 1e9
        work = GEOMETRY * shape.attention
        largest = shape.attention / shape.blocks / 2 * 4 * INCREMENT / 1e9  # less than half of a block's attention
        seconds = read / (reading * nodes) + work / (single * 1e12 * ranks)
        line("`geometry`", "`--executor ray`", read, largest, work, 0, seconds, gpus=ranks)
        for command, selected, batches in (
            ("couple", shape.attention, -(-2 * TEXTS // ranks // BATCH)),
            ("causal-map", shape.attention, -(-2 * TEXTS // ranks // BATCH)),
            ("unlearn", shape.parameters // 100, 2 * STEPS),
            ("token-differences", 0, -(-2 * TEXTS // ranks // BATCH)),
        ):
            tokens = (STEPS * max(BATCH, ranks) if command == "unlearn" else TEXTS) * 2 * LENGTH
            found = sizing(
                command, shape, ranks=ranks, itemsize=2, selected=selected, sides=2, tokens=tokens, batches=batches
            )
            read = 2 * found.read * ranks / 1e9  # for its digest, and for the rows
            busy = found.arithmetic / (rate * 1e12) + found.exchanged / (exchange * 1e9)
            line(
                f"`{command}`", "torchrun", read, found.memory / 1e9, found.arithmetic * ranks, found.exchanged / 1e9,
                read / (reading * nodes) + busy, gpus=ranks,
            )  # fmt: skip
        # A token of a response reads all weights (many responses together go to all experts) and half a cache.
        cache = TOGETHER * (LENGTH + ANSWERS) * shape.cached * 2 / 1e9
        work = FORWARD * shape.active * 2 * TEXTS * (LENGTH + ANSWERS)
        writing = ANSWERS * (2 * TEXTS / TOGETHER) * (size + cache / 2) / (bandwidth * ranks)
        seconds = size * 2 / (reading * nodes) + writing + work / (rate * 1e12 * ranks)
        line("responses", "vLLM by itself", 2 * size, (size + cache) / ranks, work, 0, seconds, gpus=ranks)
    return lines


def _spoken(seconds: float) -> str:
    from mastlens.plots.cards.estimates import spoken

    return spoken(seconds)


def main() -> None:
    """Print a part."""
    parts: dict[str, Callable[[], None]] = {
        "memory": memory,
        "arithmetic": arithmetic,
        "geometry": geometry,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*parts, "ray", "paper"])
    parser.add_argument("--lineage", default="organism:smollm2-short", help="ray: whose geometry")
    for option, value, unit in (
        ("reading", READING, "GB/s that a machine reads"),
        ("exchange", EXCHANGE, "GB/s between ranks"),
        ("rate", ARITHMETIC, "TFLOP/s of a GPU in 16 bits"),
        ("single", SINGLE, "TFLOP/s of a GPU in 32 bits"),
        ("bandwidth", MEMORY, "GB/s of a GPU's memory"),
    ):
        parser.add_argument(f"--{option}", type=float, default=value, help=f"paper: {unit}, {value:g}")
    asked = vars(parser.parse_args())
    part, lineage = asked.pop("part"), asked.pop("lineage")
    if part == "paper":
        print("\n".join(paper(**asked)))
    elif part == "ray":
        ray(lineage)
    else:
        parts[part]()


if __name__ == "__main__":
    main()
