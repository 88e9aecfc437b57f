"""Do the rules find where RLVR put it? Scores of all weight matrices against lineages of which the place is known.

    python -m benchmarks.planted --out build/planted --kinds scattered embeddings --seeds 0 1 2 --page PAGE.md

Every plant is built (``mastlens organism build planted-KIND``; minutes to an hour each, base, SFT and ``rlvr-retain``
shared by the plants of a seed), measured with ``--where .``, and every rule that ranks what was measured is held
against the plant: area under the ROC curve, average precision, precision at as many as were planted. Of single heads
and of one direction the tensors that hold them count. What was built and measured is not done again, and rows of
earlier runs stay in the table. With ``--own`` texts are what RLVR itself answers.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

import mastlens as m
from benchmarks.common import surroundings, version_line
from mastlens.analysis.scores import SCORERS
from mastlens.organisms import ORGANISMS, get_organism
from mastlens.organisms.kept_plants import keep_plant
from mastlens.organisms.planted import planted_truth
from mastlens.organisms.plants import PLANTS
from mastlens.runs.files import write_text
from mastlens.selection import RULES, Rule, select
from mastlens.selection.tables import SOURCES
from mastlens.statistics import mean_interval

ROWS = Path(__file__).parent / "results" / "planted.csv"
"""Rows of the plants that were held against the rules so far."""
ORDERS = 2000
"""Random orders, of which the range of chance is taken."""


def found(names: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """Return how well an order finds a set.

    Args:
        names: All candidates, best first.
        truth: Those that are looked for.
    """
    planted = np.isin(names, list(truth))
    score = -np.arange(len(names))
    return {
        "auc": float(roc_auc_score(planted, score)),
        "average_precision": float(average_precision_score(planted, score)),
        "precision": float(planted[: planted.sum()].mean()),
    }


def chance(count: int, planted: int, seed: int = 0) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of the area under the curve of random orders."""
    draw = np.random.default_rng(seed)
    places = np.stack([draw.choice(count, planted, replace=False) for _ in range(ORDERS)])
    # Mann and Whitney: of a planted one and another, the share of pairs in which the planted one stands first.
    areas = 1 - (places.sum(axis=1) - planted * (planted - 1) / 2) / (planted * (count - planted))
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)


def build(kind: str, seed: int, architecture: str, out: Path) -> Path:
    """Return the folder of a plant, built where it is not there."""
    name = f"planted-{kind}" if architecture == "qwen2" else f"planted-{architecture}-{kind}"
    folder = out / f"{name}-seed{seed}"
    if not (folder / "card.json").is_file():
        if name in ORGANISMS:
            m.build_organism(name, folder, seed=seed)
        else:
            organism = f"planted-{architecture}-scattered"
            recipe = replace(get_organism(organism).recipe, kind=kind)
            m.build_organism(organism, folder, seed=seed, recipe=recipe)
    return folder


def own_texts(lineage: Path, out: Path, limit: int) -> dict[str, Path]:
    """Write problems whose solutions are what RLVR itself answers, where that is right; return the files by side."""
    splits = {side: lineage / f"{side}-train.jsonl" for side in ("forget", "retain")}
    told = {"limit": 2 * limit, "max_new_tokens": 56, "solution_logprob": False}
    m.evaluate(model=lineage / "rlvr", splits=splits, own_texts=True, out=out / "answers", **told)
    return {side: out / "answers" / f"own-{side}.jsonl" for side in splits}


def measure(lineage: Path, out: Path, limit: int, scorers: Sequence[str], *, own: bool) -> dict[str, pd.DataFrame]:
    """Measure every weight matrix and return the tables that rules read, those of other runs of it among them."""
    stages = {stage: lineage / stage for stage in ("base", "sft", "rlvr")}
    pair = {stage: stages[stage] for stage in ("sft", "rlvr")}
    sides = {side: lineage / f"{side}-train.jsonl" for side in ("forget", "retain")}
    if own:
        sides = own_texts(lineage, out, limit)
    asked = {"where": ".", "out": out}
    m.geometry(**stages, **asked)
    m.couple(**pair, **sides, **asked, limit=limit, fisher=True, spectrum=False)
    m.causal_map(**pair, **sides, **asked, limit=limit, both_directions=False)
    for scorer in scorers:
        m.score(scorer, **pair, **sides, **asked, limit=limit)
    return {
        name: pd.read_parquet(out / source.file) for name, source in SOURCES.items() if (out / source.file).is_file()
    }


def rows_of(tables: Mapping[str, pd.DataFrame], truth: Sequence[str]) -> pd.DataFrame:
    """Return one row a rule: how well it finds the truth among all candidates of the tables."""
    stored = {name.partition("#")[0] for name in truth}
    rows = []
    for name, rule in RULES.items():
        if isinstance(rule, Rule) and set(rule.needs) <= set(tables):
            order = select(tables, rule=name, top=1).table.sort_values("rank")["name"].tolist()
            rows.append(
                {"rule": name, "candidates": len(order), "planted": len(stored), **found(order, sorted(stored))}
            )
    return pd.DataFrame(rows)


def page(table: pd.DataFrame, command: str) -> str:
    """Return the page: areas by rule, plant and texts, with intervals over seeds, beside what random orders give."""
    taken = table[table["taken"]]
    cells = list(taken.groupby(["kind", "texts"], sort=False).groups)
    lines = [
        "# Scores against planted truth",
        "",
        __doc__.partition("\n\n")[0],
        "",
        "<!-- not run: minutes to hours -->",
        "",
        "```sh",
        *command.splitlines(),
        "```",
        "",
        "Area under the ROC curve of all weight matrices, the planted ones against the others; mean over seeds, with",
        "two seeds or more its 95 % interval over them. Rules that read texts read the reference solutions, or what",
        "RLVR itself answers where that is right (`own`).",
        "",
        "| rule | " + " | ".join(f"{kind}, {texts}" for kind, texts in cells) + " |",
        "|---|" + "---|" * len(cells),
    ]  # fmt: skip
    areas = taken.groupby(["rule", "kind", "texts"])["auc"].apply(np.asarray)
    for rule in taken.groupby("rule")["auc"].mean().sort_values(ascending=False).index:
        told = []
        for cell in cells:
            values = areas.get((rule, *cell))
            interval = f" {_interval(values)}" if values is not None and len(values) > 1 else ""
            told.append("" if values is None else f"{values.mean():.3f}{interval}")
        lines.append(f"| `{rule}` | " + " | ".join(told) + " |")
    bounds = []
    for kind, texts in cells:
        first = taken[(taken["kind"] == kind) & (taken["texts"] == texts)].iloc[0]
        low, high = chance(int(first["candidates"]), int(first["planted"]))
        bounds.append(f"{low:.3f} to {high:.3f}")
    lines += ["| *random orders, 95 %* | " + " | ".join(bounds) + " |", ""]
    lines += ["| plant | seed | tensors | forget gain % | McNemar p | taken |", "|---|---|---:|---:|---:|---|"]
    for row in table.drop_duplicates(["kind", "seed"]).itertuples():
        said = "yes" if row.taken else "no"
        lines.append(
            f"| {row.kind} | {row.seed} | {row.planted} | {100 * row.gain:+.1f} | {row.mcnemar_p:.2g} | {said} |"
        )
    return "\n".join(lines) + "\n\n" + version_line(surroundings()) + "\n"


def _interval(values: np.ndarray) -> str:
    interval = mean_interval(values)
    return f"[{interval.low:.3f}, {interval.high:.3f}]"


def main() -> None:
    """Build, measure, compare; write table and page after each plant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=list(PLANTS), default=["scattered", "layer", "vo", "embeddings"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--architecture", choices=("qwen2", "llama"), default="qwen2")
    parser.add_argument("--limit", type=int, default=100, help="problems of each side")
    parser.add_argument("--own", action="store_true", help="read what RLVR itself answers, not the reference solutions")
    parser.add_argument("--scorers", nargs="*", choices=list(SCORERS), default=list(SCORERS), help="which are measured")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write what moved in plants that took, to be shipped")
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="CSV", help="rows of earlier runs, and of this one")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    texts = "own" if arguments.own else "reference"
    table = pd.read_csv(arguments.rows) if arguments.rows.is_file() else pd.DataFrame(columns=["kind", "seed", "texts"])
    for seed in arguments.seeds:
        for kind in arguments.kinds:
            lineage = build(kind, seed, arguments.architecture, arguments.out)
            kept = lineage.with_name(f"{lineage.name}-{texts}")
            tables = measure(lineage, kept, arguments.limit, arguments.scorers, own=arguments.own)
            plant = pd.read_json(lineage / "card.json", typ="series")["plant"]
            if arguments.keep is not None and plant["taken"]:
                keep_plant(lineage, arguments.keep)
            told = {key: plant[key] for key in ("gain", "mcnemar_p", "taken")}
            name = kind if arguments.architecture == "qwen2" else f"{arguments.architecture}-{kind}"
            rows = rows_of(tables, planted_truth(lineage)).assign(kind=name, seed=seed, texts=texts, **told)
            other = (table["kind"] != name) | (table["seed"] != seed) | (table["texts"] != texts)
            table = pd.concat([table[other], rows], ignore_index=True).astype({"taken": bool})
            table = table.sort_values(["kind", "texts", "seed"], ascending=[True, False, True], kind="stable")
            write_text(arguments.rows, table.to_csv(index=False, lineterminator="\n"))
            print(rows.to_string(), flush=True)
            if arguments.page is not None:
                write_text(arguments.page, page(table, _commands(table)))


def _commands(table: pd.DataFrame) -> str:
    """Return what makes the rows of a table."""
    lines = []
    for texts, rows in table.groupby("texts", sort=False):
        kinds, seeds = (" ".join(map(str, dict.fromkeys(rows[column]))) for column in ("kind", "seed"))
        own = " --own" if texts == "own" else ""
        scorers = " ".join(name for name in SCORERS if name in set(rows["rule"]))
        lines.append(f"python -m benchmarks.planted --out DIR --kinds {kinds} --seeds {seeds} --scorers {scorers}{own}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
