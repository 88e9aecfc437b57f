"""Controls: selections that no score decides, to hold a rule's selection against."""

import math
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from mastlens.architectures.projections import ORDER
from mastlens.errors import BadSetting
from mastlens.selection.rule import Control, Pool
from mastlens.selection.uniform import random_matched, random_of_size

_SOURCE = "controls of MAST, arXiv:2606.19222"


def _drawn(pool: Pool, chosen: Collection[str], values: np.ndarray) -> pd.DataFrame:
    selected = pool.candidates["name"].isin(list(chosen))
    return pool.candidates.assign(score=values + selected, selected=selected)


def _values(pool: Pool, name: str) -> np.ndarray:
    """Return a random number in [0, 1) for each candidate: other ones for each control and seed."""
    return np.random.default_rng([pool.seed, *name.encode()]).random(len(pool.candidates))


def _highest(names: pd.Series, values: np.ndarray, count: int) -> list[str]:
    return names.iloc[np.argsort(-values, kind="stable")[:count]].tolist()


def _selected(pool: Pool) -> pd.DataFrame:
    return pool.reference[pool.reference["selected"]]


def _sizes(table: pd.DataFrame) -> dict[str, int]:
    return dict(zip(table["name"], table["numel"].astype(int), strict=True))


def draw_uniform(pool: Pool) -> pd.DataFrame:
    """Draw so many tensors, each equally likely."""
    values = _values(pool, "random")
    return _drawn(pool, _highest(pool.candidates["name"], values, pool.top), values)


def draw_stratified(pool: Pool) -> pd.DataFrame:
    """Draw as many of each projection as the reference selects, each equally likely."""
    values = _values(pool, "random-stratified")
    chosen = []
    for projection, count in _selected(pool)["projection"].value_counts().items():
        here = (pool.candidates["projection"] == projection).to_numpy()
        chosen += _highest(pool.candidates["name"][here], values[here], int(count))
    return _drawn(pool, chosen, values)


def draw_matched(pool: Pool) -> pd.DataFrame:
    """Draw as many parameters as the reference selects."""
    chosen = random_matched(_sizes(pool.candidates), _selected(pool)["name"].tolist(), seed=pool.seed)
    return _drawn(pool, chosen, _values(pool, "random-matched"))


def take_bottom(pool: Pool) -> pd.DataFrame:
    """Take from the last of the reference's ranking upwards, as far as its number of parameters can still be met."""
    sizes = dict(reversed(_sizes(pool.reference).items()))
    chosen = _first_of_size(sizes, int(_selected(pool)["numel"].sum()))
    places = dict(zip(pool.reference["name"], (pool.reference["rank"] - 1) / len(pool.reference), strict=True))
    return _drawn(pool, chosen, pool.candidates["name"].map(places).to_numpy(float))


def _first_of_size(sizes: Mapping[str, int], total: int) -> list[str]:
    """Return the names that come to exactly ``total``, each taken where those behind it can make up the rest.

    Some subset must come to it; here the reference's selection does.
    """
    unit = math.gcd(*sizes.values())
    items = [(name, size // unit) for name, size in sizes.items()]
    left, reach = total // unit, [1]  # bit s of the last one: some of what lies behind come to s units
    for _, size in reversed(items):
        reach.append((reach[-1] | reach[-1] << size) & ((2 << left) - 1))
    chosen = []
    for (name, size), behind in zip(items, reach[-2::-1], strict=True):
        if size <= left and behind >> (left - size) & 1:
            chosen.append(name)
            left -= size
    return chosen


def draw_mlp(pool: Pool) -> pd.DataFrame:
    """Draw MLP matrices with as many parameters as the reference selects.

    Raises:
        MastlensError: If there is no MLP matrix, or none is small enough.
    """
    mlp = pool.candidates[pool.candidates["projection"].str.startswith("mlp")].reset_index(drop=True)
    if mlp.empty:
        known = ", ".join(dict.fromkeys(pool.candidates["projection"])) or "none"
        raise BadSetting(f"There is no MLP matrix among the candidates; they are {known}.")
    target = int(_selected(pool)["numel"].sum())
    if target < mlp["numel"].min():
        raise BadSetting(
            f"The selection to match holds {target:,} parameters, and the smallest MLP matrix "
            f"{int(mlp['numel'].min()):,}: no MLP matrix fits. Match a larger selection, --top."
        )
    pool = Pool(mlp, pool.reference, pool.top, pool.seed)
    return _drawn(pool, random_of_size(_sizes(mlp), target, seed=pool.seed), _values(pool, "mlp-matched"))


def take_attention(pool: Pool) -> pd.DataFrame:
    """Take every attention projection.

    Raises:
        MastlensError: If there is none.
    """
    attention = pool.candidates[pool.candidates["projection"].isin(ORDER)].reset_index(drop=True)
    if attention.empty:
        raise BadSetting("The tables are about no attention projection. Measure them without --where.")
    pool = Pool(attention, pool.reference, pool.top, pool.seed)
    return _drawn(pool, attention["name"].tolist(), np.zeros(len(attention)))


RANDOM = Control("random", "so many tensors at random", _SOURCE, draw_uniform, seeded=True)

RANDOM_STRATIFIED = Control(
    "random-stratified",
    "at random, as many of each of q, k, v, o as --match selects",
    _SOURCE,
    draw_stratified,
    matched=True,
    seeded=True,
)

RANDOM_MATCHED = Control(
    "random-matched",
    "at random, as many parameters as --match selects",
    _SOURCE,
    draw_matched,
    matched=True,
    seeded=True,
)

BOTTOM_MATCHED = Control(
    "bottom-matched",
    "the last of --match's ranking, as many parameters as its selection",
    _SOURCE,
    take_bottom,
    matched=True,
)

MLP_MATCHED = Control(
    "mlp-matched",
    "MLP matrices of --candidates at random, as many parameters as --match selects",
    _SOURCE,
    draw_mlp,
    matched=True,
    seeded=True,
    elsewhere=True,
)

ALL_ATTENTION = Control(
    "all-attention", "every attention projection, whatever --top", _SOURCE, take_attention, counted=False
)
