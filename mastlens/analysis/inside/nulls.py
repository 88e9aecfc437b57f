"""The law of a measure under random changes of the size of RLVR's, and what a table says beside it."""

import math
from collections.abc import Sequence
from typing import Any

from mastlens.analysis.increments.nulls import Null, judged, sampled_null

SOURCE = "signs"
_NOTHING: dict[str, Any] = {"null": math.nan, "z": math.nan, "p": math.nan, "judged_by": "", "distinguishable": False}


def drawn_law(values: Sequence[float]) -> Null:
    """Return the law of a measure from its values under random changes.

    Of a measure that is positive under each of them, the logarithm is taken to be normal: sizes of effects vary by
    factors. Either way a new value is judged by the predictive Student law of so many draws.
    """
    if min(values) > 0:
        logs = sampled_null([math.log(value) for value in values])
        return Null(math.exp(logs.mean), logs.sd, "lognormal", SOURCE, logs.draws)
    law = sampled_null(values)
    return Null(law.mean, law.sd, "t", SOURCE, law.draws)


def beside_null(column: str, value: float, draws: Sequence[float]) -> dict[str, Any]:
    """Return a value beside its null: the columns of ``increments.nulls.judged``.

    Args:
        column: What is measured.
        value: Of the RLVR model.
        draws: Of each random change; empty where none were made, which leaves the value without a verdict.
    """
    if math.isnan(value) or not len(draws):
        return {column: value, **{f"{column}_{end}": none for end, none in _NOTHING.items()}}
    return judged(column, value, [drawn_law(draws)])
