"""Scorer ``seta``: the share of a matrix's blocks in which the forget gradient is large for its layer.

SETA learns tasks one after another, each in the blocks of the weights with the largest gradients. Here the task to be
forgotten is the present one, and the retain side an earlier one. With G the mean gradient of a side's loss, a block's
score is the mean of |G| in it, standardised over all blocks of its layer, and

    S = a S_forget + (1 - a) |S_forget - S_retain|,    a = 1 / (1 + log 2), the paper's weight at its second task.

The largest blocks of the whole model are kept. The paper looks at v alone, where it saw most of the large gradients;
which matrices compete here is said by ``--where``. What RLVR changed is not read: a matrix may rank first that it left
as it was. The paper's experts, router and warm-up are not this.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.scores.scorer import Scorer, Scoring
from mastlens.errors import BadSetting
from mastlens.models.gradients import mean_gradients

SECOND_TASK = 1 / (1 + math.log(2))
"""The weight of the present task's own score where there is one earlier task: 1 / (1 + log t), t = 2."""


def block_shares(scoring: Scoring) -> pd.DataFrame:
    """Return the share of each matrix's blocks that are kept, as ``score``.

    Parameters: ``block`` (rows and columns of one; those at the edges are smaller), ``keep`` (share of all blocks).
    There is no standard error: nothing is drawn, and the problems' spread does not enter the score.

    Raises:
        MastlensError: If a block has no entry, or the share to keep is none.
    """
    size, keep = int(scoring.parameters["block"]), scoring.parameters["keep"]
    if size < 1 or not 0 < keep <= 1:
        raise BadSetting(f"A block has at least one row, and a share of them is kept; it is block={size}, keep={keep}.")
    names = list(dict.fromkeys(matrix.stored for matrix in scoring.chosen))
    sides = []
    for side in scoring.sides.values():
        loss = mean_gradients(scoring.model, side.encoded, names, batch_size=scoring.settings.batch_size)
        means = [block_means(matrix.read(loss[matrix.stored]), size) for matrix in scoring.chosen]
        sides.append(standardised(means, [matrix.layer for matrix in scoring.chosen]))
    scores = sides[0]
    if len(sides) > 1:
        pairs = zip(*sides, strict=True)
        scores = [SECOND_TASK * forget + (1 - SECOND_TASK) * (forget - retain).abs() for forget, retain in pairs]
    pooled = torch.cat(scores)
    order = torch.argsort(pooled, descending=True, stable=True)
    kept = torch.zeros(len(pooled), dtype=torch.bool)
    kept[order[: max(1, math.ceil(keep * len(pooled) - 1e-9))]] = True
    parts = kept.split([len(one) for one in scores])
    return pd.DataFrame(
        {
            "score": [float(part.double().mean()) for part in parts],
            "standard_error": np.nan,
            "blocks": [len(part) for part in parts],
            "blocks_kept": [int(part.sum()) for part in parts],
        }
    )


def block_means(gradient: Tensor, size: int) -> Tensor:
    """Return the mean of |gradient| in each block, row by row of blocks, in float64.

    Args:
        gradient: Of a matrix, (rows, cols).
        size: Rows and columns of a block.
    """
    rows, cols = (torch.arange(count, device=gradient.device) // size for count in gradient.shape)
    across = int(cols[-1]) + 1
    place = (rows[:, None] * across + cols[None, :]).flatten().cpu()
    values = gradient.detach().abs().flatten().cpu().double()
    return torch.bincount(place, weights=values) / torch.bincount(place)


def standardised(means: list[Tensor], layers: list[int]) -> list[Tensor]:
    """Return blocks' means less the mean of all blocks of their layer, over their standard deviation.

    A layer whose blocks are all alike is 0 throughout.

    Args:
        means: Of each matrix.
        layers: The layer of each.
    """
    found = list(means)
    for layer in set(layers):
        here = [i for i, one in enumerate(layers) if one == layer]
        pooled = torch.cat([means[i] for i in here])
        spread = pooled.std(correction=0)
        for i in here:
            found[i] = (means[i] - pooled.mean()) / spread if spread > 0 else torch.zeros_like(means[i])
    return found


SETA = Scorer(
    "seta",
    "the share of its blocks in which the forget gradient is large for its layer, and unlike the retain gradient",
    "SETA, arXiv:2606.07500, sections 3 and 4: block selection alone",
    block_shares,
    {"block": 16.0, "keep": 0.13},
)
