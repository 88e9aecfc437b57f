"""Scorer ``search``: greedy, over real put-backs, with a budget of them: the upper reference for cheaper rules.

Starting from RLVR, the matrix whose putting back gains most beside those that are back already is put back too (forget
solutions lost, less retain solutions lost). Gains that were measured before others went back are taken for upper bounds
(Minoux 1978): a matrix is measured again only where its old gain is the largest that is left.
"""

import heapq

import numpy as np
import pandas as pd

from mastlens.analysis.scores.putting_back import PuttingBack
from mastlens.analysis.scores.scorer import Scorer, Scoring
from mastlens.errors import BadSetting


def searched(scoring: Scoring) -> pd.DataFrame:
    """Return the order in which matrices are put back: ``score`` falls from 1, the first, in equal steps.

    ``gain`` is what each gained when it went back, nats a token; ``taken`` whether that was measured beside those
    before it. Where the ``budget`` (put-backs measured) ends, or none gains any more, the rest follows by the gain that
    was measured last. There is no standard error.
    """
    budget, count = int(scoring.parameters["budget"]), len(scoring.chosen)
    gain_of = PuttingBack(scoring)
    if budget < len(gain_of.moved):
        raise BadSetting(
            f"{len(gain_of.moved)} matrices moved, and each is measured once at the least: --parameter "
            f"budget={len(gain_of.moved)} or more, not {budget}."
        )
    steps = scoring.steps(budget)

    def measured(places: list[int]) -> float:
        next(steps, None)
        return gain_of(places)

    waiting = [(-measured([place]), place, 0) for place in gain_of.moved]
    heapq.heapify(waiting)
    back: list[int] = []
    gains, reached = np.zeros(count), 0.0
    while waiting and gain_of.asked < budget and -waiting[0][0] > 0:
        old, place, beside = heapq.heappop(waiting)
        if beside == len(back):
            back.append(place)
            gains[place], reached = -old, reached - old
        else:
            heapq.heappush(waiting, (reached - measured([*back, place]), place, len(back)))
    steps.close()
    rest = sorted(waiting)
    for old, place, _ in rest:
        gains[place] = -old
    still = [place for place in range(count) if place not in gain_of.moved]
    order = [*back, *(place for _, place, _ in rest), *still]
    score = np.zeros(count)
    score[order] = 1 - np.arange(count) / count
    taken = np.zeros(count, dtype=bool)
    taken[back] = True
    return pd.DataFrame({"score": score, "standard_error": np.nan, "gain": gains, "taken": taken})


SEARCH = Scorer(
    "search",
    "its place in a greedy search that puts matrices back one by one: forget lost, less retain lost",
    "lazy greedy (Minoux 1978) over put-backs",
    searched,
    parameters={"budget": 400.0},
)
