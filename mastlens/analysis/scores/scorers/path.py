"""Scorer ``path``: integrated gradients along the straight line SFT -> RLVR, tensor by tensor.

Integrated gradients (Sundararajan et al., arXiv:1703.01365) in the weights: with W(a) = SFT + a D, D the increment, and
f the log-probability of the solutions a token,

    f(RLVR) - f(SFT) = sum over tensors of the integral over a in [0, 1] of <df/dW(a), D>,

so that every tensor has its share of the whole change, in nats a token, and what the shares lack of it is known. The
integral is taken by Gauss and Legendre's rule, at ``points`` points.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from mastlens.analysis.scores.scorer import Scorer, Scoring, increments, inner
from mastlens.errors import BadSetting
from mastlens.models.gradients import mean_gradients
from mastlens.models.likelihood import sequence_logprobs
from mastlens.models.weights import write_weights
from mastlens.problems.encoding import EncodedProblem

BLOCKS = 10
"""Parts of a problem set whose shares are told apart, for the standard error."""


def path_shares(scoring: Scoring) -> pd.DataFrame:
    """Return every matrix's share of what RLVR did to the forget solutions, beyond what it did to the retain ones.

    Columns: ``score`` = ``forget_path`` - retain weight * ``retain_path``, shares of the change of log-probability from
    SFT to RLVR, in nats a token; ``standard_error`` of the score over problems (blocks of them, a ratio of sums), and
    its 95 % interval ``score_low`` and ``score_high`` by Student's t with the degrees of freedom of the fewer blocks;
    ``change``, the whole change of the same, and ``completeness_error``, what the shares of all tensors, norms and
    biases included, lack of it or have too much, as a share of it.
    """
    settings = scoring.settings
    found = increments(scoring)
    before = {name: start for name, (start, _) in found.items()}
    delta = {name: change for name, (_, change) in found.items()}
    moved = [name for name, change in delta.items() if bool(change.any())]
    points = int(scoring.parameters["points"])
    if points < 1:
        raise BadSetting(f"Gradients are taken at 1 point (--parameter points=1) or more, not {points}.")
    nodes, weights = np.polynomial.legendre.leggauss(points)
    blocks = {side: _blocks(problems.encoded) for side, problems in scoring.sides.items()}
    shares = {side: np.zeros((len(blocks[side]), len(scoring.chosen))) for side in blocks}
    whole = dict.fromkeys(blocks, 0.0)
    tokens = {side: np.array([sum(len(one.solution) for one in block) for block in blocks[side]]) for side in blocks}
    passes = list(product(zip((nodes + 1) / 2, weights / 2, strict=True), blocks))
    at = None
    for turn in scoring.steps(len(passes)):
        (node, weight), side = passes[turn]
        if node != at:
            at = node
            write_weights(scoring.model, {name: before[name] + float(node) * delta[name] for name in moved})
        for row, part in enumerate(blocks[side]):
            loss = mean_gradients(scoring.model, part, moved, batch_size=settings.batch_size)
            scale = -weight * tokens[side][row]
            whole[side] += scale * sum(inner(loss[name], delta[name]) for name in moved)
            for column, matrix in enumerate(scoring.chosen):
                if matrix.stored in loss:
                    pair = (matrix.read(loss[matrix.stored]), matrix.read(delta[matrix.stored]))
                    shares[side][row, column] += scale * inner(*pair)
    change = {}
    for side, problems in scoring.sides.items():
        ends = []
        for share in (0.0, 1.0):
            write_weights(scoring.model, {name: before[name] + share * delta[name] for name in moved})
            sums, counts = sequence_logprobs(scoring.model, problems.encoded, batch_size=settings.batch_size)
            ends.append(sums.sum() / counts.sum())
        change[side] = ends[1] - ends[0]
    signs = {"forget": 1.0, "retain": -settings.retain_weight}
    taken = {side: shares[side].sum(axis=0) / tokens[side].sum() for side in blocks}
    errors = [signs[side] * _standard_error(shares[side], tokens[side]) for side in blocks]
    asked = sum(signs[side] * change[side] for side in blocks)
    covered = sum(signs[side] * whole[side] / tokens[side].sum() for side in blocks)
    score, error = sum(signs[side] * taken[side] for side in blocks), np.sqrt(sum(each**2 for each in errors))
    wide = error * _quantile(min(len(parts) for parts in blocks.values()))
    return pd.DataFrame(
        {
            "score": score,
            "standard_error": error,
            "score_low": score - wide,
            "score_high": score + wide,
            **{f"{side}_path": taken[side] for side in blocks},
            "change": asked,
            "completeness_error": (covered - asked) / abs(asked) if asked else np.nan,
        }
    )


def _blocks(encoded: Sequence[EncodedProblem]) -> list[list[EncodedProblem]]:
    """Return the problems in at most ``BLOCKS`` parts, dealt in turn."""
    count = min(BLOCKS, len(encoded))
    return [list(encoded[start::count]) for start in range(count)]


def _standard_error(sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the standard error of a ratio of sums over blocks (rows), column by column; NaN of one block."""
    count = len(tokens)
    if count < 2:
        return np.full(sums.shape[1], np.nan)
    left = sums - np.outer(tokens, sums.sum(axis=0) / tokens.sum())
    return np.sqrt(count / (count - 1) * (left**2).sum(axis=0)) / tokens.sum()


def _quantile(count: int) -> float:
    """Return how many standard errors a 95 % interval reaches where these come from so many blocks; NaN of one."""
    return float(stats.t.ppf(0.975, count - 1)) if count > 1 else float("nan")


PATH = Scorer(
    "path",
    "its share of what RLVR did to log p of the forget solutions, less that of the retain ones, nats a token",
    "integrated gradients (arXiv:1703.01365) along SFT -> RLVR in the weights",
    path_shares,
    parameters={"points": 8.0},
)
