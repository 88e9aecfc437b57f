"""What each recipe of RLVR leaves in the weights, from one base and SFT.

    python -m benchmarks.recipes grpo dr-grpo dapo stare-o1 matched-sft --out build/recipes [--seeds 0 1 2]

Builds each lineage (``mastlens organism build --recipe``), reads its increment, and keeps its row once it is done; the
same command goes on where it stopped. With ``--page FILE`` rows become a page. A row counts what is beyond its null;
two recipes are compared by whether the entries that they changed agree beyond chance.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

import mastlens
from mastlens.errors import BadSetting, StageRefused
from mastlens.organisms import get_organism
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.rlvr import RECIPES
from mastlens.runs.files import write_json, write_text
from mastlens.runs.reading import read_object

READINGS = {
    "off_principal": "off the principal subspace",
    "stable_rank": "stable rank",
    "energy_rank_99": "directions of 99 %",
    "low_magnitude_overlap": "on small weights",
}
"""Geometry's measures that have a null, by what a column of the page calls them."""


def compare(names: Sequence[str], out: Path, seeds: Sequence[int], numbers: Recipe, rank: int = 16) -> pd.DataFrame:
    """Build and measure what is missing, and return a row a recipe and seed.

    Args:
        names: Recipes; one that matches an accuracy needs ``grpo`` among them.
        out: Folder of lineages and rows.
        seeds: Of the lineages.
        numbers: Of the lineages.
        rank: Of the principal subspaces.

    Raises:
        MastlensError: If a recipe has nothing to match, or the rows in the folder are of other numbers.
    """
    matching = [name for name in names if RECIPES.find(name).needs_match]
    if matching and "grpo" not in names:
        raise BadSetting(f"{matching[0]} matches the accuracy of grpo. Name grpo, too.")
    (out / "rows").mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in seeds:
        for name in sorted(names, key=lambda one: one in matching):
            kept, lineage = out / "rows" / f"{name}-{seed}.json", out / f"{name}-{seed}"
            if not kept.is_file():
                if not lineage.is_dir():
                    match = {"match": out / f"grpo-{seed}"} if name in matching else {}
                    mastlens.build_organism("qwen2", lineage, recipe=name, seed=seed, numbers=numbers, **match)
                write_json(kept, {"recipe": name, "seed": seed, "numbers": asdict(numbers), **row_of(lineage, rank)})
            row = read_object(kept)
            if row.pop("numbers") != asdict(numbers):
                raise StageRefused(f"{kept} is of other numbers. Choose another --out, or remove it.")
            rows.append(row)
    return pd.DataFrame(rows)


def row_of(lineage: Path, rank: int) -> dict[str, Any]:
    """Return what is said of a lineage: accuracy, training, its increment beyond nulls, and what putting back does."""
    card = read_object(lineage / "card.json", "a card")
    row: dict[str, Any] = {"steps": card["stages"]["rlvr"]["steps"]}
    for one in card["accuracy"]:
        if (one["stage"], one["region"], one["subject"]) == ("rlvr", "eval", "all"):
            row[f"{one['split']}_accuracy"] = one["accuracy"]
    for one in card["comparisons"]:
        if (one["region"], one["before"]) == ("eval", "sft"):
            row |= {f"{one['split']}_gain": one["difference"], f"{one['split']}_p": one["mcnemar_p"]}
    training = mastlens.read_training(lineage).table.query("stage == 'rlvr'")
    entropy, apart = training["entropy"].dropna(), training["kl_sft"].dropna()
    row |= {"entropy_first": entropy.iloc[0], "entropy_last": entropy.iloc[-1], "kl_last": apart.iloc[-1]}
    stages = {role: str(lineage / role) for role in ("base", "sft", "rlvr")}
    geometry = mastlens.geometry(**stages, full=True, masks=True, spectra=True, rank=rank, progress=False).table
    geometry = geometry[geometry["increment"] == "rlvr"]
    row |= {"matrices": len(geometry), "relative_norm": float(geometry["relative_norm"].median())}
    for measure in READINGS:
        row[f"{measure}_beyond"] = int(geometry[f"{measure}_distinguishable"].fillna(False).astype(bool).sum())
    energy, size = geometry["delta_norm"] ** 2, geometry["rows"] * geometry["cols"]
    for projection in "qkvo":
        here = geometry["projection"] == projection
        row[f"energy_{projection}"] = float(energy[here].sum() / energy.sum()) if energy.sum() else 0.0
        row[f"energy_{projection}_null"] = float(size[here].sum() / size.sum())
    files = {side: lineage / f"{side}-train.jsonl" for side in ("forget", "retain")}
    asked = {"sft": stages["sft"], "rlvr": stages["rlvr"], **files, "progress": False}
    groups = mastlens.causal_map(**asked).groups
    back = groups[groups["direction"] == "restore"].set_index("group")
    for group in ("attention", "mlp"):
        for end in ("", "_low", "_high"):
            row[f"put_back_{group}{end}"] = float(back.loc[group, f"forget_effect{end}"])
    return row


def agreements(rows: pd.DataFrame, out: Path) -> pd.DataFrame:
    """Return, of each pair of recipes of one seed, in how many matrices the changed entries agree beyond chance."""
    found = []
    for seed, of_seed in rows.groupby("seed"):
        for one, other in combinations(of_seed["recipe"], 2):
            lineages = {name: str(out / f"{name}-{seed}" / "rlvr") for name in (one, other)}
            table = mastlens.mask_agreement(str(out / f"{one}-{seed}" / "sft"), lineages, progress=False).table
            beyond = int(table["distinguishable"].fillna(False).astype(bool).sum())
            median = [float(table[column].median()) for column in ("jaccard", "jaccard_null")]
            pair = {"seed": seed, "one": one, "other": other, "beyond": beyond, "of": len(table)}
            found.append({**pair, "jaccard": median[0], "jaccard_null": median[1]})
    return pd.DataFrame(found)


def page(rows: pd.DataFrame, pairs: pd.DataFrame, command: str) -> str:
    """Return the page: a table of recipes, one of where the increments lie, one of pairs."""
    splits = [name.removesuffix("_accuracy") for name in rows if str(name).endswith("_accuracy")]

    def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
        return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(line)} |" for line in lines), ""]

    said = [
        [row["recipe"], str(row["seed"]), str(row["steps"])]
        + [f"{100 * row[f'{s}_accuracy']:.1f} ({100 * row[f'{s}_gain']:+.1f}, p {row[f'{s}_p']:.2g})" for s in splits]
        + [f"{row['entropy_first']:.3f} → {row['entropy_last']:.3f}", f"{row['kl_last']:.4f}"]
        for row in rows.to_dict("records")
    ]
    where = [
        [row["recipe"], str(row["seed"]), f"{row['relative_norm']:.2e}"]
        + [f"{row[f'{measure}_beyond']} of {row['matrices']}" for measure in READINGS]
        + [" ".join(f"{p} {row[f'energy_{p}']:.2f}/{row[f'energy_{p}_null']:.2f}" for p in "qkvo")]
        + [f"{row[f'put_back_{g}']:.3f} ({row[f'put_back_{g}_low']:.3f} to {row[f'put_back_{g}_high']:.3f})"
           for g in ("attention", "mlp")]
        for row in rows.to_dict("records")
    ]  # fmt: skip
    agree = [
        [str(row["seed"]), row["one"], row["other"], f"{row['beyond']} of {row['of']}",
         f"{row['jaccard']:.3f} / {row['jaccard_null']:.3f}"]
        for row in pairs.to_dict("records")
    ]  # fmt: skip
    heads = ["recipe", "seed", "steps", *(f"{split} %, gain on SFT" for split in splits), "entropy, nat", "KL to SFT"]
    lies = ["recipe", "seed", "relative norm", *READINGS.values(), "energy / share of entries", "attention", "mlp"]
    return "\n".join([
        "# What each recipe leaves in the weights", "",
        f"`{command}`. One base and SFT a seed; recipes are not matched in accuracy, but for `matched-sft`.", "",
        "## Accuracy, entropy, divergence", "",
        "On the evaluation splits; exact McNemar against SFT on the same problems.", "", *table(heads, said),
        "## Where the increment lies", "",
        "Attention matrices whose reading is beyond its null; energy of q, k, v, o beside their share of entries; ",
        "what putting SFT's weights back does to log p of the forget solutions, nat a token, with its interval.", "",
        *table(lies, where),
        "## Whether the same entries changed", "",
        "Median overlap (Jaccard) over matrices, beside what independent masks of these densities give; beyond: "
        "matrices whose agreement chance does not explain.", "",
        *table(["seed", "one", "other", "beyond", "overlap / chance"], agree),
    ])  # fmt: skip


def main() -> None:
    """Build, measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", type=float, default=0.5, help="of the lineage's own rollouts")
    parser.add_argument("--page", type=Path, default=None)
    asked = parser.parse_args()
    own = get_organism("qwen2").recipe
    counts = {name: int(getattr(own, name) * asked.budget) for name in ("grpo_forget", "grpo_retain")}
    least = {"train_forget": min(own.train_forget, counts["grpo_forget"])}
    least |= {"train_retain": min(own.train_retain, counts["grpo_retain"])}
    rows = compare(asked.recipes, asked.out, asked.seeds, replace(own, **counts, **least))
    seeds = " ".join(map(str, asked.seeds))
    command = f"python -m benchmarks.recipes {' '.join(asked.recipes)} --seeds {seeds} --budget {asked.budget}"
    text = page(rows, agreements(rows, asked.out), command)
    if asked.page is not None:
        write_text(asked.page, text)
    print(text)


if __name__ == "__main__":
    main()
