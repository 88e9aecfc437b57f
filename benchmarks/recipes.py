"""What each recipe of RLVR leaves in the weights, and how well that can be taken out again, from one base and SFT.

    python -m benchmarks.recipes grpo dr-grpo dapo stare-o1 matched-sft --out build/recipes [--seeds 0 1 2]

Builds each lineage (``mastlens organism build --recipe``), reads its increment, unlearns it at matched forgetting and
lets that come back; what is done is kept a part at a time, and the same command goes on where it stopped. Two of them,
of different recipes, may work in one folder. Base and SFT are of one seed (``--start-seed``) throughout. With ``--page
FILE`` what is there becomes a page. A row counts what is beyond its null; two recipes are compared by whether the
entries that they changed agree beyond chance.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

import mastlens
from benchmarks.recipes_edits import edits_of
from benchmarks.recipes_page import READINGS, page
from mastlens.errors import BadSetting, StageRefused
from mastlens.evaluation.settings import PRMChoice
from mastlens.organisms import get_organism
from mastlens.organisms.prm import organism_prm
from mastlens.organisms.recipes.qwen2 import Recipe
from mastlens.organisms.rlvr import RECIPES
from mastlens.runs.files import write_json, write_text
from mastlens.runs.reading import read_object

PARTS = ("rows", "edits", "pairs")
"""What is measured: each lineage, edits of it, and lineages against each other."""

ITEMS, MAPPED = 150, 60
"""Problems a split, of responses and of the causal map."""

LEAST = 6
"""Saved steps, at the least, whose first half is asked what it tells of the rest."""


@dataclass(frozen=True)
class Work:
    """What is compared, and where it lies.

    Attributes:
        out: Folder of lineages.
        keep: Folder of what was measured of them.
        numbers: Of the lineages.
        start_seed: Of base and SFT.
        rank: Of the principal subspaces.
    """

    out: Path
    keep: Path
    numbers: Recipe
    start_seed: int = 0
    rank: int = 16

    def lineage(self, name: str, seed: int) -> Path:
        """Return the folder of a lineage, which is built if it is not there."""
        how, lineage = RECIPES.find(name), self.out / f"{name}-{seed}"
        if not lineage.is_dir():
            more: dict[str, Any] = {}
            if how.needs_match:
                more["match"] = self.out / f"grpo-{seed}"
            if how.scored_by == "prm":
                more["prm"] = PRMChoice(path=str(self._prm()))
            kept = {"trajectory": not how.adapters, "start_seed": self.start_seed}
            mastlens.build_organism("qwen2", lineage, recipe=name, seed=seed, numbers=self.numbers, **kept, **more)
        return lineage

    def _prm(self) -> Path:
        """Return a process reward model of the lineage's steps, which is trained if it is not there."""
        return self.out / "prm" if (self.out / "prm").is_dir() else organism_prm("qwen2", out=self.out / "prm")

    def keep_records(self, name: str, seed: int) -> None:
        """Copy what was written of a lineage beside its weights: card, README, training by step."""
        lineage, kept = (folder / f"{name}-{seed}" for folder in (self.out, self.keep / "lineages"))
        for file in ("card.json", "README.md", "training.parquet"):
            if (lineage / file).is_file() and not (kept / file).is_file():
                kept.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(lineage / file, kept / file)

    def kept(self, part: str, seed: int, names: Sequence[str], measure: Callable[..., Any]) -> Any:
        """Return one part of what is measured of lineages of a seed, measured now or earlier.

        Args:
            part: What it is called.
            seed: Of RLVR.
            names: Recipes.
            measure: Is called with the lineages' folders where it is not there.

        Raises:
            MastlensError: If it is of other numbers.
        """
        kept = self.keep / part / f"{'-and-'.join(names)}-{seed}.json"
        told: dict[str, Any] = {"numbers": asdict(self.numbers), "start_seed": self.start_seed}
        if not kept.is_file():
            found = measure(*(self.lineage(name, seed) for name in names))
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"recipes": list(names), "seed": seed, **told, "found": found})
        row = read_object(kept)
        for name, value in told.items():
            if row[name] != value:
                raise StageRefused(f"{kept} was measured with another {name}. Choose another --keep, or remove it.")
        return row["found"]


def compare(names: Sequence[str], seeds: Sequence[int], parts: Sequence[str], work: Work) -> dict[str, pd.DataFrame]:
    """Build and measure what is missing.

    Args:
        names: Recipes; one that matches an accuracy needs ``grpo`` among them, or its lineage in the folder.
        seeds: Of RLVR.
        parts: Of ``PARTS``.
        work: Of what, and where.

    Returns:
        A table a part: ``rows`` has a row a recipe and seed, ``edits`` one an edit of each, ``pairs`` one a pair.

    Raises:
        MastlensError: If a recipe has nothing to match, or what is in the folder is of other numbers.
    """
    matching = [name for name in names if RECIPES.find(name).needs_match]
    there = all((work.out / f"grpo-{seed}").is_dir() for seed in seeds)
    if matching and "grpo" not in names and not there:
        raise BadSetting(f"{matching[0]} matches the accuracy of grpo. Name grpo, too.")
    names = sorted(names, key=lambda one: one in matching)
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
    for seed in seeds:
        for name in names:
            said = {"recipe": name, "seed": seed}
            if "rows" in parts:
                found["rows"].append(said | work.kept("rows", seed, [name], partial(row_of, rank=work.rank)))
                work.keep_records(name, seed)
            if "edits" in parts:
                measure = partial(edits_of, out=work.out / "studies" / f"{name}-{seed}", rank=work.rank)
                found["edits"] += [said | one for one in work.kept("edits", seed, [name], measure)]
        if "pairs" in parts:
            for pair in combinations(names, 2):
                said = {"seed": seed, "one": pair[0], "other": pair[1]}
                found["pairs"].append(said | work.kept("pairs", seed, pair, agreement))
    return {part: pd.DataFrame(rows) for part, rows in found.items()}


def row_of(lineage: Path, rank: int) -> dict[str, Any]:
    """Return what is said of a lineage: accuracy, training, its increment beyond nulls, and what putting back does."""
    card = read_object(lineage / "card.json", "a card")
    row: dict[str, Any] = {"steps": card["stages"]["rlvr"]["steps"], "items": ITEMS, "mapped": MAPPED}
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
    asked = {"sft": stages["sft"], "rlvr": stages["rlvr"], **files, "limit": MAPPED, "progress": False}
    groups = mastlens.causal_map(**asked).groups
    back = groups[groups["direction"] == "restore"].set_index("group")
    for group in ("attention", "mlp"):
        for end in ("", "_low", "_high"):
            row[f"put_back_{group}{end}"] = float(back.loc[group, f"forget_effect{end}"])
    row |= {f"{side}_seen": accuracy for side, accuracy in _accuracy(lineage / "rlvr", files).items()}
    steps = len(list((lineage / "trajectory").glob("step_*")))
    return row | (_extrapolated(lineage, rank) if steps >= LEAST else {})


def _accuracy(model: Path, files: Mapping[str, Path]) -> dict[str, float]:
    """Return the share of right greedy responses, by split."""
    limit = get_organism("qwen2").decoding["max_new_tokens"]
    found = mastlens.evaluate(
        model=str(model), splits=files, limit=ITEMS, max_new_tokens=limit, solution_logprob=False, progress=False
    ).accuracy.set_index("split")
    return {split: float(found.loc[split, "accuracy"]) for split in files}


def _extrapolated(lineage: Path, rank: int) -> dict[str, Any]:
    """Return how far the first half of the run tells the rest, by a direction and a line for each tensor (RELEX)."""
    steps = sorted((lineage / "trajectory").iterdir(), key=lambda step: int(step.name.removeprefix("step_")))
    last = int(steps[-1].name.removeprefix("step_"))
    eval_files = {"forget": lineage / "forget-eval.jsonl"}
    with tempfile.TemporaryDirectory() as folder:
        found = mastlens.trajectory(
            [str(lineage / "sft"), str(lineage / "trajectory")],
            rank=rank,
            window=max(2, len(steps) // 2),
            extrapolate=last,
            out=Path(folder) / "out",
            progress=False,
        )
        accuracy = _accuracy(found.checkpoints[f"extrapolated-{last}"], eval_files)["forget"]
    table = found.table
    moved, judged = table["delta_norm"] ** 2, table["explained_variance_distinguishable"].fillna(False).astype(bool)

    def whole(error: str) -> float:
        return float(((table[error] ** 2 * moved).sum() / moved.sum()) ** 0.5)

    return {
        "relex_explained": float(table["explained_variance"].median()),
        "relex_beyond": int(judged.sum()),
        "relex_tensors": len(table),
        "relex_error": whole("last_error"),
        "relex_stay": whole("last_error_stay"),
        "relex_forget": accuracy,
        "relex_forget_stay": _accuracy(steps[len(steps) // 2 - 1], eval_files)["forget"],
    }


def agreement(one: Path, other: Path) -> dict[str, Any]:
    """Return in how many matrices the entries that two recipes changed agree beyond chance."""
    lineages = {lineage.name: str(lineage / "rlvr") for lineage in (one, other)}
    table = mastlens.mask_agreement(str(one / "sft"), lineages, progress=False).table
    return {
        "beyond": int(table["distinguishable"].fillna(False).astype(bool).sum()),
        "of": len(table),
        "jaccard": float(table["jaccard"].median()),
        "jaccard_null": float(table["jaccard_null"].median()),
    }


def main() -> None:
    """Build, measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="folder of lineages")
    parser.add_argument("--keep", type=Path, default=None, help="folder of what was measured; --out by default")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--start-seed", type=int, default=0, help="of base and SFT")
    parser.add_argument("--budget", type=float, default=0.5, help="of the lineage's own rollouts")
    parser.add_argument("--page", type=Path, default=None, help="write what is kept, of all recipes and seeds, here")
    asked = parser.parse_args()
    own = get_organism("qwen2").recipe
    counts = {name: int(getattr(own, name) * asked.budget) for name in ("grpo_forget", "grpo_retain")}
    least = {"train_forget": min(own.train_forget, counts["grpo_forget"])}
    least |= {"train_retain": min(own.train_retain, counts["grpo_retain"])}
    keep = asked.keep or asked.out
    compare(
        asked.recipes,
        asked.seeds,
        asked.parts,
        Work(asked.out, keep, replace(own, **counts, **least), asked.start_seed),
    )
    if asked.page is not None:
        write_text(asked.page, page(keep, f"python -m benchmarks.recipes RECIPE ... --budget {asked.budget:g}"))


if __name__ == "__main__":
    main()
