"""Every published protocol from end to end on the small real model, on invented data of its layout: that it runs.

Few items and a step or two of unlearning show that every part works, and nothing of what a method is worth.

    python -m benchmarks.protocols [NAME ...] [--data FOLDER]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import mastlens
from benchmarks.common import surroundings, table, version_line, write_results
from benchmarks.layouts import WRITERS, write_lines

MODEL, SFT, BASE = (f"organism:smollm2-short/{stage}" for stage in ("rlvr", "sft", "base"))
WHERE = r"layers\.29\.mlp"
"""The matrices that are edited of protocols that edit all: to store and check all takes minutes."""
OWN: Mapping[str, Mapping[str, Any]] = {
    "tofu": {"reference": SFT, "where": WHERE},
    "muse": {"reference": SFT, "where": WHERE},
    "rwku": {"where": WHERE},
    "wmdp": {"where": WHERE},
    "mast": {"sft": SFT, "base": BASE},
    "r2mu": {},
}
"""Protocol to what it is given beside the model and the data."""
REAL = {"mast": ("math500/test", "gsm8k/test"), "r2mu": ("math500/test",)}
"""Protocol to the tables whose first rows are taken of real problems, where a folder of them is given."""
SUBJECTS = ("Geometry", "Number Theory", "Algebra", "Precalculus")


def write_source(name: str, folder: Path, count: int, data: Path | None) -> Path:
    """Write a protocol's source: invented, with real problems in the place of invented ones where there are some."""
    WRITERS[name](folder, count)
    for file in () if data is None else REAL.get(name, ()):
        rows = [json.loads(line) for line in (data / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]
        short = [row for row in rows if len(json.dumps(row)) < 500]
        if "subject" in short[0]:  # a few of each
            chosen = [[row for row in short if row["subject"] == one][:count] for one in SUBJECTS]
            short = [row for place in range(count) for row in (one[place] for one in chosen if place < len(one))]
        write_lines(folder / f"{file}.jsonl", short[: count * (len(SUBJECTS) if name == "mast" else 1)])
    if name == "mast" and data is not None:
        for split in ("test", "train"):
            (folder / "math" / f"{split}.jsonl").unlink()
    return folder


def run(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Return what a protocol found, and the processor seconds that it took."""
    with tempfile.TemporaryDirectory() as scratch:
        source = write_source(name, Path(scratch) / "source", asked.items, asked.data)
        start = time.process_time()
        found = mastlens.run(
            f"protocol:{name}",
            Path(scratch) / name,
            model=MODEL,
            source=source,
            limit=asked.items,
            steps=asked.steps,
            batch_size=asked.batch_size,
            max_new_tokens=asked.max_new_tokens,
            progress=False,
            **OWN[name],
        )
        seconds = time.process_time() - start
    rows = found.table.astype(object).where(found.table.notna(), None).to_dict("records")
    return {"rows": rows, "published": len(found.published), "seconds": seconds}


def as_page(result: Mapping[str, Any]) -> list[str]:
    """Return the page of a result."""
    lines = [
        "# Protocols from end to end",
        "",
        f"Each published protocol on `{MODEL}` (a real model of 135 M parameters), on {result['items']} rows of each "
        f"table, invented{' but for problems of MATH-500 and GSM8K in mast and r2mu' * result['real']}, with "
        f"{result['steps']} step(s) of {result['batch_size']} and {result['max_new_tokens']} new tokens; "
        f"tofu, muse, rwku and wmdp edit `{WHERE}` alone, as mast and r2mu edit what their papers do. "
        "**This shows that every part runs, and not what a method is worth**: so few items tell nothing from chance.",
        "",
        f"Command: `{result['command']}`, on one thread. A cell is the aggregate; behind it stands its p against "
        "`before`, where that is below 1.",
    ]
    for name, found in result["protocols"].items():
        rows = pd.DataFrame(found["rows"])
        arms = list(rows["arm"].unique())
        body = [
            (f"`{metric}`", split, aggregate, group["n"].iloc[0], *(_cell(group, arm) for arm in arms))
            for (metric, split, aggregate), group in rows.groupby(["metric", "split", "aggregate"], sort=False)
        ]
        lines += [
            "",
            f"## {name}",
            "",
            f"{found['seconds']:.0f} s of processor time; beside it, in a table of their own, ",
        ]
        lines[-1] += f"{found['published']} published numbers." if found["published"] else "no published number."
        lines += table(["metric", "split", "aggregate", "n", *arms], body)
    return [*lines, "", version_line(result)]


def _cell(group: pd.DataFrame, arm: str) -> str:
    row = group[group["arm"] == arm]
    if not len(row):
        return ""
    value, p = (row[column].iloc[0] for column in ("value", "p"))
    said = "" if value is None or pd.isna(value) else f"{value:.3g}"
    return said if p is None or pd.isna(p) or p >= 1 else f"{said} ({p:.2g})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run them and write the page; those that are not asked for stay as they were measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(WRITERS), help="protocols (all)")
    parser.add_argument("--data", type=Path, help="folder with math500/test.jsonl and gsm8k/test.jsonl")
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    asked = parser.parse_args(arguments)
    kept = asked.out / "protocols.json"
    before = json.loads(kept.read_text(encoding="utf-8"))["protocols"] if kept.is_file() else {}
    own = {key: getattr(asked, key) for key in ("items", "steps", "batch_size", "max_new_tokens")}
    for name in asked.names:
        before[name] = run(name, asked)
        result = {
            "command": "python -m benchmarks.protocols" + " --data FOLDER" * (asked.data is not None),
            **surroundings(),
            **own,
            "real": asked.data is not None,
            "protocols": {name: before[name] for name in WRITERS if name in before},
        }
        write_results(asked.out, "protocols", result, as_page(result))
        print(f"{name}: {before[name]['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
