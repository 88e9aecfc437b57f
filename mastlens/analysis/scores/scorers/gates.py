"""Scorer ``gates``: how much of each matrix's increment is taken back where that is learnt for the least harm.

With W(z) = RLVR - z D, one z in [0, 1] a matrix and D its increment, gates z are trained to make the forget solutions
unlikely and to keep the retain ones likely, at a price for every gate that is not zero:

    minimise  log p(forget) - retain weight * log p(retain) + price * share of gates that are not zero.

Gates are hard-concrete (Louizos et al., arXiv:1712.01312), so that they become exactly 0 and 1. Only what RLVR gave
can be taken back, so that the loss is bounded. A gate's gradient is the inner product of the weights' gradient and -D.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.scores.hard_concrete import hard_concrete, open_share, stretched
from mastlens.analysis.scores.scorer import Scorer, Scoring, increments, inner
from mastlens.models.gradients import mean_gradients
from mastlens.models.weights import write_weights
from mastlens.problems.encoding import EncodedProblem


def learnt_gates(scoring: Scoring) -> pd.DataFrame:
    """Return every matrix's gate: the higher its ``score``, the more of its increment is taken back.

    Parameters: ``steps``, ``lr`` (Adam on the gates' locations), ``price``, ``batch`` (problems of each side a step).
    There is no standard error: another seed gives another draw of batches and gates.
    """
    parameters, settings = scoring.parameters, scoring.settings
    found = increments(scoring, {matrix.stored for matrix in scoring.chosen})
    names = [name for name, (_, delta) in found.items() if bool(delta.any())]
    generator = torch.Generator().manual_seed(settings.seed)
    location = torch.zeros(len(scoring.chosen), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([location], lr=parameters["lr"])
    signs = {"forget": -1.0, "retain": settings.retain_weight}  # of the negative log-likelihood
    streams = {side: _stream(side, scoring, int(parameters["batch"])) for side in scoring.sides}
    for _ in scoring.steps(int(parameters["steps"])):
        noise = torch.rand(len(location), generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
        gates = hard_concrete(location, noise)
        write_weights(scoring.model, _gated(scoring, found, names, gates.detach()))
        slopes = torch.zeros_like(location)
        for side, stream in streams.items():
            loss = mean_gradients(scoring.model, next(stream), names, batch_size=settings.batch_size)
            for place, matrix in enumerate(scoring.chosen):
                if matrix.stored in loss:
                    pair = matrix.read(loss[matrix.stored]), matrix.read(found[matrix.stored][1])
                    slopes[place] -= signs[side] * inner(*pair)
        optimiser.zero_grad()
        (gates @ slopes + parameters["price"] * open_share(location).mean()).backward()
        optimiser.step()
    location = location.detach()
    return pd.DataFrame(
        {
            "score": torch.sigmoid(location).numpy(),  # no ties among those that are wholly back, or not at all
            "standard_error": np.nan,
            "gate": stretched(location).clamp(0, 1).numpy(),
        }
    )


def _gated(
    scoring: Scoring, found: dict[str, tuple[Tensor, Tensor]], names: Sequence[str], gates: Tensor
) -> dict[str, Tensor]:
    """Return the stored tensors with each matrix's part of the increment taken back by its gate."""
    tensors = {name: found[name][0] + found[name][1] for name in names}
    for place, matrix in enumerate(scoring.chosen):
        if matrix.stored in tensors:
            after = tensors[matrix.stored]
            matrix.write(after, matrix.read(after) - float(gates[place]) * matrix.read(found[matrix.stored][1]))
    return tensors


def _stream(side: str, scoring: Scoring, size: int):
    """Yield batches of a side's problems for ever, each pass in an order of its own."""
    encoded: Sequence[EncodedProblem] = scoring.sides[side].encoded
    draw = np.random.default_rng([scoring.settings.seed, len(side)])
    while True:
        order = draw.permutation(len(encoded))
        for start in range(0, len(order), size):
            yield [encoded[item] for item in order[start : start + size]]


GATES = Scorer(
    "gates",
    "the part of its increment that is taken back where gates are learnt to lose forget and keep retain",
    "hard-concrete gates, arXiv:1712.01312, on the increment",
    learnt_gates,
    parameters={"steps": 160.0, "lr": 0.1, "price": 0.05, "batch": 8.0},
)
