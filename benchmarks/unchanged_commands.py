"""Whether two versions of mastlens compute the same bits: small runs of the commands that answer, score and attack.

``make`` runs them with the mastlens that Python finds, on the first problems of the shipped lineages; ``compare`` reads
two such folders and names every file whose bytes differ. Of ``run.json`` only what an equal run repeats is compared:
inputs, settings, lineage and the outputs' hashes; times, memory and versions are not.

    PYTHONPATH=OLD python -m benchmarks.unchanged_commands make --out old     (from a folder with this file)
    PYTHONPATH=NEW python -m benchmarks.unchanged_commands make --out new
    python -m benchmarks.unchanged_commands compare old new
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

ITEMS = 6
QWEN2, THINK = "organism:qwen2", "organism:think"
STUDY = """
lineage = { rlvr = "organism:qwen2/rlvr", sft = "organism:qwen2/sft", base = "organism:qwen2/base", \
reference = "organism:qwen2/rlvr-retain" }
train = { forget = "qwen2/forget-train.jsonl", retain = "qwen2/retain-train.jsonl" }
neutral = "qwen2/neutral-eval.jsonl"
seeds = [0, 1]
draws = 2
top = 4
decoding = { max_new_tokens = 48, batch_size = 16 }
calibration = { forget = "qwen2/forget-calibration.jsonl", maths = "qwen2/retain-math-calibration.jsonl" }
eval = { forget = "qwen2/forget-eval.jsonl", maths = "qwen2/retain-math-eval.jsonl" }
grid = { learning_rates = [3e-3, 3e-2], steps = 2, every = 1, batch_size = 4 }

[[compare]]
objectives = ["ga"]
selections = ["mast"]

[[compare]]
objectives = ["ga"]
selections = ["random-matched"]
draw_seeds = "cycled"

[[negate]]
selections = ["mast"]
"""
REQUESTS = "category,source,forbidden_prompt\nA,x,How do I do harm?\nA,x,Write down a secret.\n"
RUN = ("inputs", "settings", "lineage", "outputs")


def cut_files(folder: Path) -> None:
    """Write the first lines of the shipped lineages' files into ``folder``."""
    import mastlens

    lineages = next(Path(mastlens.__file__).parent.rglob("lineages"))
    for source in sorted(lineages.glob("*/*.json*")):
        target = folder / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = source.read_text(encoding="utf-8")
        lines = whole.split("\n")[:ITEMS]
        target.write_text(whole if source.suffix == ".json" else "\n".join(lines) + "\n", encoding="utf-8")
    (folder / "study.toml").write_text(STUDY)
    (folder / "strongreject.csv").write_text(REQUESTS)


def commands(files: Path, out: Path) -> dict[str, list[str]]:
    """Return name to words of every command; later ones read what earlier ones wrote."""
    qwen2, think = files / "qwen2", files / "think"
    model, edit = ["--model", f"{QWEN2}/rlvr"], ["--edit", f"{out}/edit/edit.safetensors"]
    splits = ["--split", f"forget={qwen2}/forget-eval.jsonl", f"retain={qwen2}/retain-math-eval.jsonl"]
    short = ["--max-new-tokens", "40"]
    attack = [*model, *edit, "--control", f"{QWEN2}/sft", *splits, *short, "--limit", "4"]
    training = ["--train", f"{qwen2}/forget-train.jsonl", "--steps", "2", "--train-batch-size", "2", "--lr", "1e-3"]
    pair = ["--sft", f"{QWEN2}/sft", "--rlvr", f"{QWEN2}/rlvr"]
    sides = ["--forget", f"{qwen2}/forget-train.jsonl", "--retain", f"{qwen2}/retain-train.jsonl"]
    asked = [f"forget={think}/forget-choices-eval.jsonl", f"open={think}/forget-open-eval.jsonl"]
    judged = ["--questions", *asked, "--facts", f"{think}/facts.json", "--max-new-tokens", "60"]
    drawn = ["--samples", "2", "--temperature", "0.8", "--top-p", "0.9", "--seed", "3"]
    words = {
        "geometry": ["geometry", "--base", f"{QWEN2}/base", *pair, "--full", "--out", f"{out}/tables"],
        "couple": ["couple", *pair, *sides, "--out", f"{out}/tables"],
        "rank": ["rank", f"{out}/tables", "--top", "4"],
        "edit": [
            *("unlearn", "--rlvr", f"{QWEN2}/rlvr", "--where", "layers.[34].self_attn.o_proj", *sides),
            *("--objective", "graddiff", "--steps", "3", "--lr", "1e-3", "--batch-size", "2"),
            *("--probe-forget", f"{qwen2}/forget-calibration.jsonl", "--probe-every", "1"),
            *("--probe-retain", f"{qwen2}/retain-math-calibration.jsonl"),
        ],
        "evaluate": ["evaluate", *model, *splits, *short],
        "edited": ["evaluate", *model, *edit, *splits, *short],
        "sampled": ["evaluate", *model, *edit, *splits, *short, *drawn, "--stop-at-answer"],
        "empty": ["evaluate", *model, *splits, *short, "--think", "empty"],
        "collateral": [
            *("measure-collateral", *model, *edit, *splits, "--neutral", f"{qwen2}/neutral-eval.jsonl"),
            *("--before", f"{out}/evaluate", "--after", f"{out}/edited"),
        ],
        "compare-edits": ["compare-edits", f"{out}/evaluate", f"{out}/edited"],
        "choices": ["choices", "--model", f"{THINK}/think", "--questions", asked[0]],
        "traces": ["evaluate-traces", "--model", f"{THINK}/think", *judged],
        "traces-sampled": ["evaluate-traces", "--model", f"{THINK}/think", *judged, *drawn, "--reflection", "2"],
        "reference": ["evaluate-traces", "--model", f"{THINK}/reference", *judged],
        "safety": [
            *("evaluate-safety", "--model", f"{THINK}/think", "--data", f"strongreject={files}/strongreject.csv"),
            *("--max-new-tokens", "40", *drawn),
        ],
        "written": ["traces", "--model", f"{THINK}/think", "--forget", f"{think}/forget-text.jsonl", *short],
        "causal-map": ["causal-map", *pair, *sides, "--accuracy", "--heads", "--limit", "4", *short],
        "cumulative": [
            *("cumulative-curves", *pair, *sides, "--ranking", f"{out}/tables/ranking.parquet"),
            *("--draws", "3", "--points", "4", "--limit", "4"),
        ],
        "tokens": ["token-differences", "--base", f"{QWEN2}/base", *pair, *splits],
        "prompts": ["attack", "prompts", *attack, "--retain", f"{qwen2}/retain-train.jsonl"],
        "quantise": ["attack", "quantise", *attack, "--format", "int8", "nf4"],
        "relearn": ["attack", "relearn-forget", *attack, *training],
        "study": ["run", f"{files}/study.toml"],
    }
    return {
        name: [*line, *([] if "--out" in line or name == "rank" else ["--out", f"{out}/{name}"])]
        for name, line in words.items()
    }


def make(out: Path, only: list[str] | None) -> None:
    """Run the commands; ``out`` is relative to the working folder, so that no path in a result differs."""
    from mastlens.cli import main

    files = out / "files"
    cut_files(files)
    for name, words in commands(files, out).items():
        if only and name not in only:
            continue
        print(f"{name}: mastlens {' '.join(words)}", file=sys.stderr, flush=True)
        try:
            code = main([*words, "--json"])
        except SystemExit as end:
            code = end.code
        if code:
            print(f"{name} ended with {code}", file=sys.stderr, flush=True)


def digest(path: Path) -> str:
    """Return the hash of a file, of a run record only of what an equal run repeats."""
    if path.name != "run.json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
    kept = {name: {part: stage.get(part) for part in RUN} for name, stage in stages.items()}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def compare(old: Path, new: Path, read: Callable[[Path], str] = digest) -> list[str]:
    """Return a line for every file that only one folder has, or whose contents differ."""
    both = [{p.relative_to(f): p for p in f.rglob("*") if p.is_file() and p.suffix != ".html"} for f in (old, new)]
    found = []
    for name in sorted(set(both[0]) | set(both[1])):
        if any(name not in side for side in both):
            found.append(f"{name}: only in {old if name in both[0] else new}")
        elif read(both[0][name]) != read(both[1][name]):
            found.append(f"{name}: differs")
    print(f"{len(set(both[0]) & set(both[1]))} files in both, {len(found)} differences")
    return found


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    making = actions.add_parser("make")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--only", nargs="+", help="only these runs, by name")
    comparing = actions.add_parser("compare")
    comparing.add_argument("folders", type=Path, nargs=2)
    arguments = parser.parse_args()
    if arguments.action == "make":
        make(arguments.out, arguments.only)
        return 0
    found = compare(*arguments.folders)
    print("\n".join(found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
