"""The page of what was measured of recipes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import table
from mastlens.runs.reading import read_object

READINGS = {
    "off_principal": "off the principal subspace",
    "stable_rank": "stable rank",
    "energy_rank_99": "directions of 99 %",
    "low_magnitude_overlap": "on small weights",
}
"""Geometry's measures that have a null, by what a column of the page calls them."""

SPLITS = ("forget", "retain-math", "retain-gsm")


def kept_rows(keep: Path, part: str) -> list[dict[str, Any]]:
    """Return what is kept of a part, by recipe and seed: ``recipes``, ``seed`` and what was found, a row each."""
    rows = []
    for file in sorted((keep / part).glob("*.json")):
        told = read_object(file)
        said = {"recipes": told["recipes"], "seed": told["seed"]}
        found = told["found"] if isinstance(told["found"], list) else [told["found"]]
        rows += [said | one for one in found]
    return sorted(rows, key=lambda row: (row["seed"], row["recipes"]))


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    return [*table(list(head), [list(map(str, row)) for row in rows]), ""]


def _of(rows: Iterable[Mapping[str, Any]], key: str) -> str:
    """Return what all rows were measured on."""
    return " or ".join(sorted({str(row[key]) for row in rows}))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _accuracies(row: Mapping[str, Any]) -> list[str]:
    gains = [f"{_percent(row[f'{s}_accuracy'])} ({100 * row[f'{s}_gain']:+.1f}, p {row[f'{s}_p']:.2g})" for s in SPLITS]
    seen = f"{_percent(row['forget_seen'])}, {_percent(row['retain_seen'])}"
    return [*gains, seen, f"{row['entropy_first']:.3f} → {row['entropy_last']:.3f}", f"{row['kl_last']:.4f}"]


def _increments(row: Mapping[str, Any]) -> list[str]:
    beyond = [f"{row[f'{measure}_beyond']} of {row['matrices']}" for measure in READINGS]
    energy = " ".join(f"{p} {row[f'energy_{p}']:.2f}/{row[f'energy_{p}_null']:.2f}" for p in "qkvo")
    back = [
        f"{row[f'put_back_{group}']:.3f} ({row[f'put_back_{group}_low']:.3f} to {row[f'put_back_{group}_high']:.3f})"
        for group in ("attention", "mlp")
    ]
    return [f"{row['relative_norm']:.2e}", *beyond, energy, *back]


def _edit(row: Mapping[str, Any]) -> list[str]:
    cost = f"{100 * row['retain_difference']:+.1f} ({100 * row['retain_low']:+.1f} to {100 * row['retain_high']:+.1f})"
    steps = sorted({int(name.rpartition("_")[2]) for name in row if "_after_" in name})
    back = " ".join(_percent(row[f"edited_after_{step}"]) for step in steps)
    learnt = " ".join(_percent(row[f"reference_after_{step}"]) for step in steps)
    reached = "yes" if row["reached"] else "no"
    return [
        f"{row['objective']}, {row['selection']}", f"{row['lr']:g}, {row['every']} steps", reached,
        _percent(row["forget_accuracy"]), _percent(row["retain_accuracy"]), cost, back, learnt,
    ]  # fmt: skip


def _extrapolation(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['relex_explained']:.3f}", f"{row['relex_beyond']} of {row['relex_tensors']}",
        f"{row['relex_error']:.3f} / {row['relex_stay']:.3f}",
        f"{_percent(row['relex_forget'])} / {_percent(row['relex_forget_stay'])} / {_percent(row['forget_accuracy'])}",
    ]  # fmt: skip


def page(keep: Path, command: str) -> str:
    """Return the page.

    Args:
        keep: Folder of what was measured.
        command: What measures it.
    """
    rows, edits, pairs = (kept_rows(keep, part) for part in ("rows", "edits", "pairs"))

    def who(row: Mapping[str, Any]) -> list[object]:
        return [" · ".join(row["recipes"]), row["seed"]]

    head = ("recipe", "seed")
    numbers = f"{len(rows)} lineages of {len({row['recipes'][0] for row in rows})} recipes"
    lines = [
        "# What each recipe leaves in the weights", "",
        f"`{command}`: {numbers}, from one base and SFT, at the same number of sampled responses. They are not matched "
        "in accuracy, but for `matched-sft`, whose card says whether it got there.", "",
        "## Accuracy, entropy, divergence", "",
        "Greedy, on the evaluation splits, with what was gained on SFT and exact McNemar's p on the same problems; on "
        f"prompts that RLVR saw (forget, retain; {_of(rows, 'items')} each); entropy of sampled tokens in the first "
        "and the last round; KL to SFT in the last.",
        *_table((*head, "steps", *(f"{split} %" for split in SPLITS), "seen %", "entropy, nat", "KL, nat"),
                ([*who(row), row["steps"], *_accuracies(row)] for row in rows)),
        "## Where the increment lies", "",
        "Attention matrices whose reading is beyond its null; energy of q, k, v, o beside their share of entries; what "
        "putting SFT's weights back does to log p of the forget solutions, nat a token, with its interval "
        f"({_of(rows, 'mapped')} texts).",
        *_table((*head, "relative norm", *READINGS.values(), "energy / entries", "attention back", "MLP back"),
                ([*who(row), *_increments(row)] for row in rows)),
    ]  # fmt: skip
    for file in sorted((keep / "lineages").glob("*/card.json")):
        about = read_object(file)["rlvr"]["stages"]["rlvr"]
        if "target_accuracy" in about:
            lines += [
                f"{file.parent.name}: calibration accuracy {_percent(about['reached_accuracy'])} %, where "
                f"{_percent(about['target_accuracy'])} % was to be matched"
                + ("." if about["matched"] else ": it is **no matched control**."), "",
            ]  # fmt: skip
    if edits:
        lines += [
            "## How well it is unlearnt, and how fast it comes back", "",
            "Each edit until it forgot what that lineage's own `rlvr-retain` never learnt (on calibration); then 16 "
            "steps of fine-tuning of all parameters on solutions of half of the forget file, tested after 0, 1, 2, 4, "
            "8 and 16, beside what the same steps teach `rlvr-retain`. Evaluation files; one seed of the edit, one "
            "learning rate, looked at every few steps: the first that forgot enough may have forgotten more.",
            *_table((*head, "edit", "learning rate, looked at every", "forgot", "forget %", "retain %",
                     "retain against RLVR, points", "forget %, fine-tuned", "the same of `rlvr-retain`"),
                    ([*who(row), *_edit(row)] for row in edits)),
        ]  # fmt: skip
    lines += [
        "## What the first half of the run tells of the rest", "",
        "One direction and a line a tensor, fitted to the first half of the saved steps (RELEX, arXiv:2605.21468): "
        "energy along it (median over tensors; how many beyond chance paths); error at the last step over the norm of "
        "the whole update, beside that of staying at the half; forget accuracy of the predicted checkpoint, of the "
        "half, and of the real end.",
        *_table((*head, "explained", "beyond", "error / staying", "forget %: predicted / half / end"),
                ([*who(row), *_extrapolation(row)] for row in rows if "relex_error" in row)),
    ]  # fmt: skip
    if pairs:
        lines += [
            "## Whether the same entries changed", "",
            "Median overlap (Jaccard) over matrices, beside what independent masks of these densities give; beyond: "
            "matrices whose agreement chance does not explain.",
            *_table((*head, "beyond", "overlap / chance"),
                    ([*who(row), f"{row['beyond']} of {row['of']}", f"{row['jaccard']:.3f} / {row['jaccard_null']:.3f}"]
                     for row in pairs)),
        ]  # fmt: skip
    return "\n".join(lines)
