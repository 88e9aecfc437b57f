"""How often the nulls call chance a finding, and how often they find a planted effect.

    python -m benchmarks.calibration --out DIR                    # the long table; again: go on where it stopped
    python -m benchmarks.calibration --out DIR --family coupling  # other nulls: coupling, table, agreement, path
    python -m benchmarks.calibration --out DIR --family inside    # the commands of `mastlens inside`, whole
    python -m benchmarks.calibration --out DIR --short            # what the tests run, in a minute
    python -m benchmarks.calibration --out DIR --table            # print the table of what DIR holds
    python -m benchmarks.calibration --out DIR --page FILE        # write it as docs/results/calibration.md

Every cell is one way to store (float32, bfloat16, float16), kind of weight, kind of random increment and size of it in
units of the precision floor. An increment is drawn, added to the stored weight at the scale at which the *stored*
increment has that size, rounded, and measured: as ``geometry`` does it, as ``couple`` does beside a gradient that
knows nothing of it (one by one, and as whole tables), as ``mask-agreement`` beside another one; and paths of AdamW on
noise as ``trajectory`` does. Of ``inside`` it is put into a tiny model, and its commands are run. Each cell writes one
file of counts, so that an interrupted run goes on; a cell's numbers follow from its name and the number of repeats
alone.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from threadpoolctl import threadpool_limits

from benchmarks.calibration_draws import (
    COORDINATES,
    DIRECTIONS,
    INCREMENTS,
    NOMINAL,
    PLANTED,
    RATIOS,
    SMOLLM2,
    STORAGE,
    TABLE,
    WEIGHTS,
    WIDTH,
    Cell,
)
from benchmarks.calibration_inside import LOOSE, STATES
from benchmarks.calibration_lineages import AS_WIDE, TAUGHT
from benchmarks.calibration_measures import FAMILIES, measure
from benchmarks.calibration_page import page

STEP = 25
"""Draws of a cell at a time: a run that is cut short has as many of every cell, to within this."""
PLANTS = {"geometry": ("into", "out", "head", "mask"), "coupling": ("aligned",), "agreement": ("shared",)}
TABLES, NARROW = ("gaussian", "heavy", "sparse", "rank-4"), 24
SHORT = (
    *(
        (Cell(storage, "rows", kind, 1.3), 8, WIDTH)
        for storage, kind in product(("float32", "bfloat16"), ("gaussian", "rank-4"))
    ),
    (Cell("bfloat16", "rows", "gaussian", 0.07), 3, WIDTH),
    (Cell("bfloat16", "isotropic", "into", 4.0), 3, 2 * WIDTH),
    *((Cell("bfloat16", "rows", kind, 1.3, "coupling"), 40, WIDTH) for kind in ("gaussian", "rank-4", "heavy")),
    (Cell("bfloat16", "rows", "gaussian", 0.07, "coupling"), 3, WIDTH),
    (Cell("bfloat16", "isotropic", "aligned", 4.0, "coupling"), 10, 2 * WIDTH),
    (Cell("float32", "rows", "rank-4", 4.0, "table"), 3, WIDTH),
    *((Cell("bfloat16", "rows", kind, 1.3, "agreement"), 20, WIDTH) for kind in ("gaussian", "rank-1")),
    (Cell("bfloat16", "isotropic", "shared", 4.0, "agreement"), 5, 2 * WIDTH),
    (Cell("float32", "zero", "rank-1", 40.0, "path"), 15, NARROW),
    (Cell("float32", "zero", "trend", 40.0, "path"), 5, NARROW),
    (Cell("bfloat16", "rows", "gaussian", 1.3, "inside"), 1, STATES),
)
"""What the tests run: cells with their number of draws and width; those of ``inside`` where that is asked for."""
INSIDE = tuple(product(("float32", "bfloat16", AS_WIDE), ("gaussian", "heavy", "rank-1"), (1.3, 20.0)))
PATHS = tuple(product(("iid", "rank-1", "rank-4", "decay"), (40.0, 100.0, 400.0)))


def cells(family: str = "geometry") -> Iterator[Cell]:
    """Yield every cell of the table of false positives; those of SmolLM2's weights where these are there."""
    if family == "path":
        yield from (Cell("float32", "zero", kind, steps, family) for kind, steps in PATHS)
        return
    if family == "inside":
        yield from (Cell(storage, "rows", kind, ratio, family) for storage, kind, ratio in INSIDE)
        return
    for ratio, storage, weight, increment in product(RATIOS, STORAGE, WEIGHTS, INCREMENTS):
        if weight != "smollm2" or os.environ.get(SMOLLM2):
            yield Cell(storage, weight, increment, ratio, family)


def holds(column: str, increment: str) -> bool:
    """Return whether the null hypothesis of a column is true of a random increment of this kind.

    How many directions an increment has is not chance where it has few of them, or where one head has them all; where
    it lies in coordinates and heads is not chance where it was put into one head, nor whether two runs change the same
    entries. All else is about where an increment lies, and is chance in every cell.
    """
    if column in DIRECTIONS:
        return not increment.startswith(("rank", "block"))
    return not (increment == "block" and column in (*COORDINATES, "head/energy_share", "agreement/jaccard"))


def run(cell: Cell, repeats: int, out: Path, width: int = WIDTH) -> None:
    """Measure a cell up to so many repeats, going on from those that its file holds."""
    file = out / f"{cell.name}-{width}.json"
    record: dict[str, Any] = {**asdict(cell), "width": width, "repeats": 0, "seconds": 0.0, "counts": {}}
    if file.is_file():
        record = json.loads(file.read_text())
    if record["repeats"] >= repeats:
        return
    start = time.process_time()
    for repeat in range(record["repeats"], repeats):
        for column, (hits, of) in measure(cell, repeat, width).items():
            old = record["counts"].get(column, (0, 0))
            record["counts"][column] = (old[0] + hits, old[1] + of)
    record |= {"repeats": repeats, "seconds": record["seconds"] + time.process_time() - start}
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(record))
    temporary.replace(file)


def read(out: Path) -> pd.DataFrame:
    """Return one row a cell and column: ``hits`` of ``n``, and whether the null hypothesis ``holds`` there."""
    rows = []
    for file in sorted(out.glob("*.json")):
        record = json.loads(file.read_text())
        for column, (hits, n) in record.pop("counts").items():
            rows.append({**record, "column": column, "hits": hits, "n": n, "holds": holds(column, record["increment"])})
    return pd.DataFrame(rows)


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Return false positives by column, storage and ratio, over weights and increments, with a 95 % upper bound."""
    random = table[~table["increment"].isin(PLANTED) & table["holds"]]
    groups = random.groupby(["column", "storage", "ratio"], sort=False)[["hits", "n"]].sum().reset_index()
    groups["rate"] = groups["hits"] / groups["n"]
    # Clopper and Pearson's one-sided bound.
    groups["upper"] = stats.beta.ppf(0.95, groups["hits"] + 1, groups["n"] - groups["hits"])
    return groups


def rejected(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that reject 'the rate is at most the bound' at 5 % divided by their number (binomial).

    The bound is 0.2 %, twice what is nominal; of tables, and where p < 0.05 is counted, 6 %. The heads of one
    increment are not independent: of rank 1 they all give one number. So they are counted both ways, each on its own
    and all of an increment as one (flags over heads, rounded up, of increments), and both must reject. Of ``inside``,
    where a cell has few lineages, cells of one storage are counted together.
    """
    random = table[~table["increment"].isin(PLANTED) & table["holds"]].copy()
    inside = random["family"] == "inside"
    if inside.any():
        keys = ["family", "storage", "column"]
        together = random[inside].groupby(keys, sort=False)[["hits", "n", "repeats"]].sum().reset_index()
        named = {"weight": "rows", "increment": "all", "ratio": np.nan}
        random = pd.concat([random[~inside], together.assign(**named)], ignore_index=True)
    bound = np.where(random["column"].str.startswith(("table/", LOOSE)), TABLE + 0.01, 2 * NOMINAL)
    each = random["n"] / random["repeats"]
    ways = ((random["hits"], random["n"]), (np.ceil(random["hits"] / each), random["repeats"]))
    random["p"] = np.maximum(*(stats.binom.sf(hits - 1, n, bound) for hits, n in ways))
    return random[random["p"] < 0.05 / max(len(random), 1)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for one file a cell")
    parser.add_argument("--repeats", type=int, default=150, help="increments a cell above the floor (150)")
    parser.add_argument("--below", type=int, default=10, help="increments a cell below the floor (10)")
    parser.add_argument("--plants", type=int, default=100, help="increments a planted effect (100)")
    parser.add_argument("--family", choices=list(FAMILIES), default="geometry", help="what is measured (geometry)")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="the I-th of N parts, for several processes")
    parser.add_argument(
        "--short",
        action="store_true",
        help="a few cells of every family, a minute; of `inside` only with --family inside",
    )
    parser.add_argument("--table", action="store_true", help="print what DIR holds, and measure nothing")
    parser.add_argument("--page", type=Path, help="write what DIR holds as a page, and measure nothing")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    threadpool_limits(limits=1)  # else small decompositions wait for one another more than they compute
    chosen.out.mkdir(parents=True, exist_ok=True)
    if not chosen.table and chosen.page is None:
        part, parts = map(int, chosen.part.split("/"))
        planned = [cell for index, cell in enumerate(plan(chosen)) if index % parts == part]
        for round_ in range(STEP, max(repeats for _, repeats, _ in planned) + STEP, STEP):
            for cell, repeats, width in planned:
                run(cell, min(repeats, round_), chosen.out, width)
    table = read(chosen.out)
    if chosen.page is not None:
        chosen.page.write_text(page(table, pooled(table), rejected(table)))
        return
    with pd.option_context("display.max_rows", None, "display.width", 160):
        print(pooled(table).to_string(index=False))
        print(f"\ncells that reject a rate of at most 0.2 %, of tables 6 %: {len(rejected(table))}")
        print(
            rejected(table)[["storage", "weight", "increment", "ratio", "column", "hits", "n"]].to_string(index=False)
        )
        power = table[table["increment"].isin(PLANTED)]
        if len(power):
            print(power[["storage", "increment", "ratio", "column", "hits", "n"]].to_string(index=False))


def plan(chosen: argparse.Namespace) -> Iterator[tuple[Cell, int, int]]:
    """Yield cells with their repeats and widths, those above the floor first."""
    family, width = chosen.family, {"path": NARROW, "inside": STATES}.get(chosen.family, WIDTH)
    if chosen.short:
        yield from (one for one in SHORT if (one[0].family == "inside") == (family == "inside"))
        return
    above = [cell for cell in cells(family) if cell.ratio >= 1]
    if family == "table":  # a table is many tensors: a few cells, each often
        above = [cell for cell in above if (cell.weight, cell.ratio) == ("rows", 4.0) and cell.increment in TABLES]
    for cell in sorted(above, key=lambda cell: hashlib.sha256(cell.name.encode()).hexdigest()):
        yield cell, chosen.repeats, width
    if family == "path":
        yield from ((Cell("float32", "zero", "trend", steps, family), chosen.plants, width) for steps in (40.0, 100.0))
        return
    if family == "inside":
        for storage in ("float32", "bfloat16"):
            yield from ((Cell(storage, "rows", TAUGHT, ratio, family), chosen.plants, width) for ratio in (1.3, 20.0))
        return
    for storage, effect, ratio in product(("float32", "bfloat16"), PLANTS.get(family, ()), (4.0, 20.0)):
        yield Cell(storage, "isotropic", effect, ratio, family), chosen.plants, 2 * WIDTH
    for cell in cells(family):
        if cell.ratio < 1 and family != "table":
            yield cell, chosen.below, width


if __name__ == "__main__":
    main()
