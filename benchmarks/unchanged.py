"""Did a rebuild change anything? Compares two folders that ``mastlens demo`` wrote, one before and one after.

    python benchmarks/unchanged.py BEFORE AFTER [--out docs/results/unchanged.md]

Every table column by column and bit for bit, every edit tensor by tensor, every settings entry of every ``run.json``.
Exits with 1 where something that both have differs, apart from the columns named with ``--except``.
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
from safetensors import safe_open

MEASURED = {"seconds", "peak_mb"}  # differ from run to run


def compare_tables(before: Path, after: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the columns that differ, those that are new and those that are gone."""
    old, new = pd.read_parquet(before), pd.read_parquet(after)
    shared = [column for column in old if column in new and column not in MEASURED]
    differ = [column for column in shared if not old[column].equals(new[column])]
    return differ, [c for c in new if c not in old], [c for c in old if c not in new]


def compare_edits(before: Path, after: Path) -> list[str]:
    """Return the tensors that differ in a bit, or that one of two edits lacks."""
    with safe_open(before, "pt") as old, safe_open(after, "pt") as new:
        names = {*old.keys()}, {*new.keys()}
        differ = sorted(names[0] ^ names[1])
        for name in sorted(names[0] & names[1]):
            a, b = old.get_tensor(name), new.get_tensor(name)
            if a.dtype != b.dtype or a.shape != b.shape or a.numpy().tobytes() != b.numpy().tobytes():
                differ.append(name)
    return differ


def settings_of(path: Path) -> dict[str, object]:
    """Return stage to settings of a record."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return {name: stage["settings"] for name, stage in record["stages"].items()}


def main() -> int:
    """Compare, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--except", nargs="*", default=[], dest="expected", help="columns that are meant to differ")
    parser.add_argument("--out", type=Path, help="a Markdown file for the result")
    arguments = parser.parse_args()
    rows, wrong = [], 0
    for old in sorted(arguments.before.rglob("*")):
        name = old.relative_to(arguments.before)
        new = arguments.after / name
        if old.suffix not in (".parquet", ".safetensors") and old.name != "run.json":
            continue
        if not new.is_file():
            rows.append((name, "missing after"))
            wrong += 1
            continue
        if old.suffix == ".parquet":
            differ, added, gone = compare_tables(old, new)
            unexpected = [column for column in differ if column not in arguments.expected]
            wrong += bool(unexpected or gone)
            parts = [f"{word}: {', '.join(map(str, some))}" for word, some in
                     (("differs", unexpected), ("meant to differ", [c for c in differ if c not in unexpected]),
                      ("gone", gone), ("new", added)) if some]  # fmt: skip
        elif old.suffix == ".safetensors":
            tensors = compare_edits(old, new)
            wrong += bool(tensors)
            parts = [f"differs: {', '.join(tensors)}"] if tensors else []
        else:
            before, after = settings_of(old), settings_of(new)
            stages = [stage for stage in before if before[stage] != after.get(stage)]
            wrong += bool(stages)
            parts = [f"settings differ: {', '.join(stages)}"] if stages else []
        rows.append((name, "; ".join(parts) or "the same, bit for bit"))
    lines = ["| file | after the rebuild |", "|---|---|", *(f"| `{name}` | {said} |" for name, said in rows)]
    text = "\n".join([*lines, "", f"{len(rows)} files compared, {wrong} with a difference that was not meant."])
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
