"""How well what a recipe of RLVR taught is unlearnt at matched forgetting, and how fast it comes back."""

from pathlib import Path
from typing import Any

import mastlens
from mastlens.organisms import get_organism
from mastlens.studies.settings import parse_study

COMPARED = (("npo", ("mast", "all-parameters"), "first"), ("rewind", ("all-parameters",), "best"))
"""Objectives; what each edits, the 12 attention projections that MAST ranks first, or everything; and which of a run's
checkpoints that forgot enough is taken, the first or the one that kept the most."""

GRID: dict[str, Any] = {"learning_rates": [3e-4], "steps": 60, "every": 2, "batch_size": 16}
"""At 1e-3 the first look, after four steps, finds NPO far past what was to be forgotten."""

STEPS, LR = 16, 3e-4
"""Of the fine-tuning after which it is asked again."""

STUDY = "study"


def edits_of(lineage: Path, out: Path, rank: int) -> list[dict[str, Any]]:
    """Unlearn a lineage by each arm until it forgot what ``rlvr-retain`` never learnt, and fine-tune what is left.

    Args:
        lineage: Its folder.
        out: Folder for the study and the attacks, which go on where they stopped.
        rank: Of the principal subspaces.

    Returns:
        A row an arm: forget and retain accuracy on the evaluation files with the intervals of their differences to
        RLVR, and what came back after 1, 2, 4, ... steps of fine-tuning on solutions of half of the forget file,
        beside what the same steps teach ``rlvr-retain``.
    """
    study = mastlens.run_study(_study(lineage, rank), out / STUDY, progress=False).table
    tested = {"forget": lineage / "forget-eval.jsonl"}
    rows = []
    for arm in study[study["kind"] == "matched"].to_dict("records"):
        kept = ("objective", "selection", "lr", "step", "reached", "tensors", "parameters")
        measured = ("accuracy", "difference", "low", "high")
        row = {"every": GRID["every"]} | {key: arm[key] for key in kept}
        row |= {f"{side}_{key}": arm[f"{side}_{key}"] for side in ("forget", "retain") for key in measured}
        back = mastlens.attack(
            "relearn-forget",
            model=str(lineage / "rlvr"),
            edit=out / STUDY / "arms" / arm["arm"] / "edit.safetensors",
            reference=str(lineage / "rlvr-retain"),
            splits=tested,
            train=lineage / "forget-train.jsonl",
            max_new_tokens=get_organism("qwen2").decoding["max_new_tokens"],
            steps=STEPS,
            lr=LR,
            out=out / arm["arm"],
            progress=False,
        ).table.query("split == 'forget'")
        for model, step, accuracy in back[["model", "step", "accuracy"]].itertuples(index=False):
            row[f"{model}_after_{step}"] = accuracy
        rows.append(row)
    return rows


def _study(lineage: Path, rank: int) -> Any:
    files = {
        region: {split: str(lineage / f"{split}-{region}.jsonl") for split in splits}
        for region, splits in {
            "train": ("forget", "retain"),
            **dict.fromkeys(("calibration", "eval"), ("forget", "retain-math", "retain-gsm")),
        }.items()
    }
    stages = {"base": "base", "sft": "sft", "rlvr": "rlvr", "reference": "rlvr-retain"}
    return parse_study({
        "lineage": {role: str(lineage / stage) for role, stage in stages.items()},
        **files,
        "decoding": dict(get_organism("qwen2").decoding),
        "grid": GRID,
        "target": {"forget_items": 60, "retain_items": 25},
        "seeds": [0],
        "top": 12,
        "rank": rank,
        "keep_edits": "all",
        "compare": [
            {"objectives": [objective], "selections": list(selections), "retain_weight": 1.0, "take": take}
            for objective, selections, take in COMPARED
        ],
    })  # fmt: skip
