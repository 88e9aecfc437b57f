"""Back to the model before RLVR: which tensors, which start, at what cost, and how fast the behaviour comes back.

On ``organism:qwen2``, calibration splits (150 items each), one lineage, one seed: what settings are chosen on, not what
a claim rests on. Every arm learns from the same responses, drawn once: the SFT model's to the forget problems, the RLVR
model's to the retain problems; batches of 16 and 16. *works*: share of the forget responses that write an equation.
*comes back*: forget accuracy after so many steps of fine-tuning on the worked forget solutions (``mastlens attack
relearn``, batches of 8), beside the same curve of the model that was never rewarded for them.

    python -m benchmarks.rewind --out build/rewind --table docs/results/rewind-table.md

A run that was stopped goes on; ``--arms`` takes some of them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import mastlens as m
from benchmarks.common import surroundings, version_line
from mastlens.organisms import ORGANISMS
from mastlens.runs.files import write_text

ORGANISM = "organism:qwen2"
SPLITS = {"forget": "forget-calibration", "math": "retain-math-calibration", "gsm": "retain-gsm-calibration"}
NEW_TOKENS, STEPS_BACK, LR_BACK = 64, 32, 3e-4
CURVE = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Arm:
    """One way to edit, or a model as it is.

    Attributes:
        stage: The model that is edited, or judged as it is.
        tensors: Which tensors: a word of ``chosen``; empty for no edit.
        lr: Learning rate.
        steps: Steps.
        start: What the tensors begin at.
    """

    stage: str = "rlvr"
    tensors: str = ""
    lr: float = 0.0
    steps: int = 0
    start: str = "source"


ARMS = {
    "source": Arm(),
    "never rewarded (rlvr-retain)": Arm("rlvr-retain"),
    "SFT": Arm("sft"),
    "embeddings": Arm(tensors="embeddings", lr=1e-3, steps=20),
    "embeddings and the 12 largest": Arm(tensors="embeddings and largest", lr=3e-4, steps=60),
    "all parameters": Arm(tensors="all", lr=3e-4, steps=40),
    "the 12 largest": Arm(tensors="largest", lr=1e-3, steps=60),
    "12 drawn, first": Arm(tensors="drawn 1", lr=1e-3, steps=60),
    "12 drawn, second": Arm(tensors="drawn 2", lr=1e-3, steps=60),
    "put back, then restored: embeddings": Arm(tensors="embeddings", lr=3e-3, steps=100, start="sft"),
    "put back, then restored: embeddings and the 12 largest": Arm(
        tensors="embeddings and largest", lr=1e-3, steps=100, start="sft"
    ),
}


@cache
def projections() -> list[str]:
    """Return the attention projections, the one with the largest increment first."""
    table = m.geometry(
        **{stage: f"{ORGANISM}/{stage}" for stage in ("base", "sft", "rlvr")}, rank=4, progress=False
    ).table
    return table[table["increment"] == "rlvr"].sort_values("delta_norm", ascending=False)["name"].tolist()


def chosen(tensors: str) -> dict[str, Any]:
    """Return how ``unlearn`` is told which tensors."""
    if tensors == "all":
        return {"all_parameters": True}
    names = ["model.embed_tokens.weight"] if tensors.startswith("embeddings") else []
    if tensors.endswith("largest"):
        names += projections()[:12]
    if tensors.startswith("drawn"):
        draw = np.random.default_rng(int(tensors.split()[1]))
        names += sorted(draw.choice(projections(), 12, replace=False).tolist())
    return {"names": names}


def file(name: str) -> Path:
    """Return a file of the organism."""
    return ORGANISMS.named("qwen2").folder / f"{name}.jsonl"


def run(name: str, arm: Arm, out: Path) -> dict[str, Any]:
    """Edit, evaluate, and let it come back; return the arm's row."""
    folder, model, edit = out / name.replace(" ", "-").replace(":", ""), f"{ORGANISM}/{arm.stage}", None
    if arm.tensors:
        first = out / "embeddings" / "rewind.parquet"
        m.unlearn(
            rlvr=model,
            sft=f"{ORGANISM}/sft",
            forget=file("forget-train"),
            retain=file("retain-train"),
            objective="rewind",
            lr=arm.lr,
            steps=arm.steps,
            start=arm.start,
            batch_size=16,
            responses=first if first.is_file() and folder != first.parent else None,
            own_responses=None if first.is_file() and folder != first.parent else {"max_new_tokens": NEW_TOKENS},
            out=folder,
            **chosen(arm.tensors),
        )
        edit = folder / "edit.safetensors"
    splits = {split: file(name) for split, name in SPLITS.items()}
    evaluation = m.evaluate(
        model=model, edit=edit, splits=splits, max_new_tokens=NEW_TOKENS, out=folder / "calibration"
    ).table
    accuracy = evaluation.groupby("split")["correct"].mean()
    works = evaluation[evaluation["split"] == "forget"]["response"].str.contains("=").mean()
    back = m.attack(
        "relearn-forget",
        model=model,
        edit=edit,
        splits={"forget": splits["forget"]},
        train=file("forget-train"),
        steps=STEPS_BACK,
        lr=LR_BACK,
        max_new_tokens=NEW_TOKENS,
        out=folder / "relearn",
    ).table
    curve = back[back["split"] == "forget"].set_index("step")["accuracy"]
    return {
        "arm": name,
        **{split: 100 * accuracy[split] for split in SPLITS},
        "works": 100 * works,
        **{f"back {step}": 100 * curve[step] for step in CURVE},
    }


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page."""
    head = ["", "forget", "works", "math", "gsm", *(f"{step}" for step in CURVE)]
    keys = ["forget", "works", "math", "gsm", *(f"back {step}" for step in CURVE)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join([row["arm"], *(f"{row[key]:.1f}" for key in keys)]) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the arms and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="where the table goes")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.arms:
        rows.append(run(name, ARMS[name], arguments.out))
        print(page(rows), flush=True)
        if arguments.table is not None:
            write_text(arguments.table, page(rows) + "\n" + version_line(surroundings()) + "\n")


if __name__ == "__main__":
    main()
