"""What a scorer is: a measurement that gives every matrix a number, kept in a table that a rule of its name ranks."""

from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mastlens.analysis.causal.patching import ProblemSet
from mastlens.analysis.scores.settings import ScoreSettings
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.lineage import Lineage
from mastlens.models.memory import float64_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Scoring:
    """What a scorer is given.

    Attributes:
        lineage: SFT and RLVR.
        chosen: The matrices to score.
        model: The RLVR model in float32 and evaluation mode. A scorer may change it; nobody uses it afterwards.
        tokenizer: Its tokenizer.
        sides: ``forget``, and ``retain`` where there is one, to its problems.
        settings: The command's settings.
        parameters: The scorer's own, all of them.
    """

    lineage: Lineage
    chosen: tuple[Projection, ...]
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    sides: Mapping[str, ProblemSet]
    settings: ScoreSettings
    parameters: Mapping[str, float]

    def steps(self, count: int) -> Generator[int, None, None]:
        """Yield 0, 1, ... with a progress bar, where one is wanted."""
        yield from tqdm(range(count), desc=self.settings.rule, disable=not self.settings.progress)


@dataclass(frozen=True)
class Scorer:
    """A way to score matrices that needs more than the tables.

    Attributes:
        name: As ``mastlens score`` takes it, and ``rank --rule``.
        summary: What the score is, in one line; the highest ranks first.
        source: Where it is from.
        compute: Returns a row a matrix, in the order given: ``score``, ``standard_error`` (NaN where there is none),
            and more columns of its own.
        parameters: Name to default, as ``--parameter`` takes them.
        grades: Whether it judges responses, by ``settings.grader``.
    """

    name: str
    summary: str
    source: str
    compute: Callable[[Scoring], pd.DataFrame]
    parameters: Mapping[str, float] = field(default_factory=dict)
    grades: bool = False


def increments(scoring: Scoring, names: Collection[str] | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """Return name to SFT weight and increment in float32, of the stored tensors of both checkpoints' same shapes.

    Args:
        scoring: What is scored.
        names: Which tensors; None for all.
    """
    before, after = scoring.lineage.increments["rlvr"]
    found = {}
    for name, stored in after.tensors.items():
        same = name in before.tensors and before.tensors[name].shape == stored.shape
        if same and stored.dtype.is_floating_point and (names is None or name in names):
            start = before.tensor(name).float()
            found[name] = start, after.tensor(name).float() - start
    return found


def inner(a: Tensor, b: Tensor) -> float:
    """Return the inner product of two matrices, in float64."""
    device = float64_device(a.device)
    return float(torch.vdot(*(one.detach().to(device).double().reshape(-1) for one in (a, b))))
