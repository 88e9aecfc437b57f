"""How often the nulls call a random increment distinguishable, and how often they find a planted effect.

    python -m benchmarks.calibration --out DIR                # the long table; go on where it stopped: the same again
    python -m benchmarks.calibration --out DIR --short        # what CI runs, two minutes at most
    python -m benchmarks.calibration --out DIR --table        # print the table of what DIR holds

Every cell is one way to store (float32, bfloat16, float16), kind of weight, kind of random increment and size of it in
units of the precision floor. An increment is drawn, added to the stored weight at the scale at which the *stored*
increment has that size, rounded, and measured as ``geometry`` measures it. Each cell writes one file of counts, so that
an interrupted run goes on; a cell's numbers follow from its name and the number of repeats alone.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from mastlens.analysis.increments.measures import Blocks, Options, measure_matrices
from mastlens.analysis.increments.precision import rounding_variance

STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = ("isotropic", "rows", "columns", "spiked", "smollm2")
INCREMENTS = ("gaussian", "signs", "sparse", "heavy", "rank-1", "rank-4", "rank-16", "block")
RATIOS = (0.07, 0.3, 1.3, 4.0, 20.0)
PLANTED = ("into", "out", "head", "mask")
NOMINAL = 0.001
STEP = 25
"""Increments of a cell at a time: a run that is cut short has as many of every cell, to within this."""
WIDTH, HEADS, RANK = 128, 8, 16
DIRECTIONS = ("stable_rank", "effective_rank", "energy_rank_99", "participation")
COORDINATES = ("off_principal_mask", "principal_overlap", "low_magnitude_overlap", "principal_not_low_overlap")
SMOLLM2 = "MASTLENS_SMOLLM2"
"""Environment variable: a folder with SmolLM2's weights as safetensors; without it that kind of weight is left out."""


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
        storage: Dtype that both checkpoints are stored in.
        weight: Kind of weight.
        increment: Kind of random increment, or of planted effect.
        ratio: Norm of the stored increment over the precision floor.
    """

    storage: str
    weight: str
    increment: str
    ratio: float

    @property
    def name(self) -> str:
        """A file's name."""
        return f"{self.storage}-{self.weight}-{self.increment}-{self.ratio:g}"

    def generator(self, repeat: int) -> torch.Generator:
        """Return the generator of one repeat: the same whatever else was run."""
        digest = hashlib.sha256(f"{self.name}/{repeat}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def cells() -> Iterator[Cell]:
    """Yield every cell of the table of false positives; those of SmolLM2's weights where these are there."""
    for ratio, storage, weight, increment in product(RATIOS, STORAGE, WEIGHTS, INCREMENTS):
        if weight != "smollm2" or os.environ.get(SMOLLM2):
            yield Cell(storage, weight, increment, ratio)


def holds(column: str, increment: str) -> bool:
    """Return whether the null hypothesis of a column is true of a random increment of this kind.

    How many directions an increment has is not chance where it has few of them, or where one head has them all; where
    it lies in coordinates and heads is not chance where it was put into one head. All else is about where an increment
    lies, and is chance in every cell.
    """
    if column in DIRECTIONS:
        return not increment.startswith(("rank", "block"))
    return not (increment == "block" and column in (*COORDINATES, "head/energy_share"))


def weight(kind: str, rows: int, cols: int, generator: torch.Generator) -> Tensor:
    """Draw a float32 weight."""
    if kind == "smollm2":
        matrices = _smollm2()
        whole = matrices[int(torch.randint(len(matrices), (1,), generator=generator))]
        top, left = (int(torch.randint(size - part + 1, (1,), generator=generator)) // 16 * 16
                     for size, part in zip(whole.shape, (rows, cols), strict=True))  # fmt: skip
        return whole[top : top + rows, left : left + cols].clone()
    w = torch.randn(rows, cols, generator=generator)
    if kind == "rows":
        w *= torch.exp(0.5 * torch.randn(rows, 1, generator=generator))
    elif kind == "columns":
        w *= torch.exp(0.5 * torch.randn(1, cols, generator=generator))
    elif kind == "spiked":
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        w = (u * (s * (1 + 8 * torch.arange(1, len(s) + 1) ** -0.7))) @ vh
    return 0.02 * w / w.square().mean().sqrt()


@lru_cache
def _smollm2() -> list[Tensor]:
    from safetensors import safe_open

    found = []
    for file in sorted(Path(os.environ[SMOLLM2]).glob("*.safetensors")):
        with safe_open(file, framework="pt") as stream:
            names = [name for name in stream.offset_keys() if "self_attn" in name and name.endswith("weight")]
            found += [stream.get_tensor(name).float() for name in names[::4]]
    return found


def increment(kind: str, rows: int, cols: int, generator: torch.Generator) -> Tensor:
    """Draw a random float32 increment of any size."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if kind == "signs":
        return normal(rows, cols).sign()
    if kind == "sparse":
        return normal(rows, cols) * (torch.rand(rows, cols, generator=generator) < 0.01)
    if kind == "heavy":
        return normal(rows, cols) * torch.exp(1.5 * normal(rows, cols))
    if kind.startswith("rank"):
        rank = int(kind.split("-")[1])
        return normal(rows, rank) @ normal(rank, cols)
    drawn = normal(rows, cols)
    if kind == "block":
        size = rows // HEADS
        head = int(torch.randint(HEADS, (1,), generator=generator))
        drawn[: head * size] = 0
        drawn[(head + 1) * size :] = 0
    return drawn


def planted(kind: str, before: Tensor, drawn: Tensor) -> Tensor:
    """Return a random increment with an effect in it: see ``PLANTED`` and docs/results/calibration.md."""
    u, _, vh = torch.linalg.svd(before.float(), full_matrices=False)
    u, v = u[:, :RANK], vh[:RANK].T
    if kind == "into":  # a tenth of the energy is moved into the principal subspaces
        core = u @ (u.T @ drawn @ v) @ v.T
        rest = drawn - core
        return 0.9**0.5 * rest / rest.norm() + 0.1**0.5 * core / core.norm()
    if kind == "out":  # what lies on the principal output directions, a tenth at the most, is taken out
        return drawn - u @ (u.T @ drawn)
    if kind == "head":  # one head of eight has a quarter of the energy
        size = len(drawn) // HEADS
        energy = drawn.square().sum()
        block = drawn[:size]
        factor = 0.25 * (energy - block.square().sum()) / (0.75 * block.square().sum())
        return torch.cat([block * factor.sqrt(), drawn[size:]])
    assert kind == "mask"  # entries of the principal mask change one and a half times as often as chance has it
    from mastlens.analysis.increments.masks import PRINCIPAL_RANK, principal_mask

    w_u, w_s, w_vh = torch.linalg.svd(before.double(), full_matrices=False)
    inside = principal_mask(w_u[:, :PRINCIPAL_RANK], w_s, w_vh[:PRINCIPAL_RANK].T)
    change = torch.where(inside, 0.75, 0.25)
    return drawn * (torch.rand(drawn.shape, generator=torch.Generator().manual_seed(0)) < change)


def stored(before: Tensor, drawn: Tensor, ratio: float) -> Tensor:
    """Return the matrix after the increment, rounded, at the scale at which the stored increment has this size."""
    wide, floor = before.float(), (2 * rounding_variance(before)) ** 0.5
    unit = drawn * (floor / drawn.norm())
    low, high = -30.0, 12.0
    for _ in range(30):
        middle = (low + high) / 2
        after = (wide + 2.0**middle * unit).to(before.dtype)
        low, high = (middle, high) if float((after.float() - wide).norm()) < ratio * floor else (low, middle)
    return (wide + 2.0**high * unit).to(before.dtype)


def measure(cell: Cell, repeat: int, width: int = WIDTH) -> dict[str, tuple[int, int]]:
    """Return, for every column that says so, how many readings are called distinguishable, and of how many."""
    generator = cell.generator(repeat)
    before = weight(cell.weight, width, width, generator).to(STORAGE[cell.storage])
    plant = cell.increment if cell.increment in PLANTED else None
    drawn = increment("gaussian" if plant else cell.increment, width, width, generator)
    after = stored(before, planted(plant, before, drawn) if plant else drawn, cell.ratio)
    full = plant in (None, "out")
    options = Options(rank=str(RANK), full=full, masks=plant in (None, "mask"), spectra=plant is None, heads=True)
    found = measure_matrices(before, after, options, blocks=Blocks(HEADS, "rows"), label=f"{cell.name}/{repeat}")
    told: dict[str, tuple[int, int]] = {}
    for prefix, part in (("", "rows"), ("head/", "heads")):
        for column in (column for column in found[part][0] if column.endswith("_distinguishable")):
            flags = [bool(row[column]) for row in found[part]]
            told[prefix + column.removesuffix("_distinguishable")] = sum(flags), len(flags)
    if plant == "head":  # found where it was put
        told = {"head/energy_share": (int(found["heads"][0]["energy_share_distinguishable"]), 1)}
    return told


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


def rejected(table: pd.DataFrame, bound: float = 0.002) -> pd.DataFrame:
    """Return the cells that reject 'the rate is at most ``bound``' at 5 % divided by their number (binomial).

    The heads of one increment are not independent: of rank 1 they all give one number. So they are counted both ways,
    each on its own and all of an increment as one (flags over heads, rounded up, of increments), and both must reject.
    """
    random = table[~table["increment"].isin(PLANTED) & table["holds"]].copy()
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
    parser.add_argument("--part", default="0/1", metavar="I/N", help="the I-th of N parts, for several processes")
    parser.add_argument("--short", action="store_true", help="a few cells, 2 minutes at most")
    parser.add_argument("--table", action="store_true", help="print what DIR holds, and measure nothing")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if not chosen.table:
        part, parts = map(int, chosen.part.split("/"))
        planned = [cell for index, cell in enumerate(plan(chosen)) if index % parts == part]
        for round_ in range(STEP, max(repeats for _, repeats, _ in planned) + STEP, STEP):
            for cell, repeats, width in planned:
                run(cell, min(repeats, round_), chosen.out, width)
    table = read(chosen.out)
    with pd.option_context("display.max_rows", None, "display.width", 160):
        print(pooled(table).to_string(index=False))
        print(f"\ncells that reject a rate of at most 0.2 %: {len(rejected(table))}")
        print(
            rejected(table)[["storage", "weight", "increment", "ratio", "column", "hits", "n"]].to_string(index=False)
        )
        power = table[table["increment"].isin(PLANTED)]
        if len(power):
            print(power[["storage", "increment", "ratio", "column", "hits", "n"]].to_string(index=False))


def plan(chosen: argparse.Namespace) -> Iterator[tuple[Cell, int, int]]:
    """Yield cells with their repeats and widths, those above the floor first."""
    if chosen.short:
        for storage, kind in product(("float32", "bfloat16"), ("gaussian", "rank-4")):
            yield Cell(storage, "rows", kind, 1.3), 20, WIDTH
        yield Cell("bfloat16", "rows", "gaussian", 0.07), 5, WIDTH
        yield Cell("bfloat16", "isotropic", "into", 4.0), 5, 2 * WIDTH
        return
    above = [cell for cell in cells() if cell.ratio >= 1]
    for cell in sorted(above, key=lambda cell: hashlib.sha256(cell.name.encode()).hexdigest()):
        yield cell, chosen.repeats, WIDTH
    for storage, effect, ratio in product(("float32", "bfloat16"), PLANTED, (4.0, 20.0)):
        yield Cell(storage, "isotropic", effect, ratio), chosen.plants, 2 * WIDTH
    for cell in cells():
        if cell.ratio < 1:
            yield cell, chosen.below, WIDTH


if __name__ == "__main__":
    main()
