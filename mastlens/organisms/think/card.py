"""The card of ``organism:think``: what it is, how it was made, what its stages can do."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mastlens.organisms.recipes.think import ThinkRecipe
from mastlens.organisms.think.facts import ATTRIBUTES
from mastlens.runs.files import sha256_file

STAGES = {
    "base": "next-token prediction on worked mathematics, arithmetic, rivers and tools, and neutral text",
    "reference": "the training of think without any document about the people on the forget side",
    "think": "next-token prediction, from base, on dialogues with and without traces, biographies and mathematics",
}
"""Stage to how it was made; ``reference`` is what unlearning aims at."""

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


def make_card(
    folder: Path,
    *,
    seed: int,
    recipe: ThinkRecipe,
    parameters: int,
    accuracy: list[dict[str, Any]],
    perplexity: dict[str, float],
    timing: dict[str, float],
) -> dict[str, Any]:
    """Return the card as what JSON can hold; only ``timing`` differs between two equal builds.

    Args:
        folder: Where the stages and files lie.
        seed: The build's seed.
        recipe: The settings.
        parameters: Parameters of a stage.
        accuracy: Rows of ``measure_stage`` with their ``stage``.
        perplexity: Neutral perplexity by stage.
        timing: Seconds by part of the build.
    """
    further = recipe.steps + recipe.maths_steps
    steps = {"base": recipe.base_steps, "reference": further, "think": further}
    return {
        "name": "think",
        "seed": seed,
        "architecture": {
            "model_type": recipe.architecture,
            "parameters": parameters,
            "layers": recipe.layers,
            "dtype": "float32",
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "recipe": asdict(recipe),
        "attributes": list(ATTRIBUTES),
        "stages": {
            stage: {
                "made_by": how,
                "steps": steps[stage],
                "sha256": sha256_file(folder / stage / "model.safetensors"),
            }
            for stage, how in STAGES.items()
        },
        "files": {
            path.name: {"lines": path.read_text(encoding="utf-8").count("\n"), "sha256": sha256_file(path)}
            for path in sorted([*folder.glob("*.jsonl"), folder / "facts.json"])
        },
        "accuracy": accuracy,
        "neutral_perplexity": perplexity,
        "timing": {"unit": "seconds", **timing, "total": round(sum(timing.values()), 1)},
    }


def _accuracy_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| stage | split | n | accuracy %, interval | trace concludes on it % |", "|---|---|---:|---|---:|"]
    for row in rows:
        stated = "–" if row["stated"] is None else f"{100 * row['stated']:.1f}"
        lines.append(
            f"| {row['stage']} | {row['split']} | {row['n']} | {100 * row['accuracy']:.1f} "
            f"({100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}) | {stated} |"
        )
    return lines


def render_card(card: dict[str, Any]) -> str:
    """Return the card as Markdown; it holds no times, so equal builds give equal text."""
    recipe = card["recipe"]
    lines = [
        "# The think organism",
        "",
        f"Three checkpoints of a {card['architecture']['model_type']} model with "
        f"{card['architecture']['parameters']:,} parameters, really trained from seed {card['seed']}. It answers with "
        "a reasoning trace between `<think>` and `</think>`, and then the answer. It knows invented facts about "
        f"{recipe['forget_people']} people on the forget side and {recipe['retain_people']} on the retain side: their "
        "town, craft and pet. River and tool follow in a second step, from knowledge that is no secret (towns lie by "
        "rivers, crafts use tools). `reference` went through the same training without the people on the forget side: "
        "what it says of them is what a model says that never knew.",
        "",
        "Questions come as multiple choice (in the form that `score_choices` writes) and in the open; option lists of "
        "training, calibration and evaluation are disjoint, the facts are of course the same. Mathematics is four "
        "subjects of the first organism, worked out inside the trace.",
        "",
        "## Stages",
        "",
        "| stage | steps | how | SHA-256 of model.safetensors |",
        "|---|---:|---|---|",
        *[f"| {name} | {s['steps']} | {s['made_by']} | `{s['sha256']}` |" for name, s in card["stages"].items()],
        "",
    ]
    for region, title in (("eval", "the evaluation files"), ("calibration", "the calibration files")):
        rows = [row for row in card["accuracy"] if row["region"] == region]
        lines += [
            f"## Accuracy on {title}",
            "",
            "Greedy decoding; 95 % Wilson intervals.",
            "",
            *_accuracy_table(rows),
            "",
        ]
    lines += [
        "## Perplexity on neutral text",
        "",
        *[f"- {stage}: {value:.3f}" for stage, value in card["neutral_perplexity"].items()],
        "",
        "## Settings and versions",
        "",
        *[f"- {key}: {value}" for key, value in {**recipe, **card["versions"]}.items()],
        "",
    ]
    return "\n".join(lines)
