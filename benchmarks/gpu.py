"""Every command that runs a model, on a GPU, at real sizes, beside plain Hugging Face: ``bash benchmarks/gpu.sh``.

Each command runs in a fresh process, as it is typed, and tells its seconds, the most memory that torch allocated on the
GPU, and whether it succeeded; one that fails is a row that says why, and the next goes on. Sizes: ``yardstick`` is
SmolLM2-135M where it is in the cache, ``1.5b`` and ``7b`` are models of random weights in the shapes of Qwen2.5-Math,
the latter of half the layers, so that two stages of it fit on a disk; ``toy`` is what ``--dry-run`` takes. The record
``OUT.jsonl`` has a line for each, and the same call goes on where it stopped; the page is ``OUT.md``. Work that does
not fit into ``--minutes`` is left out, and the page says so.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import surroundings, table, version_line
from benchmarks.plain import PLAIN
from mastlens.errors import MastlensError
from mastlens.organisms import lineage_folder
from mastlens.organisms.continued import problem_lines
from mastlens.organisms.recipes.continued import ContinuedRecipe
from mastlens.runs.cost import measured
from mastlens.runs.files import write_text


@dataclass(frozen=True)
class Size:
    """A model, and how much of everything it is given.

    Attributes:
        config: Of a model of random weights; empty where it comes out of the cache.
        texts: Problems of each file.
        new_tokens: Of a response.
        steps: Of unlearning.
        select: What is edited and put back: two layers of it.
        dtype: What it is stored in.
    """

    config: Mapping[str, Any]
    texts: int = 16
    new_tokens: int = 64
    steps: int = 4
    select: str = r"layers\.(3|12)\.self_attn"
    dtype: str = "bfloat16"


def _shape(hidden: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
    }


SIZES = {
    "toy": Size(_shape(32, 64, 2, 4, 2, 2048), 2, 4, 1, r"layers\.1\.self_attn", "float32"),
    "yardstick": Size({}),
    "1.5b": Size(_shape(1536, 8960, 28, 12, 2, 151936)),
    "7b": Size(_shape(3584, 18944, 14, 28, 4, 152064), texts=8),
}
YARDSTICK, TOKENIZER = "smollm2-short", "qwen2"
STAGES = ("sft", "rlvr")
THINK = lineage_folder("think")


def write_models(folder: Path, size: Size) -> None:
    """Write SFT and RLVR stages of random weights that differ by a small step, with a tokenizer of the vocabulary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.for_model("qwen2", **size.config, tie_word_embeddings=False)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, size.dtype))
    for stage in STAGES:
        model.save_pretrained(folder / stage)
        for file in (lineage_folder(TOKENIZER) / "rlvr").iterdir():
            if file.name.startswith(("tokenizer", "special_tokens", "chat_template", "generation")):
                shutil.copyfile(file, folder / stage / file.name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1e-3)


def files_of(folder: Path, size: Size) -> dict[str, str]:
    """Write the problem files, and return their paths by what they are for."""
    found = {}
    for side in ("forget", "retain"):
        lines = problem_lines(ContinuedRecipe())[f"{side}-train.jsonl"][: size.texts]
        found[side] = str(folder / f"{side}.jsonl")
        Path(found[side]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    questions = (THINK / "forget-choices-eval.jsonl").read_text(encoding="utf-8").splitlines()[: size.texts]
    found["questions"] = str(folder / "questions.jsonl")
    Path(found["questions"]).write_text("\n".join(questions) + "\n", encoding="utf-8")
    return found


def commands(size: Size, stages: Mapping[str, str], files: Mapping[str, str], out: Path) -> dict[str, list[str]]:
    """Return every command, in the order in which each finds what it needs."""
    forget, retain = files["forget"], files["retain"]
    pair = ["--sft", stages["sft"], "--rlvr", stages["rlvr"]]
    both = ["--forget", forget, "--retain", retain]
    model, edit = ["--model", stages["rlvr"]], ["--edit", f"{out}/run/edit.safetensors"]
    splits = ["--split", f"forget={forget}", f"retain={retain}"]
    tokens = ["--max-new-tokens", str(size.new_tokens)]
    run = ["--out", f"{out}/run"]
    unlearn = ["--objective", "npo", "--steps", str(size.steps), "--lr", "1e-4"]
    attacked = [*model, *edit, "--split", f"forget={forget}", *tokens]
    relearn = ["--train", retain, "--steps", str(size.steps), "--train-batch-size", "2"]
    return {
        "inspect": ["inspect", stages["rlvr"]],
        "geometry": ["geometry", "--base", stages["sft"], "--rlvr", stages["rlvr"], "--out", f"{out}/geometry"],
        "couple": ["couple", *pair, *both, "--no-spectrum", *run],
        "causal-map": ["causal-map", *pair, "--forget", forget, "--where", size.select, *run],
        "score path": ["score", "path", *pair, "--forget", forget, "--where", size.select, *run],
        "token-differences": ["token-differences", *pair, *splits, "--out", f"{out}/tokens"],
        "inside depart": ["inside", "depart", *pair, *splits, "--lens", "--draws", "2", "--out", f"{out}/inside"],
        "inside write": ["inside", "write", *pair, *splits, "--draws", "2", "--out", f"{out}/inside"],
        "inside patch": [
            *("inside", "patch", *pair, "--split", f"forget={forget}", "--sites", "z", "--first-order"),
            *("--draws", "2", "--out", f"{out}/inside"),
        ],
        "estimate": ["estimate", "unlearn", "--rlvr", stages["rlvr"], "--where", size.select, *both, *unlearn, *run],
        "unlearn": ["unlearn", "--rlvr", stages["rlvr"], "--where", size.select, *both, *unlearn, *run],
        "evaluate": ["evaluate", *model, *splits, *tokens, "--out", f"{out}/before"],
        "evaluate, edited": ["evaluate", *model, *edit, *splits, *tokens, "--out", f"{out}/after"],
        "compare": ["compare", f"{out}/before", f"{out}/after"],
        "measure-collateral": ["measure-collateral", *model, *edit, "--split", f"a={retain}", "--out", f"{out}/coll"],
        "choices": ["choices", *model, "--questions", f"a={files['questions']}", "--out", f"{out}/choices"],
        "evaluate-traces": [
            *("evaluate-traces", *model, "--questions", f"a={files['questions']}", *tokens),
            *("--facts", str(THINK / "facts.json"), "--out", f"{out}/judged"),
        ],
        "traces": ["traces", *model, "--forget", forget, *tokens, "--out", f"{out}/traces"],
        "attack quantise": ["attack", "quantise", *attacked, "--out", f"{out}/quantised"],
        "attack relearn-forget": ["attack", "relearn-forget", *attacked, *relearn, "--out", f"{out}/relearnt"],
        "negate": ["negate", *pair, "--where", size.select, "--out", f"{out}/negated"],
        "edit lora": [
            *("edit", "lora", f"{out}/run/edit.safetensors", "--to", stages["rlvr"], "--rank", "4"),
            *("--out", f"{out}/adapter"),
        ],
        "edit apply": [
            *("edit", "apply", f"{out}/run/edit.safetensors", "--to", stages["rlvr"], "--out", f"{out}/edited"),
        ],
    }


BESIDE = {"evaluate": "evaluate", "couple": "couple", "unlearn": "unlearn", "causal-map": "causal-map"}
"""Command to what is written in its place with plain Hugging Face."""


def measure(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Run one command, or what is written in its place, in this process; return what it cost."""
    block: Callable[[], int]
    said = StringIO()
    if asked["arm"] == "plain":
        prepared = PLAIN[asked["name"]](**asked["plain"])

        def block() -> int:
            prepared()
            return 0
    else:
        from mastlens.cli import main as run

        def block() -> int:
            with redirect_stdout(StringIO()), redirect_stderr(said):
                return run(asked["words"])

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with measured() as cost:
        failed, why = _tried(block, said)
        if gpu:
            torch.cuda.synchronize()
    return {
        **{key: asked[key] for key in ("size", "name", "arm")},
        "seconds": round(cost.seconds, 2),
        "gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if gpu else None,
        "peak_mb": None if cost.peak_mb is None else round(cost.peak_mb, 1),
        "failed": failed,
        "why": why,
    }


def _tried(block: Callable[[], int], said: StringIO) -> tuple[bool, str]:
    try:
        failed = bool(block())
    except Exception as error:
        return True, f"{type(error).__name__}: {error}"[:300]
    told = [line for line in said.getvalue().splitlines() if line.startswith("mastlens")]
    return failed, " ".join(told)[-300:] if failed else ""


def in_fresh_process(asked: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return what ``measure`` returns there; a process that ends otherwise, or takes too long, is a failure."""
    kept = {**{key: asked[key] for key in ("size", "name", "arm")}, "seconds": None, "gpu_mb": None, "peak_mb": None}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", "--one", json.dumps(asked)],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return {**kept, "failed": True, "why": f"stopped after {seconds:.0f} s: no time was left"}
    if done.returncode:
        return {**kept, "failed": True, "why": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def work_of(name: str, size: Size, scratch: Path) -> Iterator[dict[str, Any]]:
    """Yield everything that is measured at a size, a command and then what is written in its place.

    Raises:
        MastlensError: If its model is not at hand.
    """
    folder = scratch / name
    folder.mkdir(parents=True, exist_ok=True)
    if size.config:
        if not all((folder / stage / "config.json").is_file() for stage in STAGES):
            write_models(folder, size)
        stages = {stage: str(folder / stage) for stage in STAGES}
    else:
        stages = {stage: str(lineage_folder(YARDSTICK) / stage) for stage in STAGES}
    files = files_of(folder, size)
    plain = {"stages": stages, "files": files, "new_tokens": size.new_tokens, "steps": size.steps, "where": size.select}
    for command, words in commands(size, stages, files, folder / "out").items():
        yield {"size": name, "name": command, "arm": "mastlens", "words": words}
        if command in BESIDE:
            yield {"size": name, "name": BESIDE[command], "arm": "plain", "plain": plain}


def as_page(records: Sequence[Mapping[str, Any]], left: Sequence[str], command: str) -> Iterator[str]:
    """Yield the lines of the page."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else surroundings()["processor"]
    yield from ["# On a GPU", ""]
    yield (
        "Every command that runs a model, as it is typed, in a fresh process that loads the model too, beside what one "
        "writes in its place with plain Hugging Face (`benchmarks/plain.py`, without loading). GPU memory is the most "
        "that torch allocated. Models in the shapes of 1.5B and 7B have random weights: their times are meant, not "
        "what they say; of 7B's 28 layers 14 are there."
    )
    yield from ["", f"Command: `{command}`, {date.today().isoformat()}, {device}."]
    for name in dict.fromkeys(record["size"] for record in records):
        yield from ["", f"## {name}"]
        chosen = {(record["name"], record["arm"]): record for record in records if record["size"] == name}
        rows = []
        for (command_name, arm), record in chosen.items():
            if arm == "plain":
                continue
            beside = chosen.get((BESIDE.get(command_name, ""), "plain"))
            rows.append([command_name, *_told(record), *(_told(beside)[:2] if beside else ("", ""))])
        header = ["command", "seconds", "GPU, MB", "memory, MB", "", "plain: seconds", "plain: GPU, MB"]
        yield from table(header, rows)
    if left:
        yield from ["", f"Not run, for lack of time or of the model: {'; '.join(left)}."]
    yield from ["", version_line(surroundings())]


def _told(record: Mapping[str, Any]) -> list[str]:
    numbers = ["–" if record[key] is None else f"{record[key]:,.1f}" for key in ("seconds", "gpu_mb", "peak_mb")]
    return [*numbers, f"failed: {record['why']}" if record["failed"] else ""]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the page; or measure one thing in this process and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["yardstick", "1.5b", "7b"])
    parser.add_argument("--minutes", type=float, default=12.0, help="what does not fit is left out")
    parser.add_argument("--out", type=Path, default=Path("docs/results/gpu"), help="without a suffix")
    parser.add_argument("--scratch", type=Path, help="folder for models of random weights, 40 GB (default: temporary)")
    parser.add_argument("--dry-run", action="store_true", help="toy size, in this process, into a temporary folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.one:
        print(json.dumps(measure(json.loads(asked.one))))
        return 0
    with tempfile.TemporaryDirectory(prefix="mastlens-gpu-") as temporary:
        scratch, out = asked.scratch or Path(temporary), asked.out
        if asked.dry_run:
            asked.sizes, scratch, out = ["toy"], Path(temporary), Path(temporary) / "gpu"
        records, left = measured_all(asked.sizes, scratch, out, minutes=asked.minutes, here=asked.dry_run)
        command = "bash benchmarks/gpu.sh" + (" --dry-run" if asked.dry_run else "")
        write_text(out.with_suffix(".md"), "\n".join(as_page(records, left, command)) + "\n")
        print(out.with_suffix(".md").read_text())
    return int(any(record["failed"] for record in records))


def measured_all(
    sizes: Sequence[str], scratch: Path, out: Path, *, minutes: float, here: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a record of everything that could be measured in time, and what could not."""
    end = time.monotonic() + 60 * minutes
    ledger = out.with_suffix(".jsonl")
    ledger.parent.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.is_file() else []
    records = [record for record in records if not record["failed"]]
    left: list[str] = []
    for name in sizes:
        try:
            everything = list(work_of(name, SIZES[name], scratch)) if time.monotonic() < end else []
        except MastlensError as error:
            left.append(f"{name} ({error})")
            continue
        if not everything:
            left.append(name)
        for asked in everything:
            key = {part: asked[part] for part in ("size", "name", "arm")}
            if any(record | key == record for record in records):
                continue
            if (seconds := end - time.monotonic()) < 1:
                left.append(f"{name}, {asked['name']}, {asked['arm']}")
                continue
            records.append(measure(asked) if here else in_fresh_process(asked, seconds))
            with ledger.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(records[-1]) + "\n")
            print(json.dumps(records[-1]), flush=True)
    return records, left


if __name__ == "__main__":
    sys.exit(main())
