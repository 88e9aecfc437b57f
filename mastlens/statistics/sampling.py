"""Accuracy over several samples a problem: avg@k and pass@k, with intervals over problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mastlens.errors import BadSetting
from mastlens.statistics.intervals import share_interval


@dataclass(frozen=True)
class SampledAccuracy:
    """Accuracy of a model that answered every problem several times.

    Attributes:
        table: One row a metric: ``metric`` (``avg@n``, ``pass@k``), ``estimate`` as a fraction, ``ci_low`` and
            ``ci_high`` over problems (``share_interval``), ``items`` (problems).
        items: One row a problem: ``item``, ``samples``, ``correct``.
    """

    table: pd.DataFrame
    items: pd.DataFrame


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the unbiased estimate that at least one of ``k`` samples is right: 1 - C(n - c, k) / C(n, k).

    Chen et al. (2021), arXiv:2107.03374, equation 1; in whole numbers, so that nothing overflows or cancels.

    Args:
        samples: n, the samples drawn.
        correct: c, those that were right.
        k: At most n.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise BadSetting(
            f"pass@{k} cannot be estimated from {correct} right of {samples} samples: it takes at least {k} samples."
        )
    every = comb(samples, k)
    return (every - comb(samples - correct, k)) / every


def sampled_accuracy(
    items: ArrayLike,
    correct: ArrayLike,
    *,
    ks: Sequence[int] = (1,),
    level: float = 0.95,
) -> SampledAccuracy:
    """Return avg@n and pass@k with intervals over problems; samples of one problem are no evidence of others.

    Args:
        items: The problem of each sample.
        correct: Whether the sample is right.
        ks: The k of pass@k; none may exceed the samples of any problem.
        level: Confidence level.
    """
    rows = pd.DataFrame({"item": np.asarray(items), "correct": np.asarray(correct, dtype=bool)})
    if rows.empty:
        raise BadSetting("There are no samples to take an accuracy of.")
    counts = rows.groupby("item", sort=False)["correct"].agg(samples="size", correct="sum").reset_index()
    pairs = list(zip(counts["samples"].tolist(), counts["correct"].tolist(), strict=True))
    sizes = sorted({n for n, _ in pairs})
    name = "avg@" + (str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}")
    metrics = {name: [c / n for n, c in pairs]}
    metrics |= {f"pass@{k}": [pass_at_k(n, int(c), k) for n, c in pairs] for k in ks}
    table = []
    for metric, values in metrics.items():
        interval = share_interval(values, counts=[n for n, _ in pairs], level=level)
        table.append(
            {
                "metric": metric,
                "estimate": float(np.mean(values)),
                "ci_low": interval.low,
                "ci_high": interval.high,
                "items": len(pairs),
            }
        )
    return SampledAccuracy(pd.DataFrame(table), counts)
