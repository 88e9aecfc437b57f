"""What ranks and workers take, beside what `mastlens estimate --ranks` expects: ratios in one run.

    python -m benchmarks.scale memory    # peak memory of one process and of two ranks, at three sizes
    python -m benchmarks.scale ray       # time of a geometry on one and on two workers of a local Ray
    python -m benchmarks.scale paper     # the table of docs/scale.md, from configurations alone

Models are of random weights, of shapes in which weights dominate. A process' peak is its anonymous memory beyond what
it held when the stage began, as `run.json` has it: files that the system maps, and can drop, are none of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LAYERS = 12
WIDTHS = (256, 384, 512)
WHERE = "model.layers.0.self_attn.q_proj"
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


def write_pair(folder: Path, width: int) -> tuple[Path, Path, int]:
    """Write an SFT and an RLVR checkpoint of random weights; return both, and the bytes of one."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.lineages import tiny_config, write_tokenizer

    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    config = tiny_config(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=LAYERS, **heads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for stage in ("sft", "rlvr"):
        model.save_pretrained(folder / stage)
        write_tokenizer(folder / stage)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    return folder / "sft", folder / "rlvr", sum(parameter.numel() * 4 for parameter in model.parameters())


def cost(words: list[str], out: Path, *, ranks: int) -> dict[str, Any]:
    """Run a command and return what its record says that it cost."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "mastlens", *words, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    (stage,) = json.loads((out / "run.json").read_text())["stages"].values()
    return stage["cost"]


def memory(widths: tuple[int, ...] = WIDTHS) -> None:
    """Print the peak of one process and of two ranks beside what is expected of a rank."""
    import mastlens
    from tests.lineages import write_problems

    print("| weights, MB | one process, MB | a rank of 2, MB | ratio | expected of a rank, MB | error |")
    print("|---|---|---|---|---|---|", flush=True)
    for width in widths:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sft, rlvr, size = write_pair(folder, width)
            problems = write_problems(folder / "forget.jsonl", first=3, count=2)
            given = {"sft": sft, "rlvr": rlvr, "forget": problems, "where": WHERE, "batch_size": 1}
            words = ["couple", "--sft", sft, "--rlvr", rlvr, "--forget", problems, "--where", WHERE, "--batch-size", 1]
            typed = [*map(str, words), "--no-spectrum"]
            one, two = (cost(typed, folder / str(ranks), ranks=ranks)["peak_anonymous_mb"] for ranks in (1, 2))
            expected = mastlens.estimate(mastlens.couple, given=given, ranks=2).value("memory a rank")
            found = [f"{size / 1e6:.0f}", f"{one:.0f}", f"{two:.0f}", f"{two / one:.2f}", f"{expected:.0f}"]
            print(f"| {' | '.join(found)} | {expected / two - 1:+.0%} |", flush=True)


def ray() -> None:
    """Print how long a geometry takes on one and on two workers, and how much of it is Ray's own start."""
    import ray

    import mastlens

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sft, rlvr, _ = write_pair(folder, WIDTHS[-1])
        begun = time.perf_counter()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        start = time.perf_counter() - begun
        took = {}
        for workers in (2, 1, 2, 1):
            begun = time.perf_counter()
            mastlens.geometry(base=sft, rlvr=rlvr, full=True, executor="ray", workers=workers, progress=False)
            took.setdefault(workers, []).append(time.perf_counter() - begun)
        ray.shutdown()
    one, two = min(took[1]), min(took[2])
    print(f"start {start:.1f} s; one worker {one:.1f} s, two {two:.1f} s: {two / one:.2f}")


def paper() -> None:
    """Print what each rank takes of models that are not here, in 16 bits."""
    from transformers import AutoConfig

    from mastlens.estimating.sizing import Shape, sizing

    print(
        "| model | parameters, for a token | ranks | checkpoint, GB | `couple`, GB a rank | `unlearn` 1 %, GB a rank |",
        end="",
    )
    print(" `token-differences`, GB a rank | received a pass, GB | TFLOP a thousand tokens, there and back |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, said in SHAPES.items():
        shape = Shape.of(AutoConfig.for_model(**said))
        attention, few = shape.parameters // 10, shape.parameters // 100
        commands = {"couple": attention, "unlearn": few, "token-differences": 0}
        found = {
            command: sizing(command, shape, ranks=RANKS[name], itemsize=2, selected=count, sides=2)
            for command, count in commands.items()
        }
        cells = [
            name,
            f"{shape.parameters / 1e9:.1f} B, {shape.active / 1e9:.1f} B",
            str(RANKS[name]),
            f"{shape.parameters * 2 / 1e9:.0f}",
            *(f"{one.memory / 1e9:.1f}" for one in found.values()),
            f"{found['couple'].received / 1e9:.0f}",
            f"{4 * shape.active * 1000 / 1e12:.0f}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    parts = {"memory": memory, "ray": ray, "paper": paper}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=parts)
    parts[parser.parse_args().part]()
