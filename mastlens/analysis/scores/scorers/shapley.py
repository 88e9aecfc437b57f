"""Scorer ``shapley``: what a matrix's putting back gains on average, whatever else is back already.

The Shapley value of the game whose players are matrices and whose worth is the gain of a set that is put back, by
sampling of orders (Castro et al. 2009): each order puts all matrices back, one after the other. Orders come in pairs,
one the other turned round, which takes out what comes early of what comes late.
"""

import numpy as np
import pandas as pd

from mastlens.analysis.scores.line import quantile
from mastlens.analysis.scores.putting_back import PuttingBack
from mastlens.analysis.scores.scorer import Scorer, Scoring
from mastlens.errors import BadSetting


def shapley_values(scoring: Scoring) -> pd.DataFrame:
    """Return every matrix's Shapley value, nats a token.

    With its standard error and 95 % interval (Student's t) over pairs of orders. The values of all add up to the gain
    of putting all back, in every order and so without error. Parameter: ``pairs`` of orders, each of which measures
    twice as many put-backs as matrices moved.
    """
    pairs = int(scoring.parameters["pairs"])
    if pairs < 2:
        raise BadSetting(f"An error needs 2 pairs of orders (--parameter pairs=2) or more, not {pairs}.")
    gain_of = PuttingBack(scoring)
    draw = np.random.default_rng(scoring.settings.seed)
    values = np.zeros((pairs, len(scoring.chosen)))
    for pair in scoring.steps(pairs):
        order = draw.permutation(gain_of.moved).tolist()
        for turned in (order, order[::-1]):
            reached = 0.0
            for place, matrix in enumerate(turned):
                now = gain_of(turned[: place + 1])
                values[pair, matrix] += (now - reached) / 2
                reached = now
    score, error = values.mean(axis=0), values.std(axis=0, ddof=1) / pairs**0.5
    wide = error * quantile(pairs)
    return pd.DataFrame(
        {"score": score, "standard_error": error, "score_low": score - wide, "score_high": score + wide}
    )


SHAPLEY = Scorer(
    "shapley",
    "what its putting back gains on average over orders: forget lost, less retain lost, nats a token",
    "Shapley values by sampling, Castro et al. 2009",
    shapley_values,
    parameters={"pairs": 4.0},
)
