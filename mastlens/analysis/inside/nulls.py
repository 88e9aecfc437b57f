"""The law of a measure under random changes of the size of RLVR's, and what a table says beside it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from mastlens.analysis.increments.nulls import Null, judged, sampled_null

SOURCE, SHUFFLED, FIRST_ORDER = "signs", "shuffled", "first_order"
_NOTHING: dict[str, Any] = {"null": math.nan, "z": math.nan, "p": math.nan, "judged_by": "", "distinguishable": False}


def drawn_law(values: Sequence[float], *, signed: bool = False) -> Null:
    """Return the law of a measure from its values under random changes.

    Of a measure that is positive under each of them, the logarithm is taken to be normal: sizes of effects vary by
    factors. Either way a new value is judged by the predictive Student law of so many draws.

    Args:
        values: One a draw.
        signed: That the measure may be negative, whatever the draws are.
    """
    if min(values) > 0 and not signed:
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
    # Draws that all happen to be positive do not make a measure so, of which a value is not.
    return judged(column, value, [drawn_law(draws, signed=bool(value <= 0))])


def beside_first_order(column: str, value: float, draws: Sequence[float], own: float) -> dict[str, Any]:
    """Return a value beside a null that is known of its first order alone: the columns of ``beside_null``.

    How far the first order of a random change is off, nobody knows: in 16 bits the rounding of all that is computed
    behind an exchange may be more than the exchange does. So a value counts only where its own first order does, too;
    else its p is that of its first order, and ``X_judged_by`` says so. What chance calls a finding is then no more
    often one than of the first order, of which it is known.

    Args:
        column: What is measured.
        value: Of the RLVR model.
        draws: The first order of each random change; empty where none were made.
        own: The first order of the RLVR model.
    """
    told = beside_null(column, value, draws)
    cheap = beside_null(column, own, draws)
    if cheap[f"{column}_p"] > told[f"{column}_p"]:
        told |= {f"{column}_{end}": cheap[f"{column}_{end}"] for end in ("p", "distinguishable")}
        told[f"{column}_judged_by"] = FIRST_ORDER
    return told


def chance_ends(value: float, draws: Sequence[float]) -> tuple[float, float]:
    """Return between what a measure lies 95 times in 100 by the law of its draws; NaN where there are none.

    Args:
        value: What is held against them.
        draws: See ``beside_null``.
    """
    if math.isnan(value) or not len(draws):
        return math.nan, math.nan
    return drawn_law(draws, signed=bool(value <= 0)).interval()


def beside_nulls(
    values: np.ndarray, draws: np.ndarray, step: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of many measures at once the draws' mean, how many of their spreads a value is off, and the two-sided p.

    By the predictive Student law of the draws; a measure that all draws leave as it is has no spread, and p is 1. NaN
    where there are no draws.

    Args:
        values: One a measure.
        draws: [draws, measures].
        step: What the least event that a measure counts adds to it. That none of few draws has such an event does not
            mean that there is none: the spread has its share, step^2 / 12, and half of it is the continuity correction,
            as in ``increments.nulls.sampled_null``.
    """
    if not len(draws):
        none = np.full(len(values), np.nan)
        return none, none, none
    mean = draws.mean(axis=0)
    sd = draws.std(axis=0, ddof=1) if len(draws) > 1 else np.zeros(len(values))
    sd = np.where((draws == draws[0]).all(axis=0), 0.0, sd)  # the mean of equal numbers may be off by rounding
    sd = np.where(sd > 0, np.sqrt(sd**2 + np.square(step) / 12), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(sd > 0, (values - mean) / sd, np.nan)
        away = np.maximum(np.abs(values - mean) - np.asarray(step) / 2, 0.0) / sd
    widened = math.sqrt(1 + 1 / len(draws))
    return mean, z, np.where(sd > 0, 2 * special.stdtr(len(draws) - 1, -away / widened), 1.0)


def beside_both(column: str, value: float, draws: Sequence[float], turned: Sequence[float]) -> dict[str, Any]:
    """Return what RLVR does along a direction beside two nulls, of which the one counts that explains it best.

    The columns of ``beside_null``; ``X_null_shuffled``, the mean of the second null; ``X_chance_low`` and
    ``X_chance_high``, between which the one that counts lies 95 times in 100.

    Args:
        column: What is measured.
        value: Of the RLVR model along the direction.
        draws: Of each random change along the direction.
        turned: Of the RLVR model along directions that were found from shuffled labels.
    """
    told = beside_null(column, value, draws)
    ends = f"{column}_chance_low", f"{column}_chance_high"
    if math.isnan(value) or not len(draws) or any(map(math.isnan, turned)):
        return told | dict.fromkeys((f"{column}_null_shuffled", *ends), math.nan)
    law, other = drawn_law(draws, signed=bool(value <= 0)), _shuffled_law(turned)
    told[f"{column}_null_shuffled"] = other.mean
    if other.p_value(value) > told[f"{column}_p"]:
        law, judgement = other, judged(column, value, [other])
        told |= {f"{column}_{end}": judgement[f"{column}_{end}"] for end in ("p", "judged_by", "distinguishable")}
    return told | dict(zip(ends, law.interval(), strict=True))


def _shuffled_law(values: Sequence[float]) -> Null:
    return replace(sampled_null(values), source=SHUFFLED)


def beside_shuffled(column: str, value: float, draws: Sequence[float]) -> dict[str, Any]:
    """Return what labels tell beside what shuffled ones do: the columns of ``increments.nulls.judged``.

    Args:
        column: What is measured.
        value: With the labels as they are.
        draws: With each shuffling.
    """
    if math.isnan(value) or any(map(math.isnan, draws)):
        return {column: value, **{f"{column}_{end}": none for end, none in _NOTHING.items()}}
    return judged(column, value, [_shuffled_law(draws)])


def beside_shuffled_cosine(column: str, value: float, draws: Sequence[float]) -> dict[str, Any]:
    """Return a cosine of directions beside that of shuffled labels: the columns of ``increments.nulls.judged``.

    Of states that lie along few axes a shuffling now and then gives a short direction, which is turned far: cosines
    crowd below 1 with a tail away from it, and no Student law has that. By Fisher's z, artanh, they have one (R. A.
    Fisher 1921); ``X_null`` is its mean as a cosine, ``X_z`` in units of its spread.

    Args:
        column: What is measured.
        value: With the labels as they are.
        draws: With each shuffling.
    """
    most = 1 - np.finfo(np.float64).epsneg  # of equal directions, rounding may leave a cosine above 1
    z, *turned = np.arctanh(np.clip([value, *draws], -most, most)).tolist()
    told = beside_shuffled(column, z, turned)
    return told | {column: value, f"{column}_null": math.tanh(told[f"{column}_null"])}
