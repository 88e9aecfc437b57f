"""The calibration of the nulls as a page, from the files of counts: ``benchmarks.calibration --page FILE``."""

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.calibration_draws import NOMINAL, PLANTED, TABLE
from benchmarks.calibration_inside import LOOSE
from benchmarks.calibration_page_inside import HEAD, NOTES, SOUGHT

MOST, BOUND, DRAWS, FOUND = 2 * NOMINAL, 4 * NOMINAL, 5000, 0.95
"""What is asked for: rate and upper bound at most, draws at least, and the share of planted effects found."""
_HEADINGS = {
    "coupling": "Coupling",
    "table": "Tables of couplings",
    "agreement": "Agreement of masks",
    "path": "Runs of steps",
}

_HEAD = """# Calibration of the nulls

How often a random increment is called distinguishable, where p < 0.001 is asked for, and how often a planted effect is
found. Weights of 128 x 128, eight heads, k = 16; storage float32, bfloat16, float16; weights isotropic, with uneven
rows, with uneven columns, with a spiked spectrum, and blocks of SmolLM2-135M-Instruct's attention; increments
Gaussian, of signs alone, 1 % sparse, heavy-tailed, of rank 1, 4, 16, and in one head; norm of the *stored* increment
1.3, 4 and 20 times the precision floor, and below it 0.07 and 0.3 times. A column counts where its null hypothesis
holds: how many directions an increment has is no chance in one of few directions or of one head, nor is a head's
share, or where the changed entries lie, in one of one head.

<!-- not run: hours -->

```sh
export MASTLENS_SMOLLM2=FOLDER                                # of `mastlens organism fetch smollm2 --out`
python -m benchmarks.calibration --out DIR                    # goes on where it stopped
python -m benchmarks.calibration --out DIR --family coupling  # table, agreement, path: the others
python -m benchmarks.calibration --out DIR --page docs/results/calibration.md
python -m benchmarks.calibration --out DIR --short            # what the tests run, 20 s of a core
```

[Coupling, paths, agreement](calibration-others.md) have a page of their own. This page is
written by the last but one of these commands from the counts alone.
"""

_OTHERS = """# Calibration of coupling, runs of steps, several runs

How often chance is called a finding by what `couple`, `trajectory` and `mask-agreement` report, on the weights,
increments and storages of [the calibration of geometry](calibration.md). A gradient that knows nothing of the increment
is of few directions, and large in some columns, as a trained network's is: its cosine with the increment, and how it
lies along the increment's own directions, p < 0.001. A table is 16 tensors, with a cosine and 9 pieces of the spectrum
each; it counts where any row is `above_chance`. Two runs that know nothing of each other: the agreement of their update
masks, p < 0.001; beside it runs that share a third of their changes, of which the masks' view, bfloat16, sees nothing
where the weights are float32 and the increment a few times their floor. A path is 20 saved steps of AdamW on noise
(independent entries, gradients of rank 1 and 4, a learning rate that rises and falls; 40, 100 and 400 steps).

<!-- not run: an hour and a half -->

```sh
export MASTLENS_SMOLLM2=FOLDER                                # of `mastlens organism fetch smollm2 --out`
python -m benchmarks.calibration --out DIR --family coupling  # table, agreement, path: the others
python -m benchmarks.calibration --out DIR --page docs/results/calibration-others.md
python -m benchmarks.calibration --out DIR --short            # what the tests run, 20 s of a core
```

This page is written by the last but one of these commands from the counts alone.
"""

_NOTES = """
A cell is judged twice: the heads of an increment each on their own, and all of an increment as one draw, because eight
heads of a rank-1 increment give one number; it rejects where both do. `principal_overlap` compares in bfloat16 and sees
no float32 increment of the size of a planted mask.
"""


def _range(counts: pd.Series) -> str:
    """Return the least and the largest of some counts, or the one that all are."""
    least, most = counts.min(), counts.max()
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def page(table: pd.DataFrame, pooled: pd.DataFrame, rejected: pd.DataFrame) -> str:
    """Return the page.

    Args:
        table: As ``calibration.read`` gives it.
        pooled: False positives by column, storage and ratio.
        rejected: The cells that reject the bound.
    """
    families = set(table["family"])
    if families == {"inside"}:
        return HEAD + _inside(table, rejected) + _power(table) + NOTES
    text = _HEAD if "geometry" in families else _OTHERS
    for family in ("geometry", *_HEADINGS):
        part = table[table["family"] == family]
        if len(part):
            text += _geometry(part, pooled, rejected) if family == "geometry" else _other(part, family, rejected)
    return text


def _geometry(table: pd.DataFrame, pooled: pd.DataFrame, rejected: pd.DataFrame) -> str:
    random = table[~table["increment"].isin(PLANTED)]
    above, below = random[random["ratio"] >= 1], random[random["ratio"] < 1]
    cells = above.drop_duplicates(["storage", "weight", "increment", "ratio"])
    drawn = cells.groupby(["storage", "ratio"])["repeats"].sum()
    text = (
        f"\n## What was run\n\n{len(cells)} cells above the floor with {_range(cells['repeats'])} increments each, "
        f"{cells['repeats'].sum():,} in all: {_range(drawn)} for each storage and size, where {DRAWS:,} are asked "
        "for.\n"
    )
    by = pooled[pooled["column"].isin(set(above["column"])) & (pooled["ratio"] >= 1)]
    rows = []
    for column, part in by.groupby("column"):
        hits, n, worst = int(part["hits"].sum()), int(part["n"].sum()), part.loc[part["upper"].idxmax()]
        where = f"{worst['storage']}, {worst['ratio']:g}: {worst['hits']:.0f} of {worst['n']:,.0f}"
        met = bool((part["rate"] <= MOST).all() and (part["upper"] <= BOUND).all())
        rows.append(
            {
                "column": f"`{column}`",
                "false": f"{hits:,}",
                "of": f"{n:,}",
                "rate": _percent(hits / n),
                "95 % upper bound": _percent(_upper(hits, n)),
                "largest bound of storage and size": f"{_percent(worst['upper'])} ({where})",
                "fewest": f"{int(part['n'].min()):,}",
                "all within": "yes" if met else "no",
            }
        )
    text += (
        "\n## False positives, by column\n\nPooled over weights and increments. *All within*: for every storage and "
        f"size the rate is at most {MOST:.1%} and its upper 95 % bound at most {BOUND:.1%}; *fewest* is the smallest "
        "number of readings of a storage and size.\n\n" + _markdown(pd.DataFrame(rows))
    )
    text += "\n## By storage and size, kind of weight, kind of increment\n"
    held = above[above["holds"]]
    for keys in (["storage", "ratio"], ["weight"], ["increment"]):
        text += "\n" + _counts(held, keys)
    here = rejected[rejected["family"] == "geometry"]
    text += f"\n{_rejecting(here, 'at most 0.2 %')}{_NOTES}"
    flags = int(below["hits"].sum())
    text += f"\nBelow the floor {flags} of {int(below['n'].sum()):,} readings are called distinguishable.\n" * bool(
        len(below)
    )
    return text + _power(table)


def _other(table: pd.DataFrame, family: str, rejected: pd.DataFrame) -> str:
    random = table[~table["increment"].isin(PLANTED) & table["holds"]]
    text = f"\n## {_HEADINGS[family]}\n\n"
    if family == "table":
        text += f"A table counts where any of its rows is above chance: nominally {TABLE:.0%}.\n\n"
    text += _counts(random[random["ratio"] >= 1], ["column"])
    below = random[random["ratio"] < 1]
    if len(below):
        text += f"\nBelow the floor: {int(below['hits'].sum())} of {int(below['n'].sum()):,}.\n"
    bound = f"at most {TABLE + 0.01:.0%}" if family == "table" else "at most 0.2 %"
    return text + f"\n{_rejecting(rejected[rejected['family'] == family], bound)}" + _power(table)


def _inside(table: pd.DataFrame, rejected: pd.DataFrame) -> str:
    random = table[~table["increment"].isin(PLANTED)]
    cells = random.drop_duplicates(["storage", "increment", "ratio"])
    text = f"\n## What was run\n\n{len(cells)} cells with {_range(cells['repeats'])} lineages each, "
    text += f"{cells['repeats'].sum():,} in all; {cells['seconds'].sum() / 60:.0f} minutes of a core.\n"
    tables, loose = (random["column"].str.startswith(start) for start in ("table/", LOOSE))
    rows, firsts = random[~tables & ~loose], ["storage", "increment", "ratio"]
    text += f"\n## Rows\n\nCalled distinguishable: p < {NOMINAL}.\n\n{_counts(rows, ['column'])}"
    text += f"\n## Tables\n\nTables with a row that is called so.\n\n{_counts(random[tables], ['column'])}"
    text += f"\n## Rows at 5%\n\n{_counts(random[loose], ['column'])}"
    text += "\n## By storage, increment and size\n"
    for key in firsts:
        text += f"\n{_counts(rows, [key])}"
    return f"{text}\n{_rejecting(rejected, 'at most 0.2 %; of tables and at 5 %, 6 %')}"


def _rejecting(cells: pd.DataFrame, bound: str) -> str:
    """Return the cells that reject a bound."""
    if cells.empty:
        return f'No cell rejects "{bound}" at 5 % divided by the number of cells.\n'
    shown = cells[["storage", "weight", "increment", "ratio", "column", "hits", "n"]]
    return f'{len(cells)} cells reject "{bound}" at 5 % divided by the number of cells:\n\n{_markdown(shown)}'


def _power(table: pd.DataFrame) -> str:
    """Return how often planted effects are found, each in the columns that are to find it."""
    planted = table[table["increment"].isin(PLANTED)]
    if planted.empty:
        return ""
    rows = [
        {"planted": r["increment"], "storage": r["storage"], "ratio": f"{r['ratio']:g}", "column": f"`{r['column']}`"}
        | {"found": int(r["hits"]), "of": int(r["n"]), "share": _percent(r["hits"] / r["n"], 0)}
        for r in planted.to_dict("records")
        if r["column"] in _SOUGHT.get(r["increment"], (r["column"],))
    ]
    width = int(planted["width"].max())
    return f"\n### Planted effects\n\n{FOUND:.0%} are to be found, {width} wide.\n\n{_markdown(pd.DataFrame(rows))}"


_SOUGHT: dict[str, tuple[str, ...]] = {
    **SOUGHT,
    "into": ("off_principal",),
    "out": ("off_principal_left",),
    "head": ("head/energy_share",),
    "mask": ("off_principal_mask", "principal_overlap"),
}
"""Which columns are to find what was planted."""


def _counts(table: pd.DataFrame, keys: list[str]) -> str:
    found = table.groupby(keys)[["hits", "n"]].sum().reset_index()
    shown = found[keys].astype(str)
    if "column" in keys:
        shown["column"] = [f"`{column}`" for column in found["column"]]
    shown["false"] = [f"{hits:,}" for hits in found["hits"]]
    shown["of"] = [f"{n:,}" for n in found["n"]]
    shown["rate"] = [_percent(h / n) for h, n in zip(found["hits"], found["n"], strict=True)]
    shown["95 % upper bound"] = [_percent(_upper(h, n)) for h, n in zip(found["hits"], found["n"], strict=True)]
    return _markdown(shown)


def _upper(hits: int, n: int) -> float:
    """Return Clopper and Pearson's one-sided 95 % bound."""
    return float(stats.beta.ppf(0.95, hits + 1, n - hits)) if hits < n else 1.0


def _percent(share: float, digits: int = 3) -> str:
    return "" if np.isnan(share) else f"{100 * share:.{digits}f} %"


def _markdown(table: pd.DataFrame) -> str:
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
