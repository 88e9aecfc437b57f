"""How often the product's intervals hold what they are of, where 95 % are said: ``python -m benchmarks.coverage``.

A cell is a kind of data, a number of items and, where there are some, of clusters. Single yes-or-no shares are summed
over every outcome, exactly; all else is drawn, each cell from a seed of its own: ``--only`` gives the same rows.
For single outcomes the table shows the coverage nearest to 95 % that a run of counts about the expected one can have at
all: what is discrete cannot have every level. ``--page`` writes ``docs/results/coverage.md`` from it.
"""

import argparse
import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from mastlens.statistics import (
    Interval,
    difference_interval,
    mean_interval,
    newcombe_paired,
    paired_counts,
    pass_at_k,
    permutation_p,
    ratio_interval,
    recovered_share,
    seed_interval,
    share_interval,
    wilson,
)

ITEMS, CLUSTERS = (30, 150, 1000), (3, 5, 10, 30)
LEAST, MOST = 0.935, 0.965
RUNS = 2000
_NEAR = 0.01


@dataclass(frozen=True)
class Cell:
    """One line of the table.

    Attributes:
        interval: What is printed, and where.
        data: What is drawn.
        items: How many.
        clusters: How many units they are of; 0 where each is one.
        draw: Returns an interval of one draw, and what it is of.
        discrete: Whether outcomes are counts.
        beyond: Whether no interval is expected to hold here; why stands in the text.
    """

    interval: str
    data: str
    items: int
    clusters: int
    draw: Callable[[np.random.Generator], tuple[Interval, float]]
    discrete: bool = False
    beyond: bool = False

    @property
    def name(self) -> str:
        """What decides its draws."""
        return f"{self.interval}/{self.data}/{self.items}/{self.clusters}"


def covered(cell: Cell, runs: int, *, refined: bool = True) -> float:
    """Return the share of intervals that hold what they are of; those without a bound are left out.

    Args:
        cell: What is drawn.
        runs: How often.
        refined: Near a limit, draw up to sixteen times as many.
    """
    rng, held = np.random.default_rng(zlib.crc32(cell.name.encode())), []
    for more, near in ((runs, _NEAR), (3 * runs, _NEAR / 2), (12 * runs, 0.0)):  # near a limit more are drawn
        found = [cell.draw(rng) for _ in range(more)]
        held += [i.low - 1e-12 <= truth <= i.high + 1e-12 for i, truth in found if i.low == i.low]
        share = float(np.mean(held))
        if not refined or cell.beyond or (abs(share - LEAST) > near and (cell.discrete or abs(share - MOST) > near)):
            break
    return share


def _of_cell(place: int, runs: int) -> float:
    return covered(list(cells())[place], runs)


def single(n: int, share: float) -> tuple[float, float]:
    """Return the exact coverage of ``wilson`` and the nearest to 95 % that counts about the expected one can have."""
    counts = np.arange(n + 1)
    weights = stats.binom.pmf(counts, n, share)
    ends = [wilson(int(k), n) for k in counts]
    held = float(weights @ [i.low <= share <= i.high for i in ends])
    below = np.concatenate([[0.0], np.cumsum(weights)])
    middle = round(n * share)
    spans = below[middle + 1 :, None] - below[None, : middle + 1]  # from any first count to any last one
    return held, float(spans.ravel()[np.abs(spans - 0.95).argmin()])


def cells() -> Iterator[Cell]:
    """Yield every cell that is drawn."""
    yield from _shares()
    yield from _differences()
    yield from _numbers()
    yield from _others()


def _rates(rng: np.random.Generator, mean: float, alike: float, size: int) -> np.ndarray:
    """Return shares of units: Beta, with this intraclass correlation."""
    if not alike:
        return np.full(size, mean)
    return rng.beta(mean * (1 / alike - 1), (1 - mean) * (1 / alike - 1), size)


def _sizes(n: int, clusters: int) -> np.ndarray:
    """Return the sizes of clusters, the largest twice the smallest; a row a cluster is what ``clusters=`` adds up."""
    parts = np.linspace(1, 2, clusters)
    return np.maximum(1, np.round(n * parts / parts.sum())).astype(int)


def _shares() -> Iterator[Cell]:
    samples = 4
    for n, share, alike in itertools.product(ITEMS, (0.05, 0.3, 0.5), (0.05, 0.3)):

        def repeated(rng: np.random.Generator, n=n, share=share, alike=alike) -> tuple[Interval, float]:
            right = rng.binomial(samples, _rates(rng, share, alike, n))
            return share_interval(right / samples, counts=np.full(n, samples)), share

        rare = share == 0.05 and n == 30 and alike == 0.3
        said = f"{share:.0%}, 4 samples an item, {alike} alike"
        yield Cell("share, several samples (evaluate, evaluate-traces, safety)", said, n, 0, repeated, True, rare)
    for n, groups, share, alike in itertools.product(ITEMS, CLUSTERS, (0.05, 0.3), (0.0, 0.05)):
        if groups == n and alike:
            continue

        def clustered(rng: np.random.Generator, n=n, g=groups, share=share, alike=alike) -> tuple[Interval, float]:
            sizes = _sizes(n, g)
            right = rng.binomial(sizes, _rates(rng, share, alike, g))
            return share_interval(right / sizes, counts=sizes), share

        said = f"{share:.0%}, {alike} alike in a cluster"
        yield Cell("share over clusters (evaluate-traces)", said, n, groups, clustered, True)
    for n, k in itertools.product(ITEMS, (1, 4)):
        estimates = np.array([pass_at_k(8, right, k) for right in range(9)])
        truth = 1 - 2 / (k + 2)  # of a rate with density 2 (1 - r): the mean of 1 - (1 - r)^k

        def passed(rng: np.random.Generator, n=n, values=estimates, truth=truth) -> tuple[Interval, float]:
            return share_interval(values[rng.binomial(8, rng.beta(1, 2, n))], counts=np.full(n, 8)), truth

        yield Cell("pass@k, avg@k (sampled_accuracy)", f"k = {k} of 8 samples", n, 0, passed)


_CHANGES = ((0.05, 0.0), (0.05, 0.02), (0.3, 0.02), (0.1, 0.1), (0.01, 0.0))


def _differences() -> Iterator[Cell]:
    for n, (lost, gained), before in itertools.product(ITEMS, _CHANGES, (0.6, 0.95)):
        if gained > 1 - before:
            continue

        def one(rng: np.random.Generator, n=n, lost=lost, gained=gained, p=before) -> tuple[np.ndarray, np.ndarray]:
            chances = [p - lost, lost, gained, max(1 - p - gained, 0.0)]
            counts = rng.multinomial(n, chances)
            return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)

        def paired(rng: np.random.Generator, one=one, t=gained - lost) -> tuple[Interval, float]:
            return difference_interval(*one(rng)), t

        def closed(rng: np.random.Generator, one=one, t=gained - lost) -> tuple[Interval, float]:
            return newcombe_paired(*paired_counts(*one(rng))), t

        said = f"{before:.0%} right, {lost:.0%} lost, {gained:.0%} gained"
        yield Cell("difference (compare, studies, compare-edits, collateral)", said, n, 0, paired, True)
        beyond = (n, lost, gained) == (1000, 0.01, 0.0)
        yield Cell("Newcombe's, beside it (compare)", said, n, 0, closed, True, beyond)
    for n, (lost, alike) in itertools.product(ITEMS, itertools.product((0.05, 0.2), (0.1, 0.4))):

        def several(rng: np.random.Generator, n=n, lost=lost, alike=alike) -> tuple[Interval, float]:
            rate, shares = _rates(rng, 0.6, alike, n), []
            for factor in (1.0, 1 - lost):
                shares.append(rng.binomial(4, rate * factor) / 4)
            return difference_interval(*shares, counts=np.full(n, 4)), -0.6 * lost

        yield Cell("difference, several samples (compare)", f"{lost:.0%} lost, {alike} alike", n, 0, several, True)
    for n, groups, (lost, gained), alike in itertools.product(ITEMS, CLUSTERS, _CHANGES[:4], (0.0, 0.02, 0.1)):
        if groups == n and alike:
            continue

        def clustered(
            rng: np.random.Generator, n=n, g=groups, lost=lost, gained=gained, alike=alike
        ) -> tuple[Interval, float]:
            sizes = _sizes(n, g)
            changed = rng.binomial(sizes, _rates(rng, lost + gained, alike, g))
            away = rng.binomial(changed, lost / (lost + gained))
            return difference_interval(away / sizes, (changed - away) / sizes, counts=sizes), gained - lost

        said = f"{lost:.0%} lost, {gained:.0%} gained, {alike} alike in a cluster"
        rare = lost + gained < 0.1 and alike == 0.1
        yield Cell("difference over clusters (compare --clusters)", said, n, groups, clustered, True, rare)


_LAWS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "skewed (exponential)": (lambda rng, n: rng.exponential(size=n), 1.0),
    "very skewed (lognormal, sd of log 1)": (lambda rng, n: rng.lognormal(size=n), float(np.exp(0.5))),
    "heavy tails (Student's t, 4)": (lambda rng, n: rng.standard_t(4, size=n), 0.0),
    "ties (rounded exponential)": (
        lambda rng, n: np.round(rng.exponential(size=n)),
        float(np.exp(-0.5) / (1 - np.exp(-1))),
    ),
    "four of five are 0": (lambda rng, n: rng.exponential(size=n) * (rng.random(n) < 0.2), 0.2),
}


def _numbers() -> Iterator[Cell]:
    for n, (law, (drawn, truth)) in itertools.product(ITEMS, _LAWS.items()):

        def mean(rng: np.random.Generator, n=n, drawn=drawn, truth=truth) -> tuple[Interval, float]:
            return mean_interval(drawn(rng, n)), truth

        yield Cell("mean of numbers (collateral, explorer, attack, causal-map)", law, n, 0, mean, law[0] in "t4f")

        def ratio(rng: np.random.Generator, n=n, drawn=drawn, truth=truth) -> tuple[Interval, float]:
            tokens = np.ceil(rng.lognormal(3, 0.5, n))
            return ratio_interval(tokens * drawn(rng, n), tokens), truth

        if law in ("normal", "skewed (exponential)"):
            yield Cell("mean over tokens (token-differences, KL, perplexity, causal-map)", law, n, 0, ratio)
    for n, groups in itertools.product(ITEMS, CLUSTERS):
        if groups == n:
            continue

        def clustered(rng: np.random.Generator, n=n, g=groups) -> tuple[Interval, float]:
            sizes = _sizes(n, g)
            sums = 0.3 * sizes * rng.normal(size=g) + np.sqrt(sizes) * rng.normal(size=g)
            return ratio_interval(sums, sizes), 0.0

        yield Cell("mean of numbers over clusters", "normal", n, groups, clustered)


def _others() -> Iterator[Cell]:
    for n, (forgotten, back) in itertools.product(ITEMS, ((0.2, 0.3), (0.5, 0.3), (0.5, 0.02), (0.5, 0.9))):

        def attacked(rng: np.random.Generator, n=n, f=forgotten, r=back) -> tuple[Interval, float]:
            source = rng.random(n) < 0.9
            edited = source & (rng.random(n) >= f)
            after = (edited | (source & ~edited & (rng.random(n) < r))) & (rng.random(n) < 0.98)
            truth = (0.98 * (0.9 * (1 - f) + 0.9 * f * r) - 0.9 * (1 - f)) / (0.9 * f)
            return recovered_share(after * 1.0 - edited, source * 1.0 - edited)[1], truth

        said = f"{forgotten:.0%} forgotten, {back:.0%} brought back"
        yield Cell("recovered share (attack)", said, n, 0, attacked, True)
    for n, seeds in itertools.product(ITEMS, (3, 5, 10)):

        def over(rng: np.random.Generator, n=n, seeds=seeds) -> tuple[Interval, float]:
            shares = np.clip(0.6 + 0.05 * rng.normal(size=seeds), 0, 1)
            return seed_interval(rng.binomial(n, shares) / n), 0.6

        yield Cell("mean over seeds (studies)", "60 % right, sd of seeds 5 points", n, seeds, over)


def permutation_size(draws: int, seeds: int, runs: int, rng: np.random.Generator) -> float:
    """Return how often a selection that is one of the random ones has p <= 0.05: every draw at all seeds."""
    values = rng.normal(size=(runs, draws + 1, 1)) + rng.normal(size=(runs, draws + 1, seeds))
    means = values.mean(axis=2)
    as_good = (means[:, 1:] >= means[:, :1]).sum(axis=1)
    return float(np.mean([permutation_p(int(k), draws) <= 0.05 for k in as_good]))


def measure(runs: int = RUNS, only: str = "", workers: int = 1) -> pd.DataFrame:
    """Return the table: one row a cell."""
    rows = []
    for n, share in itertools.product(ITEMS, (0.05, 0.1, 0.3, 0.5, 0.7, 0.95)):
        held, nearest = single(n, share)
        name = "share (evaluate, choices, traces, safety, attack)"
        rows.append((name, f"{share:.0%}", n, 0, held, nearest, True, False))
    chosen = {place: cell for place, cell in enumerate(cells()) if only in cell.name}
    with Pool(workers) as pool:
        found = pool.map(partial(_of_cell, runs=runs), chosen, chunksize=8)
    for cell, held in zip(chosen.values(), found, strict=True):
        rows.append((cell.interval, cell.data, cell.items, cell.clusters, held, np.nan, cell.discrete, cell.beyond))
    columns = ["interval", "data", "items", "clusters", "covered", "nearest", "discrete", "beyond"]
    return pd.DataFrame(rows, columns=columns)


_HEAD = """# Coverage of the intervals

How often an interval holds what it is of, where 95 % are said: {cells} cells, {runs:,} draws each (a standard error of
{error:.1f} points), near a limit up to sixteen times as many (a quarter of it); shares of single outcomes exactly.
At least {least:.1%} is asked for everywhere, and no more than {most:.1%} where outcomes are not counts.
[Statistics](../statistics.md) says which interval stands where.

<!-- not run: some minutes on two cores -->

```sh
python -m benchmarks.coverage --page docs/results/coverage.md
```
"""

_BEYOND = """
## Where no interval holds

Measured with the same command, and left out of the least above. Rare changes that come in whole clusters: of few
clusters most show none, and nothing in the sample says what the others would have shown. `compare --clusters` warns.
Rare successes that are alike within an item, at 30 items, are the same. Newcombe's interval, printed beside the other
because it is known, covers too little where 1 % of 1,000 items change and none the other way.
"""


def short(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that miss what is asked for, those apart that are beyond any interval."""
    wide = ~table["discrete"] & (table["covered"] > MOST)
    return table[~table["beyond"] & ((table["covered"] < LEAST) | wide)]


def page(table: pd.DataFrame, runs: int) -> str:
    """Return the results as a page: by interval and number of items, each share, and what is beyond any interval."""
    held = table[~table["beyond"]]
    text = _HEAD.format(cells=len(table), runs=runs, error=100 * (0.05 * 0.95 / runs) ** 0.5, least=LEAST, most=MOST)
    missed = short(table)[["interval", "data", "items", "clusters", "covered"]]
    missed.columns = ["interval", "data", "items", "clusters", "covered %"]
    text += f"\n## Not reached\n\n{len(missed)} of {len(held)} cells miss what is asked for.\n\n"
    text += _markdown(missed.sort_values("covered %", kind="stable")) if len(missed) else ""
    rows = held.groupby(["interval", "items"], sort=False)["covered"].agg(["count", "min", "mean", "max"]).reset_index()
    rows.columns = ["interval", "items", "cells", "least %", "mean %", "most %"]
    text += "\n## By interval and number of items\n\n" + _markdown(rows)
    rows = held[held["clusters"] > 0].groupby(["interval", "clusters"], sort=False)["covered"]
    rows = rows.agg(["count", "min", "mean", "max"]).reset_index()
    rows.columns = ["interval", "clusters or seeds", "cells", "least %", "mean %", "most %"]
    text += "\n## By number of clusters\n\n" + _markdown(rows)
    single_ = table[table["nearest"].notna()][["data", "items", "covered", "nearest"]]
    single_.columns = ["share", "items", "covered %", "nearest to 95 that counts can have %"]
    text += "\n## Shares of single outcomes, exactly\n\n" + _markdown(single_)
    beyond = table[table["beyond"]][["interval", "data", "items", "clusters", "covered"]]
    beyond.columns = ["interval", "data", "items", "clusters", "covered %"]
    text += _BEYOND + "\n" + _markdown(beyond)
    sizes = {seeds: permutation_size(20, seeds, 20_000, np.random.default_rng(seeds)) for seeds in (1, 3)}
    said = ", ".join(f"{size:.1%} with {seeds} seed{'s' * (seeds > 1)}" for seeds, size in sizes.items())
    return text + (
        "\n## The permutation p of a study\n\nA selection that is one of 20 random ones has p <= 0.05 in "
        f"{said}, of 20,000 studies each; the most that 20 draws allow is 1 / 21 = 4.8 %.\n"
    )


def _markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, shares as percentages with one digit."""
    shown = table.astype(object)
    for column in table.columns:
        if str(column).endswith("%"):
            shown[column] = [f"{100 * value:.1f}" for value in table[column]]
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *shown.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Measure, or read what was measured, and say where the intervals do not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/coverage.parquet"), help="read if it is there")
    parser.add_argument("--page", type=Path, help="write the page with the table")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    asked = parser.parse_args()
    if asked.out.is_file():
        table = pd.read_parquet(asked.out)
    else:
        table = measure(asked.runs, asked.only, asked.workers)
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(asked.out)
    wrong = short(table)
    print(table.groupby("interval", sort=False)["covered"].describe()[["count", "min", "mean", "max"]].round(3))
    print(wrong.to_string() if len(wrong) else f"all {int((~table['beyond']).sum())} cells hold")
    if asked.page is not None:
        asked.page.write_text(page(table, asked.runs))


if __name__ == "__main__":
    main()
