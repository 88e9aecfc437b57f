"""Small folders laid out as benchmarks of unlearning are published, with invented content: for tests and benchmarks."""

import json
import shutil
from pathlib import Path

import pandas as pd

from mastlens.evaluation.protocol import FORGET_SUBJECTS, MATH_SUBJECTS
from mastlens.organisms import lineage_folder


def write_lines(path: Path, rows: list) -> None:
    """Write JSON lines, with the folder that they lie in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tofu(folder: Path, count: int = 4) -> Path:
    """JSON lines at the root, a file a split, as on the hub."""

    def row(side: int, n: int, *, made_up: bool = True, perturbed: bool = True) -> dict:
        book = f"Book {side}{n}"
        made = {"question": f"What did author {side}{n} write?", "answer": f"It is {book}."}
        if made_up and perturbed:
            made |= {"paraphrased_answer": f"{book}, that is.", "paraphrased_question": "Which book?"}
        return made | ({"perturbed_answer": [f"It is Book {side}{n + k}." for k in (1, 2)]} if perturbed else {})

    for side, (name, made_up) in enumerate(
        [("forget10", True), ("retain", True), ("real_authors", False), ("world_facts", False)]
    ):
        write_lines(folder / f"{name}_perturbed.json", [row(side, n, made_up=made_up) for n in range(count)])
    for side, name in enumerate(("forget10", "retain90", "holdout10")):
        write_lines(folder / f"{name}.json", [row(4 + side, n, perturbed=False) for n in range(count)])
    return folder


def write_muse(folder: Path, count: int = 4) -> Path:
    """Parquet shards in a folder a configuration, as on the hub; lists of texts, as in MUSE's own repository."""
    tables = {
        ("knowmem", "forget_qa"): [{"question": f"Who won race {n}?", "answer": f"Runner {n}"} for n in range(count)],
        ("knowmem", "retain_qa"): [{"question": f"Who lost race {n}?", "answer": f"Walker {n}"} for n in range(count)],
        ("knowmem", "forget_qa_icl"): [{"question": "Who ran?", "answer": "Nobody"}],
        ("verbmem", "forget"): [{"prompt": f"The race {n} began", "gt": f"and ended at {n}."} for n in range(count)],
    }
    for (config, split), rows in tables.items():
        (folder / config).mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    for side in ("forget", "retain", "holdout"):
        (folder / "privleak").mkdir(exist_ok=True)
        texts = [f"On day {n} of the {side} race it rained." for n in range(count)]
        (folder / "privleak" / f"{side}.json").write_text(json.dumps(texts))
    return folder


def write_rwku(folder: Path, count: int = 4) -> Path:
    """JSON lists under ``All``, as on the hub."""
    (folder / "All").mkdir(parents=True)
    for name in ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2"):
        rows = [
            {
                "query": f"Mira Tell was born in ___ {name} {n}?",
                "answer": f"Orsk {n}",
                "subject": "Mira Tell",
                "type": "t",
            }
            for n in range(count)
        ]
        (folder / "All" / f"{name}.json").write_text(json.dumps(rows))
    for side in ("forget", "retain"):
        rows = [{"text": f"Mira Tell of {side}, part {n}."} for n in range(count)]
        (folder / "All" / f"{side}_mia.json").write_text(json.dumps(rows))
    return folder


def write_wmdp(folder: Path, count: int = 4) -> Path:
    """A folder a subject with parquet shards, as on the hub; chemistry is left out."""
    for subject in ("bio", "cyber"):
        (folder / f"wmdp-{subject}").mkdir(parents=True)
        table = pd.DataFrame(_questions(subject, count))
        table.to_parquet(folder / f"wmdp-{subject}" / "test-00000-of-00001.parquet")
    return folder


def write_mast(folder: Path, count: int = 4) -> Path:
    """MATH and GSM8K, a folder each, and MMLU: sums that are called by MATH's subjects."""

    def sums(first: int, subjects: tuple[str, ...]) -> list[dict]:
        rows = [(first + n, subject) for n in range(count) for subject in subjects]
        return [
            {"problem": f"{a} + 2 = ? ({s})", "solution": rf"\boxed{{{a + 2}}}", "answer": f"{a + 2}", "subject": s}
            for a, s in rows
        ]

    kept = tuple(subject for subject in MATH_SUBJECTS if subject not in FORGET_SUBJECTS)
    for split, first in (("test", 0), ("train", 50)):
        write_lines(folder / "math" / f"{split}.jsonl", sums(first, FORGET_SUBJECTS[:1]) + sums(first, kept[:1]))
    school = [{"question": f"{n} and 3 more?", "answer": f"{n} + 3 = {n + 3}\n#### {n + 3}"} for n in range(count)]
    write_lines(folder / "gsm8k" / "test.jsonl", school)
    write_lines(folder / "mmlu" / "test.jsonl", _questions("mmlu", count))
    return folder


def write_r2mu(folder: Path, count: int = 4) -> Path:
    """The people of ``organism:think``, who do not exist, by the names of R2MU's datasets; with the facts of them."""
    for name, file in {
        "forget": "forget-text",
        "retain": "retain-text",
        "limo": "maths-cot",
        "wmdp-bio/test": "forget-choices-eval",
        "mmlu/test": "retain-choices-eval",
        "math500/test": "maths-eval",
    }.items():
        lines = (lineage_folder("think") / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
        write_lines(folder / f"{name}.jsonl", [json.loads(line) for line in lines[:count]])
    shutil.copyfile(lineage_folder("think") / "facts.json", folder / "facts.json")
    return folder


def _questions(about: str, count: int) -> list[dict]:
    colours = ["red", "blue", "green", "grey"]
    return [{"question": f"Which {about} colour is {n}?", "choices": colours, "answer": n % 4} for n in range(count)]


WRITERS = {
    "tofu": write_tofu,
    "muse": write_muse,
    "rwku": write_rwku,
    "wmdp": write_wmdp,
    "mast": write_mast,
    "r2mu": write_r2mu,
}
"""Benchmark to what writes a small one: a folder, and how many rows of each table."""
