"""Who writes a logit difference, in SFT and in RLVR, and whether a part changed itself or what it reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.inside.attribution import (
    Part,
    Readout,
    Writer,
    logit_difference,
    strongest_other,
    summed,
)
from mastlens.analysis.inside.looking import Texts, looked_inside
from mastlens.analysis.inside.nulls import beside_null
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.settings import InsideWriteSettings
from mastlens.analysis.inside.tally import ALL
from mastlens.errors import BadSetting
from mastlens.models.backends.stream import OUTSIDE
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import Batch, EncodedProblem
from mastlens.runs.calls import takes

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedTokenizerBase

    from mastlens.plots.cards.card import Card

FILE = "inside_write.parquet"
TOTAL: Part = ("logits", OUTSIDE, -1)
CONSTANT: Part = ("ln_final", OUTSIDE, -1)
_SPLIT = ("by_weights", "by_input", "by_readout")


@dataclass(frozen=True, repr=False)
class Writers(Carded):
    """What each part writes to a logit difference.

    Attributes:
        table: One row a split and part; the columns are described at ``inside_write``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.inside import writers_card

        return writers_card(self.table, self.settings)

    def plot(self, split: str | None = None) -> "go.Figure":
        """Draw the change of what each part writes by layer, beside its null; the first split by default."""
        from mastlens.plots.inside_maps import plot_writers

        return plot_writers(self.table, split)


@takes(InsideWriteSettings)
def inside_write(settings: InsideWriteSettings) -> Writers:
    """Attribute a logit difference to heads, MLPs and the embedding, in SFT and RLVR, and split the change.

    At each solution token the difference is logit(token of the text) minus logit(another): ``against``, or what SFT
    finds most probable beside it, so that RLVR has no say in what is looked at. It is the sum of what every part writes
    to the stream, times one direction: final norm (its scale frozen at what the model itself had) and output embedding.

    Columns: ``split``, ``layer``, ``site`` (``embed``; ``z`` of each head; ``out``: what the attention writes beside
    its heads, such as a bias, or all of it where a norm stands behind; ``mlp_out``; ``ln_final``: biases; ``logits``:
    the whole difference as the model gives it), ``head``, ``position`` (-1), ``tokens``, ``before`` and ``after`` (SFT
    and RLVR, mean over tokens), ``change`` with its null (the same of random changes of RLVR's size, see
    ``inside.pair``), and what the change is made of, exactly: ``by_weights`` (the part's own weights, on equal inputs),
    ``by_input`` (what it reads), ``by_readout`` (norm and output embedding). Weights and inputs are told apart by
    letting each model's blocks read the other's stream, and halved between both orders. ``completeness_error`` of
    ``logits``: |sum of parts - difference| / |difference| over all tokens, the larger of both models.

    Raises:
        MastlensError: If the checkpoints are not one lineage, cannot read the same texts, or lack a site.
    """

    def look(pair: Pair, texts: Texts) -> tuple[pd.DataFrame]:
        attributing = _Attributing(pair, _token(settings.against, pair.rlvr.load_tokenizer()), settings.first)
        tables = []
        for split, encoded in texts.items():
            label = f"inside write: {split}" if settings.progress else None
            sums = attributing.read(encoded, batch_size=settings.batch_size, progress=label)
            tables.append(pd.DataFrame(_rows(split, sums)))
        return (pd.concat(tables, ignore_index=True),)

    files = {"table": FILE}
    return looked_inside(settings, Writers, files, look, against=settings.against, first=settings.first)


def _token(text: str | None, tokenizer: "PreTrainedTokenizerBase") -> int | None:
    if text is None:
        return None
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        cut = [str(tokenizer.decode([one])) for one in ids]
        raise BadSetting(f"--against {text!r} is no single token: the tokenizer makes {cut} of it. Give one of these.")
    return int(ids[0])


@dataclass
class _Sums:
    """Sums over tokens, by part."""

    draws: int
    tokens: int = 0
    before: dict[Part, float] = field(default_factory=dict)
    after: dict[Part, float] = field(default_factory=dict)
    split: dict[tuple[Part, str], float] = field(default_factory=dict)
    drawn: dict[Part, np.ndarray] = field(default_factory=dict)
    squares: np.ndarray = field(default_factory=lambda: np.zeros((2, 2)))  # [model, error or difference]


class _Attributing:
    """Both models and the random changes, batch by batch."""

    def __init__(self, pair: Pair, other: int | None, first: int):
        self.pair, self.other, self.first = pair, other, first
        self.sft = Writer(HookedModel(pair.source), pair.sft.spec)
        self.rlvr = Writer(HookedModel(pair.changed), pair.rlvr.spec)

    def read(self, encoded: Sequence[EncodedProblem], *, batch_size: int | str, progress: str | None) -> _Sums:
        sums = _Sums(self.pair.draws)
        batches = by_length(self.pair.source, encoded, batch_size, progress)
        for _, batch in batches:
            with batches.fitting():
                found = self._batch(batch)
                drawn = [self._drawn(batch, turn, found) for turn in range(1, 1 + self.pair.draws)]
                self._add(sums, found, drawn)
        return sums

    def _at(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return where to look, and the tokens that follow there."""
        counted = batch.is_solution[:, 1:]
        if self.first:
            counted = counted & (batch.is_solution.cumsum(dim=1)[:, 1:] <= self.first)
        return torch.nn.functional.pad(counted, (0, 1)), batch.input_ids[:, 1:][counted]

    def _batch(self, batch: Batch) -> "_Found":
        self.pair.take(RLVR)
        at, target = self._at(batch)
        before, after = (model.run(batch, at) for model in (self.sft, self.rlvr))
        other = torch.full_like(target, self.other) if self.other is not None else strongest_other(before, target)
        ways = [model.readout(seen, target, other) for model, seen in ((self.sft, before), (self.rlvr, after))]
        # Each model's blocks on the other's stream: own weights, another's input.
        crossed = self.sft.run(batch, at, after.inputs), self.rlvr.run(batch, at, before.inputs)
        middle = (ways[0].direction + ways[1].direction) / 2
        own = [self.sft.parts(before, middle), self.rlvr.parts(after, middle)]
        other_input = [self.sft.parts(crossed[0], middle), self.rlvr.parts(crossed[1], middle)]
        for mine, theirs in zip(own, other_input, strict=True):
            theirs["embed", OUTSIDE, -1] = mine["embed", OUTSIDE, -1]  # it reads the tokens, which are the same
        told = [self.sft.parts(before, ways[0].direction), self.rlvr.parts(after, ways[1].direction)]
        turned = ways[1].direction - ways[0].direction
        along = [self.sft.parts(before, turned), self.rlvr.parts(after, turned)]
        parts = [part for part in told[0] if part in told[1]]
        split = {part: _split(part, own, other_input, along) for part in parts}
        measured = [logit_difference(seen, target, other) for seen in (before, after)]
        return _Found(target, other, told, ways, split, measured)

    def _drawn(self, batch: Batch, turn: int, found: "_Found") -> dict[Part, float]:
        self.pair.take(turn)
        at, _ = self._at(batch)
        seen = self.rlvr.run(batch, at)
        way = self.rlvr.readout(seen, found.target, found.other)
        parts = self.rlvr.parts(seen, way.direction)
        parts[CONSTANT] = way.constant
        parts[TOTAL] = logit_difference(seen, found.target, found.other)
        return {part: float(value.sum()) for part, value in parts.items()}

    def _add(self, sums: _Sums, found: "_Found", drawn: Sequence[dict[Part, float]]) -> None:
        sums.tokens += len(found.target)
        for model, into in enumerate((sums.before, sums.after)):
            parts = {**found.told[model], CONSTANT: found.ways[model].constant}
            error = summed(parts) - found.measured[model]
            sums.squares[model] += [float(error.square().sum()), float(found.measured[model].square().sum())]
            for part, value in {**parts, TOTAL: found.measured[model]}.items():
                into[part] = into.get(part, 0.0) + float(value.sum())
        constant = float((found.ways[1].constant - found.ways[0].constant).sum())
        by_part = [*found.split.values(), (0.0, 0.0, constant)]
        whole = np.sum([list(each) for each in by_part], axis=0)
        for part, shares in {**found.split, CONSTANT: (0.0, 0.0, constant), TOTAL: whole}.items():
            for name, value in zip(_SPLIT, shares, strict=True):
                sums.split[part, name] = sums.split.get((part, name), 0.0) + float(value)
        for turn, parts in enumerate(drawn):
            for part, value in parts.items():
                sums.drawn.setdefault(part, np.zeros(sums.draws))[turn] += value


@dataclass(frozen=True)
class _Found:
    """What a batch gave: parts along each model's own direction, the split of each change, the difference itself."""

    target: Tensor
    other: Tensor
    told: Sequence[dict[Part, Tensor]]
    ways: Sequence[Readout]
    split: dict[Part, tuple[float, float, float]]
    measured: Sequence[Tensor]


def _split(
    part: Part,
    own: Sequence[dict[Part, Tensor]],
    crossed: Sequence[dict[Part, Tensor]],
    along: Sequence[dict[Part, Tensor]],
) -> tuple[float, float, float]:
    """Return what own weights, the input and the readout have of a part's change; together they are all of it.

    With f(W, x) what weights W write on input x along the mean direction, A before and B after: weights have
    [f(B, xA) - f(A, xA) + f(B, xB) - f(A, xB)] / 2, the input [f(A, xB) - f(A, xA) + f(B, xB) - f(B, xA)] / 2.
    """
    aa, bb, ab, ba = (float(x[part].sum()) for x in (own[0], own[1], crossed[0], crossed[1]))
    readout = (float(along[0][part].sum()) + float(along[1][part].sum())) / 2
    return (ba - aa + bb - ab) / 2, (ab - aa + bb - ba) / 2, readout


def _rows(split: str, sums: _Sums) -> list[dict[str, Any]]:
    rows, n = [], max(sums.tokens, 1)
    errors = np.sqrt(sums.squares[:, 0] / np.where(sums.squares[:, 1] > 0, sums.squares[:, 1], np.nan))
    for part in sums.before:
        name, layer, head = part
        before, after = sums.before[part] / n, sums.after[part] / n
        if part == CONSTANT and not before and not after:
            continue  # neither norm nor output embedding has a bias
        drawn = sums.drawn.get(part, np.zeros(0)) / n
        row: dict[str, Any] = {"split": split, "layer": layer, "site": name, "head": head, "position": ALL}
        row |= {"tokens": sums.tokens, "before": before, "after": after}
        row |= beside_null("change", after - before, (drawn - before).tolist())
        row |= {share: sums.split[part, share] / n for share in _SPLIT}
        rows.append(row | {"completeness_error": float(errors.max()) if part == TOTAL else math.nan})
    return rows
