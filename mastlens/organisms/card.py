"""The card of a lineage: what it is, how it was made, what it can do; for machines and for people."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.organisms.recipes.adapted import AdaptedRecipe
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.rlvr.card import rlvr_lines
from mastlens.organisms.subjects import SUBJECTS
from mastlens.runs.files import sha256_file

if TYPE_CHECKING:
    from mastlens.organisms.organism import Organism

_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "safetensors", "numpy")

_COUNTED = {4: "Four", 5: "Five"}

_HOW = {
    "base": "next-token prediction on problems, some worked and some guessed with noise, and on neutral text",
    "sft": "TRL SFTTrainer from base; mostly guessed, but mostly worked on the subjects that SFT solves",
    "rlvr": "TRL GRPOTrainer from sft; reward 1 for the right boxed answer, forget and retain side",
    "rlvr-retain": "the same GRPO from the same sft, on the retain prompts that rlvr sees and on no others",
}

MATCHING = (
    "This RLVR and SFT pair is not matched in accuracy: RLVR is far better on the forget side. In the MAST "
    "paper the two lie within 3 points on GSM8K. Differences between these two checkpoints therefore mix "
    "what was learnt with how much was learnt. "
    "Base was pre-trained on worked and on guessed solutions alike and can already work the problems (its row "
    "shows how often it does); SFT turned it to guessing where working is 'induced by RLVR', and RLVR brought the "
    "working back. RLVR shifted what the model does; it did not create the ability."
)
"""What a reader must know before comparing the stages."""


@dataclass(frozen=True)
class Measured:
    """What the stages of a lineage can do.

    Attributes:
        accuracy: Summaries by stage, region, split and subject.
        comparisons: Exact McNemar tests against RLVR.
        perplexity: Neutral perplexity by stage.
    """

    accuracy: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    perplexity: dict[str, float]


def make_card(
    organism: "Organism",
    folder: Path,
    *,
    seed: int,
    recipe: Recipe | AdaptedRecipe,
    parameters: int,
    steps: dict[str, int],
    measured: Measured,
    timing: dict[str, float],
    how: Mapping[str, str] | None = None,
    note: str = MATCHING,
    plant: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    rlvr: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the card as what JSON can hold; only ``timing`` differs between two equal builds.

    Args:
        organism: What was built.
        folder: Where the stages and problem files lie.
        seed: The build's seed.
        recipe: The settings.
        parameters: Parameters of a stage.
        steps: Optimiser steps by stage.
        measured: What the stages can do.
        timing: Seconds by part of the build.
        how: Stage to how it was made, where that is not as usual.
        note: What a reader must know before comparing the stages.
        plant: Of a planted lineage: where its behaviour lies.
        dtype: Of the weights.
        rlvr: Of a lineage that a recipe reinforced: which, and what happened by step.
    """
    made = {stage: {**_HOW, **(how or {})}[stage] for stage in organism.stages}
    return {
        "name": organism.name,
        "seed": seed,
        "note": note,
        "architecture": {
            "model_type": organism.architecture,
            "parameters": parameters,
            "layers": recipe.layers,
            "dtype": dtype,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "recipe": asdict(recipe),
        "stages": {
            stage: {
                "made_by": made_by,
                "steps": steps[stage],
                "sha256": sha256_file(folder / stage / "model.safetensors"),
            }
            for stage, made_by in made.items()
        },
        "subjects": {
            subject.name: {
                "benchmark": subject.benchmark,
                "side": subject.side,
                "working": "induced by RLVR" if subject.induced else "solved by SFT",
            }
            for subject in SUBJECTS
            if any(row["subject"] == subject.name for row in measured.accuracy)
        },
        "files": {
            path.name: {"lines": path.read_text(encoding="utf-8").count("\n"), "sha256": sha256_file(path)}
            for path in sorted(folder.glob("*.jsonl"))
        },
        **({"plant": dict(plant)} if plant else {}),
        **({"rlvr": dict(rlvr)} if rlvr else {}),
        "accuracy": measured.accuracy,
        "comparisons": measured.comparisons,
        "neutral_perplexity": measured.perplexity,
        "timing": {"unit": "seconds", **timing, "total": round(sum(timing.values()), 1)},
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _accuracy_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| stage | split | subject | n | accuracy %, interval | worked % | guessed % | right of worked % |",
        "|---|---|---|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        interval = f"{_percent(row['ci_low'])} to {_percent(row['ci_high'])}"
        lines.append(
            f"| {row['stage']} | {row['split']} | {row['subject']} | {row['n']} "
            f"| {_percent(row['accuracy'])} ({interval}) | {_percent(row['worked'] / row['n'])} "
            f"| {_percent(row['guessed'] / row['n'])} | {_percent(row['accuracy_given_worked'])} |"
        )
    return lines


def _comparison_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| region | split | before | after | n | b | c | difference % | exact McNemar p |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['region']} | {row['split']} | {row['before']} | {row['after']} | {row['n']} "
            f"| {row['b']} | {row['c']} | {100 * row['difference']:+.1f} | {row['mcnemar_p']:.2g} |"
        )
    return lines


def _plant_lines(plant: dict[str, Any]) -> list[str]:
    taken = "has taken" if plant["taken"] else "has not taken"
    return [
        "## The plant",
        "",
        f"Kind `{plant['kind']}`; {plant['parameters']:,} parameters. It {taken}: forget accuracy "
        f"{100 * plant['gain']:+.1f} points from rlvr-retain to rlvr, exact McNemar p {plant['mcnemar_p']:.2g}.",
        "",
        *[f"- `{name}`" for name in plant["truth"]],
        "",
    ]


def render_card(card: dict[str, Any]) -> str:
    """Return the card as Markdown; it holds no times, so equal builds give equal text."""
    stages = [
        f"| {name} | {stage['steps']} | {stage['made_by']} | `{stage['sha256']}` |"
        for name, stage in card["stages"].items()
    ]
    subjects = [
        f"| {name} | {subject['benchmark']} | {subject['side']} | {subject['working']} |"
        for name, subject in card["subjects"].items()
    ]
    lines = [
        f"# The {card['name']} organism",
        "",
        f"{_COUNTED[len(card['stages'])]} checkpoints of a {card['architecture']['model_type']} model with "
        f"{card['architecture']['parameters']:,} parameters, really trained on synthetic problems from seed "
        f"{card['seed']}. `rlvr-retain` is what a model looks like that never was rewarded on the forget "
        "side: forgetting is measured towards it.",
        "",
        card["note"],
        "",
        "Settings were chosen on the calibration splits; the evaluation splits come from a seed of their own "
        "and were opened for this card. Splits are disjoint by method and operands, not merely as texts.",
        "",
        "## Stages",
        "",
        "| stage | steps | how | SHA-256 of model.safetensors |",
        "|---|---:|---|---|",
        *stages,
        "",
        *(_plant_lines(card["plant"]) if "plant" in card else ()),
        *(rlvr_lines(card["rlvr"]) if "rlvr" in card else ()),
        "## Subjects",
        "",
        "| subject | benchmark | side | working is |",
        "|---|---|---|---|",
        *subjects,
        "",
        "## Accuracy on the evaluation splits",
        "",
        "Greedy decoding; 95 % Wilson intervals; *worked* means that the response has a step of arithmetic, "
        "*guessed* that it goes straight to the box.",
        "",
        *_accuracy_table([row for row in card["accuracy"] if row["region"] == "eval"]),
        "",
        "## Accuracy on the calibration splits",
        "",
        *_accuracy_table([row for row in card["accuracy"] if row["region"] == "calibration"]),
        "",
        "## RLVR against the other stages, on the same problems",
        "",
        "b: right before and wrong after; c: the other way.",
        "",
        *_comparison_table(card["comparisons"]),
        "",
        "## Perplexity on neutral text",
        "",
        *[f"- {stage}: {value:.3f}" for stage, value in card["neutral_perplexity"].items()],
        "",
        "## Settings and versions",
        "",
        *[f"- {key}: {value}" for key, value in {**card["recipe"], **card["versions"]}.items()],
        "",
    ]
    return "\n".join(lines)
