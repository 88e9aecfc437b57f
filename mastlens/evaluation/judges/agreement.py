"""How far two judges agree beyond chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from mastlens.errors import NotTogether
from mastlens.evaluation.judges.interface import UNJUDGED
from mastlens.evaluation.judges.rubrics import TRACE_CATEGORIES
from mastlens.statistics import Interval, wilson


@dataclass(frozen=True)
class JudgeAgreement:
    """Two judges of the same texts.

    Attributes:
        table: Counts: one row a category of the first judge (the index), one column a category of the second.
        n: Texts that both judged.
        unjudged: Texts that one of them gave no judgement of.
        agreement: Share judged alike.
        interval: Its Wilson interval.
        kappa: Cohen's kappa; NaN where both used a single category.
        leak_kappa: The same of leak (not C1) against no leak, which is all that RT-UA asks; NaN for other categories.
    """

    table: pd.DataFrame
    n: int
    unjudged: int
    agreement: float
    interval: Interval
    kappa: float
    leak_kappa: float


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Cohen's kappa, (observed - expected) / (1 - expected) agreement (Cohen 1960).

    Args:
        first: One judge's categories.
        second: The other's, of the same texts in the same order.

    Returns:
        At most 1; 0 for chance; NaN where both used one and the same category only, which says nothing.

    Raises:
        MastlensError: If there are no texts, or not the same number.
    """
    if len(first) != len(second) or not first:
        raise NotTogether(
            f"Two judges agree or not on the same texts; given are {len(first)} and {len(second)} judgements."
        )
    names = sorted({*first, *second})
    one, other = (np.array([[text == name for name in names] for text in texts]) for texts in (first, second))
    observed = float((one & other).any(axis=1).mean())
    expected = float(one.mean(axis=0) @ other.mean(axis=0))
    return nan if len(names) == 1 else (observed - expected) / (1 - expected)


def judge_agreement(first: Sequence[str], second: Sequence[str]) -> JudgeAgreement:
    """Return how far two judges agree on the same texts.

    Args:
        first: One judge's categories, e.g. the column ``category`` of ``trace_judgements.parquet``.
        second: The other's, of the same texts in the same order.
    """
    if len(first) != len(second):
        raise NotTogether(f"There are {len(first)} judgements of one judge and {len(second)} of the other.")
    pairs = [(str(a), str(b)) for a, b in zip(first, second, strict=True)]
    both = [pair for pair in pairs if UNJUDGED not in pair]
    if not both:
        raise NotTogether("There is no text that both judges judged.")
    one, other = ([pair[side] for pair in both] for side in (0, 1))
    names = sorted({*one, *other})
    counts = [[sum(pair == (a, b) for pair in both) for b in names] for a in names]
    alike = sum(a == b for a, b in both)
    leaks = [["leak" if name != TRACE_CATEGORIES[0] else "none" for name in side] for side in (one, other)]
    traced = set(names) <= set(TRACE_CATEGORIES)
    return JudgeAgreement(
        table=pd.DataFrame(counts, index=pd.Index(names, name="first"), columns=pd.Index(names, name="second")),
        n=len(both),
        unjudged=len(pairs) - len(both),
        agreement=alike / len(both),
        interval=wilson(alike, len(both)),
        kappa=cohen_kappa(one, other),
        leak_kappa=cohen_kappa(*leaks) if traced else nan,
    )
