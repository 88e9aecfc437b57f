"""Small folders laid out as benchmarks of unlearning are published, with invented content."""

import json
from pathlib import Path

import pandas as pd


def write_lines(path: Path, rows: list) -> None:
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
        rows = [
            {
                "question": f"Which {subject} colour is {n}?",
                "choices": ["red", "blue", "green", "grey"],
                "answer": n % 4,
            }
            for n in range(count)
        ]
        (folder / f"wmdp-{subject}").mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(folder / f"wmdp-{subject}" / "test-00000-of-00001.parquet")
    return folder
