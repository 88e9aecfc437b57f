"""What hashing, checking and nulls cost: commands beside an earlier source, and a finished stage of a large model.

    git worktree add ../before COMMIT
    python -m benchmarks.no_slower commands --before ../before     # about 5 minutes of one core
    python -m benchmarks.no_slower geometry --before ../before     # attention of two widths, in two types
    python -m benchmarks.no_slower resume                          # about 2 minutes; 30 GB of sparse files

Commands run on the shipped organism and take turns with those of the earlier state. Each run has a cache of its own, so
that every checkpoint is hashed anew, as on the first use. What counts is the processor's time of the command and its
children, its start included. The large model has the shapes of Qwen2.5-7B; its files are sparse, so that they take no
disk, and are hashed all the same. ``geometry`` counts the processor's time of the call alone, on weights with decaying
spectra that are written anew and increments above the precision floor, after a first call that loads what is needed.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.common import order_of, ratio
from benchmarks.synthetic import Shape, write_lineage

HERE = Path(__file__).resolve().parents[1]
LINEAGE = HERE / "mastlens/organisms/lineages/qwen2"
COMMANDS = {
    "geometry": f"geometry --base {LINEAGE}/base --sft {LINEAGE}/sft --rlvr {LINEAGE}/rlvr --workers 1 --out {{o}}",
    "evaluate": f"evaluate --model {LINEAGE}/rlvr --split forget={{o}}.jsonl --batch-size 32 --out {{o}}",
}
PROBLEMS = 32
SHAPES = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
MEASURED = "model.layers.0.self_attn.k_proj.weight"
HEADS = {"num_attention_heads": 28, "num_key_value_heads": 4}
WIDTHS = {"576": Shape(30, 576, 9, 3), "1536": Shape(12, 1536, 12, 2)}
TYPES = {"float32": 1e-3, "bfloat16": 2e-2}
"""Storage, and the relative norm of the RLVR increment: above the floor that it sets."""
TIMED = """
import sys, time
import mastlens
stages = {stage: f"{sys.argv[1]}/{stage}" for stage in ("base", "sft", "rlvr")}
mastlens.geometry(**stages, where="layers.0.self", out="first", workers=1)
begun = time.process_time()
mastlens.geometry(**stages, out="all", workers=1)
print(time.process_time() - begun)
"""


def run(words: str, cache: Path, tree: Path = HERE) -> dict[str, float]:
    """Run a command; return its seconds, by the processor and by the clock.

    Args:
        words: The command.
        cache: Where it keeps digests.
        tree: The source.
    """
    own = {"PYTHONPATH": str(tree), "MASTLENS_CACHE": str(cache), "XDG_CACHE_HOME": str(cache)}
    environment = os.environ | own | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    typed = [sys.executable, "-m", "mastlens", *words.split()]
    done = subprocess.run(typed, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mastlens {words} exits with {done.returncode}: {done.stderr}")
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processor": used, "clock": ended - begun}


def compare(before: Path, rounds: int) -> None:
    """Print what each command costs in both states."""
    trees = {"before": before.resolve(), "now": HERE}
    for name, words in COMMANDS.items():
        seconds: dict[str, list[float]] = {arm: [] for arm in trees}
        for turn in range(rounds):
            for arm in order_of(list(trees), turn):
                with tempfile.TemporaryDirectory() as folder:
                    lines = (LINEAGE / "forget-eval.jsonl").read_text().splitlines(keepends=True)
                    Path(folder, "out.jsonl").write_text("".join(lines[:PROBLEMS]))
                    used = run(words.format(o=f"{folder}/out"), Path(folder, "cache"), trees[arm])
                seconds[arm].append(used["processor"])
                sys.stderr.write(f"{name}, {arm}: {used['processor']:.2f} s\n")
        sys.stdout.write(f"{name}: {json.dumps(ratio(seconds['now'], seconds['before']))}\n{json.dumps(seconds)}\n")


def compare_geometry(before: Path, rounds: int) -> None:
    """Print what ``geometry`` costs in both states, by width and storage."""
    trees = {"before": before.resolve(), "now": HERE}
    for (width, shape), (dtype, relative) in itertools.product(WIDTHS.items(), TYPES.items()):
        seconds: dict[str, list[float]] = {arm: [] for arm in trees}
        with tempfile.TemporaryDirectory() as folder:
            write_lineage(Path(folder), shape, sft=max(1e-2, relative), rlvr=relative)
            for file in Path(folder).glob("*/*.safetensors"):
                stored = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(file).items()}
                save_file(stored, file)
            for turn in range(rounds):
                for arm in order_of(list(trees), turn):
                    with tempfile.TemporaryDirectory() as work:
                        own = {"PYTHONPATH": str(trees[arm]), "MASTLENS_CACHE": work, "XDG_CACHE_HOME": work}
                        typed = [sys.executable, "-c", TIMED, folder]
                        environment = os.environ | own | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
                        done = subprocess.run(typed, cwd=work, env=environment, capture_output=True, text=True)
                    if done.returncode:
                        raise SystemExit(f"geometry exits with {done.returncode}: {done.stderr}")
                    seconds[arm].append(float(done.stdout.split()[-1]))
                    sys.stderr.write(f"{width} {dtype}, {arm}: {seconds[arm][-1]:.2f} s\n")
        told = json.dumps(ratio(seconds["now"], seconds["before"]))
        sys.stdout.write(f"{width} wide, {dtype}: {told}\n{json.dumps(seconds)}\n")


CALLED = """
import contextlib, io, sys, time
from mastlens.cli import main
for _ in range(3):
    begun = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["geometry", *sys.argv[1:]]) == 0
    took = time.process_time() - begun[0], time.perf_counter() - begun[1]
print("{:.2f} s of the processor, {:.2f} s of the clock".format(*took))
"""


def write_sparse(folder: Path, seed: int) -> int:
    """Write a checkpoint that takes no disk, zeros but for the tensor that is measured; return its bytes."""
    folder.mkdir()
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "torch_dtype": "bfloat16",
        **SHAPES,
        **HEADS,
    }
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    d, ff, vocab = SHAPES["hidden_size"], SHAPES["intermediate_size"], SHAPES["vocab_size"]
    kv = d * HEADS["num_key_value_heads"] // HEADS["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, d), "lm_head.weight": (vocab, d)}
    shapes["model.norm.weight"] = (d,)
    for layer in range(SHAPES["num_hidden_layers"]):
        own = f"model.layers.{layer}."
        for name, rows in (("q", d), ("k", kv), ("v", kv)):
            shapes[f"{own}self_attn.{name}_proj.weight"] = (rows, d)
            shapes[f"{own}self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{own}self_attn.o_proj.weight"] = (d, d)
        for name, shape in (("gate", (ff, d)), ("up", (ff, d)), ("down", (d, ff))):
            shapes[f"{own}mlp.{name}_proj.weight"] = shape
        for name in ("input", "post_attention"):
            shapes[f"{own}{name}_layernorm.weight"] = (d,)
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    told = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(told).to_bytes(8, "little") + told)
        stream.truncate(8 + len(told) + end)
        stream.seek(8 + len(told) + header[MEASURED]["data_offsets"][0])
        drawn = np.random.default_rng(0).standard_normal(shapes[MEASURED], dtype=np.float32)
        if seed:  # of one lineage
            drawn += 0.05 * np.random.default_rng(seed).standard_normal(shapes[MEASURED], dtype=np.float32)
        stream.write((drawn.view(np.uint32) >> 16).astype("<u2").tobytes())  # as bfloat16
    return 8 + len(told) + end


def resume(rounds: int) -> None:
    """Print what a stage of two large checkpoints costs when it is run, and when it is asked for again."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [write_sparse(Path(folder, name), seed) for seed, name in enumerate(("base", "rlvr"))]
        time.sleep(3)  # digests of files that were only just written are not kept
        words = f"geometry --base {folder}/base --rlvr {folder}/rlvr --where {MEASURED} --rank 4"
        first, *again = [run(f"{words} --out {folder}/out", Path(folder, "cache")) for _ in range(1 + rounds)]
        sys.stdout.write(f"{sizes[0] / 1e9:.1f} GB each; first {json.dumps(first)}\nagain {json.dumps(again)}\n")
        own = {"PYTHONPATH": str(HERE), "MASTLENS_CACHE": f"{folder}/cache", "XDG_CACHE_HOME": f"{folder}/cache"}
        typed = [sys.executable, "-c", CALLED, *words.split()[1:], "--out", f"{folder}/out"]
        done = subprocess.run(typed, env=os.environ | own, capture_output=True, text=True, check=True)
        sys.stdout.write(f"the call alone, where torch and transformers are loaded: {done.stdout}\n")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.no_slower", description=__doc__)
    parser.add_argument("part", choices=("commands", "geometry", "resume"))
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="the source as it was")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each")
    arguments = parser.parse_args()
    if arguments.part == "resume":
        resume(arguments.rounds)
    elif arguments.before is None:
        parser.error(f"{arguments.part} is compared with an earlier state: --before FOLDER")
    else:
        (compare if arguments.part == "commands" else compare_geometry)(arguments.before, arguments.rounds)


if __name__ == "__main__":
    main()
