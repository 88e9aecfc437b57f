"""How far selections agree, beside what chance gives."""

from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mastlens.errors import BadSetting


def selection_overlap(rankings: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Compare selections two by two.

    Chance is two selections of these sizes that are drawn from the same candidates independently of each other, each
    tensor equally likely: the number of shared ones is then hypergeometric. For selections from different
    candidates it is not defined, and NaN.

    Args:
        rankings: Label to ``ranking.parquet``.

    Returns:
        One row a pair, and one a label with itself: ``first``, ``second``, ``first_size``, ``second_size``,
        ``candidates``, ``shared``, ``jaccard`` (shared / in either), ``jaccard_chance`` (its expected value), ``p``
        (two-sided: chance to share as many or more, or as few or fewer, twice the smaller), and
        ``jaccard_parameters``, the same with every tensor counted by its number of parameters.

    Raises:
        MastlensError: If a selection is empty, or there is none.
    """
    if not rankings:
        raise BadSetting("There is no ranking to compare.")
    chosen = {label: _sizes(table[table["selected"].astype(bool)]) for label, table in rankings.items()}
    if empty := [label for label, sizes in chosen.items() if not sizes]:
        raise BadSetting(f"The ranking '{empty[0]}' selects nothing. Rank again with --top of 1 or more.")
    names = {label: set(table["name"]) for label, table in rankings.items()}
    rows = []
    for first, second in combinations_with_replacement(rankings, 2):
        a, b = chosen[first], chosen[second]
        both, either = a.keys() & b.keys(), {**a, **b}
        row: dict[str, Any] = {
            "first": first,
            "second": second,
            "first_size": len(a),
            "second_size": len(b),
            "candidates": len(names[first] & names[second]),
            "shared": len(both),
            "jaccard": len(both) / len(either),
            "jaccard_chance": np.nan,
            "p": np.nan,
            "jaccard_parameters": sum(a[name] for name in both) / sum(either.values()),
        }
        if names[first] == names[second] and first != second:
            row |= _chance(len(names[first]), len(a), len(b), len(both))
        rows.append(row)
    return pd.DataFrame(rows)


def _sizes(table: pd.DataFrame) -> dict[str, int]:
    return dict(zip(table["name"], table["numel"].astype(int), strict=True))


def _chance(candidates: int, first: int, second: int, shared: int) -> dict[str, float]:
    law = candidates, first, second
    possible = np.arange(max(0, first + second - candidates), min(first, second) + 1)
    probability = stats.hypergeom.pmf(possible, *law)
    tails = stats.hypergeom.sf(shared - 1, *law), stats.hypergeom.cdf(shared, *law)
    return {
        "jaccard_chance": float((probability * possible / (first + second - possible)).sum()),
        "p": min(1.0, 2 * float(min(tails))),
    }
