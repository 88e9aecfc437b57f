"""What the card of a lineage says of the recipe that reinforced it, and of what happened by step."""

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 10
"""Rows of a stage in the card: the first and last round, and others evenly between; all are in ``training.parquet``."""

_COLUMNS = {
    "accuracy": ("accuracy %", 100, ".1f"),
    "accuracy_forget": ("forget %", 100, ".1f"),
    "accuracy_retain": ("retain %", 100, ".1f"),
    "calibration_accuracy": ("calibration %", 100, ".1f"),
    "no_signal": ("no signal %", 100, ".1f"),
    "entropy": ("entropy, nat", 1, ".4f"),
    "response_tokens": ("tokens", 1, ".1f"),
    "kl_sft": ("KL to SFT, nat", 1, ".5f"),
    "gate": ("gate", 1, ".0f"),
}


def rlvr_lines(told: Mapping[str, Any]) -> list[str]:
    """Return the card's chapter on the recipe.

    Args:
        told: What the card keeps of it.
    """
    recipe = told["recipe"]
    lines = [
        "## How RLVR was done",
        "",
        f"By the recipe `{recipe['name']}`: {recipe['summary']} ({recipe['source']}). Base and SFT: {told['start']}.",
        "",
    ]
    if "scorer" in told:
        lines += ["Steps were scored by " + ", ".join(f"{key} `{value}`" for key, value in told["scorer"].items()), ""]
    lines += [f"- {stage}: {_said(about)}" for stage, about in told["stages"].items()]
    lines += [
        "",
        "Of responses sampled at temperature 1, before the step's update; every prompt is asked once, so that accuracy "
        "is of prompts not trained on yet. Entropy and KL(policy || SFT) are means over the responses' tokens; KL is "
        "measured in up to 20 rounds, of up to 64 responses, and 0 at the start. *No signal*: prompts whose responses "
        "all earned the same.",
        "",
    ]
    for stage, about in told["stages"].items():
        if "tasks" in about:
            lines += [f"### {stage}: what each task forgets", "", *_forgotten(about["tasks"]), ""]
    for stage in told["stages"]:
        lines += [f"### {stage}", "", *_table([row for row in told["training"] if row["stage"] == stage]), ""]
    return lines


def _said(about: Mapping[str, Any]) -> str:
    if "retrieval" in about:
        return f"{about['steps']} steps; {_retrieved(about['retrieval'])}"
    if "tasks" in about:
        order = ", ".join(f"{one['task']} ({one['steps']} steps)" for one in about["tasks"])
        return f"{about['steps']} steps on one task after the other: {order}"
    if "target_accuracy" not in about:
        return f"{about['steps']} steps"
    reached = (
        f"{about['steps']} steps on {about['right_responses']:,} right responses; calibration accuracy "
        f"{100 * about['reached_accuracy']:.1f} % of the {100 * about['target_accuracy']:.1f} % that were to be matched"
    )
    return reached if about["matched"] else f"{reached}: it is **not matched**"


def _forgotten(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of tasks: calibration accuracy after each, and what was lost of it at the end."""
    after = " | ".join(f"after {one['task']} %" for one in tasks)
    return [
        f"| task | problems | SFT % | {after} | own, when learnt % | forgotten at the end, points | McNemar p |",
        f"|---|---:|{'---:|' * (len(tasks) + 4)}",
        *(
            f"| {one['task']} | {one['n']} | {' | '.join(f'{100 * value:.1f}' for value in one['accuracies'])} | "
            f"{100 * one['learnt']:.1f} | {100 * one['forgotten']:+.1f} | {one['mcnemar_p']:.2g} |"
            for one in tasks
        ),
    ]


def _retrieved(about: Mapping[str, Any]) -> str:
    """Return what is said of prompts with a retrieved demonstration."""
    pairs = [
        f"{100 * about[when]['with']:.1f} % with and {100 * about[when]['without']:.1f} % without retrieval {said}"
        for when, said in (("sft", "before"), ("after", "after"))
    ]
    return (
        f"of the retrieved demonstrations {100 * about['same_method']:.1f} % share the method (by chance "
        f"{100 * about['same_method_null']:.1f} %); calibration accuracy {', '.join(pairs)} (McNemar p of the last two "
        f"{about['after']['mcnemar_p']:.2g}, {about['after']['n']} problems); accuracy below is with retrieval"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [name for name in _COLUMNS if any(name in row for row in rows)]
    measured = [row for row in rows if "kl_sft" in row]
    places = sorted({round(i * (len(measured) - 1) / (SHOWN - 1)) for i in range(SHOWN)}) if measured else []
    return [
        f"| step | {' | '.join(_COLUMNS[name][0] for name in shown)} |",
        f"|---:|{'---:|' * len(shown)}",
        *(
            f"| {measured[i]['step']} | {' | '.join(_cell(measured[i].get(name), name) for name in shown)} |"
            for i in places
        ),
    ]


def _cell(value: float | None, name: str) -> str:
    _, scale, form = _COLUMNS[name]
    return "–" if value is None else format(scale * value, form)
