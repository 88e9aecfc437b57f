"""Directions that tell two kinds of texts apart, in SFT and RLVR, and what RLVR writes to and reads from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.inside.labels import LabelledTexts
from mastlens.analysis.inside.looking import looked_inside
from mastlens.analysis.inside.nulls import beside_both, beside_shuffled, beside_shuffled_cosine
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.probes import Halves, Probe, cosine, halve, probe
from mastlens.analysis.inside.settings import PROBES, InsideDirectSettings
from mastlens.analysis.inside.signals import Signals, Spot, check_positions, read_signals
from mastlens.errors import unknown
from mastlens.models.hooked import HookedModel
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.statistics import auc_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "inside_direct.parquet"
VECTORS = "inside_directions.safetensors"
_WHEN = ("before", "after")
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, repr=False)
class Directions(Carded):
    """Directions that tell texts apart.

    Attributes:
        table: One row a probe and a place; the columns are described at ``inside_direct``.
        vectors: ``MODEL/PROBE/SITE/LAYER/HEAD/POSITION`` to the direction, float32, as long as the two classes' means
            are apart along it in that model; MODEL is ``sft`` or ``rlvr``.
        settings: What made them.
    """

    table: pd.DataFrame
    vectors: Mapping[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.inside import directions_card

        return directions_card(self.table, self.settings)

    def plot(self, measure: str = "auc", probe: str | None = None) -> "go.Figure":
        """Draw what a probe tells by layer, in both models; or ``writes`` or ``reads``, beside random changes."""
        from mastlens.plots.directions import plot_directions

        return plot_directions(self.table, measure, probe)


@takes(InsideDirectSettings)
def inside_direct(settings: InsideDirectSettings) -> Directions:
    """Find directions that tell two kinds of texts apart, in SFT and RLVR, and what RLVR does along them.

    Both models read the same texts. A direction is found on half of them (of each class, texts of one prompt together)
    and held against the other half. The label is a column of the file (truth values, 0 and 1, or ``COLUMN=VALUE``),
    or ``worked``: whether the response has a step of arithmetic or goes straight to the box. Texts without a label are
    left out. At position 0, the end of the prompt, a probe reads what the model is about to do.

    Columns: ``layer``, ``site``, ``head`` (-1: the whole activation), ``position`` (-1: the mean over all tokens of the
    response), ``probe`` (``mean``: difference of the classes' means; ``logistic``), ``trained`` and ``texts`` (that
    directions were found on, and held out), ``positives`` (of those held out);

    - ``auc_before`` and ``auc_after``: area under the curve in SFT and RLVR, each by its own direction, with its 95 %
      interval (``_low``, ``_high``) over prompts, whose texts count as one unit, and its null, the same with shuffled
      labels; ``auc_change`` with the interval of a paired difference, likewise (DeLong 1988, Obuchowski 1997);
    - ``cosine`` of both directions, beside that of shuffled labels, by Fisher's z;
    - ``gap``: how far the classes' means are apart along SFT's direction;
    - ``writes``: how far RLVR moves the held-out texts along SFT's direction, in gaps, beside what random changes of
      RLVR's size do (``inside.pair``), and beside RLVR along directions of that length from shuffled labels
      (``_null_shuffled``): it counts only beyond both;
    - ``reads_before`` and ``reads_after``: how much a step of one gap along it, towards the text's own class, adds to
      its log-probability to first order, in nats a text, mean of both classes; ``reads``: after minus before, beside
      both.

    Raises:
        MastlensError: If the checkpoints are not one lineage, cannot read the same texts, or lack a site or a layer; if
            the texts are of one class, or too few.
    """
    if wrong := [one for one in settings.probes if one not in PROBES]:
        raise unknown("probe", wrong[0], PROBES)

    def look(pair: Pair, texts: LabelledTexts) -> tuple[pd.DataFrame, dict[str, Tensor]]:
        check_positions(texts.encoded, texts.lines, settings.positions, texts.source)
        halves = halve(
            texts.labels, texts.groups, shuffles=settings.shuffles, seed=settings.seed, label=f"{texts.label!r}"
        )
        found = _Directing(pair, texts, halves, settings).run()
        rows = [_row(spot, kind, told, halves) for (spot, kind), told in found.items()]
        vectors = {
            f"{model}/{kind}/{'/'.join(map(str, spot))}": torch.from_numpy(told.vectors[which].astype(np.float32))
            for (spot, kind), told in found.items()
            for which, model in enumerate(("sft", "rlvr"))
        }
        return pd.DataFrame(rows), vectors

    layers = None if settings.layers is None else list(settings.layers)
    deciding = {"label": settings.label, "sites": list(settings.sites), "layers": layers}
    deciding |= {"positions": list(settings.positions), "probes": list(settings.probes)}
    deciding |= {"penalty": settings.penalty, "shuffles": settings.shuffles}
    return looked_inside(settings, Directions, {"table": FILE, "vectors": VECTORS}, look, **deciding)


@dataclass
class _Told:
    """What was found of a probe and a spot.

    Attributes:
        probes: Of SFT and of RLVR.
        vectors: Their directions, one gap long.
        gap: Of SFT's.
        turned: Directions of SFT from shuffled labels, of that length.
        writes: Of RLVR, and of each random change.
        reads: Of SFT, of RLVR, and of each random change.
        by_chance: ``writes`` and ``reads`` (after minus before) of RLVR along those directions.
    """

    probes: tuple[Probe, Probe]
    vectors: tuple[np.ndarray, np.ndarray]
    gap: float
    turned: list[np.ndarray]
    writes: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    by_chance: tuple[list[float], list[float]] = ([], [])


class _Directing:
    """Both models and the random changes on the texts."""

    def __init__(self, pair: Pair, texts: LabelledTexts, halves: Halves, settings: InsideDirectSettings):
        self.pair, self.texts, self.halves, self.settings = pair, texts, halves, settings
        self.models = HookedModel(pair.source), HookedModel(pair.changed)

    def run(self) -> dict[tuple[Spot, str], _Told]:
        every = np.arange(len(self.texts.encoded))
        held = np.flatnonzero(self.halves.held)
        before, after = self._signals(0, every, "SFT"), self._signals(1, every, "RLVR")
        found = {
            (spot, kind): self._probed(kind, before.states[spot], after.states[spot])
            for spot in before.states
            for kind in dict.fromkeys(self.settings.probes)
        }
        for (spot, _), told in found.items():
            told.reads.append(self._reads(told.vectors[0], before.slopes[spot][held], self.halves.labels))
            self._along(told, before.states[spot][held], after.states[spot][held], after.slopes[spot][held])
            self._along_chance(told, spot, before, after)
        for turn in range(1, 1 + self.pair.draws):
            self.pair.take(turn)
            drawn = self._signals(1, held, f"random change {turn} of {self.pair.draws}")
            for (spot, _), told in found.items():
                self._along(told, before.states[spot][held], drawn.states[spot], drawn.slopes[spot])
        self.pair.take(RLVR)
        return found

    def _signals(self, which: int, chosen: np.ndarray, what: str) -> Signals:
        return read_signals(
            self.models[which],
            [self.texts.encoded[item] for item in chosen],
            sites=tuple(dict.fromkeys(self.settings.sites)),
            layers=self.settings.layers,
            positions=tuple(dict.fromkeys(self.settings.positions)),
            batch_size=self.settings.batch_size,
            progress=f"inside direct: {what}" if self.settings.progress else None,
        )

    def _probed(self, kind: str, before: np.ndarray, after: np.ndarray) -> _Told:
        probes = tuple(probe(kind, states, self.halves, self.settings.penalty) for states in (before, after))
        vectors = tuple(
            _one_gap(found.direction, states[~self.halves.held], self.halves.labels[~self.halves.held])
            for found, states in zip(probes, (before, after), strict=True)
        )
        gap = float(np.linalg.norm(vectors[0]))
        turned = [one * (gap / max(float(np.linalg.norm(one)), _TINY)) for one in probes[0].turned]
        return _Told((probes[0], probes[1]), (vectors[0], vectors[1]), gap, turned)

    def _along(self, told: _Told, before: np.ndarray, after: np.ndarray, slopes: np.ndarray) -> None:
        told.writes.append(_moved(told.vectors[0], before, after))
        told.reads.append(self._reads(told.vectors[0], slopes, self.halves.labels))

    def _along_chance(self, told: _Told, spot: Spot, before: Signals, after: Signals) -> None:
        held = self.halves.held
        states = before.states[spot][held], after.states[spot][held]
        change = after.slopes[spot][held].astype(np.float64) - before.slopes[spot][held]
        pairs = list(zip(told.turned, self.halves.shuffled, strict=True))
        told.by_chance = (
            [_moved(vector, *states) for vector, _ in pairs],
            [self._reads(vector, change, labels) for vector, labels in pairs],
        )

    def _reads(self, vector: np.ndarray, slopes: np.ndarray, labels: np.ndarray) -> float:
        own = labels[self.halves.held]
        along = slopes.astype(np.float64) @ vector
        return float(along[own].mean() - along[~own].mean()) / 2 if vector.any() else math.nan


def _moved(vector: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """Return how far states moved along a vector, in its lengths; NaN where it is zero."""
    square = float(vector @ vector)
    return float((after.astype(np.float64) - before).mean(axis=0) @ vector) / square if square else math.nan


def _one_gap(direction: np.ndarray, states: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return a direction as long as the classes' means are apart along it; zero where it is."""
    size = float(np.linalg.norm(direction))
    if not size:
        return direction
    wide = states.astype(np.float64)
    unit = direction / size
    return unit * float((wide[labels].mean(axis=0) - wide[~labels].mean(axis=0)) @ unit)


def _row(spot: Spot, kind: str, told: _Told, halves: Halves) -> dict[str, Any]:
    site, layer, head, position = spot
    row: dict[str, Any] = {"layer": layer, "site": site, "head": head, "position": position, "probe": kind}
    row |= {"trained": int((~halves.held).sum()), "texts": int(halves.held.sum())}
    row |= {"positives": int(halves.labels[halves.held].sum())}
    for when, one in zip(_WHEN, told.probes, strict=True):
        ends = auc_interval(one.area)
        row |= beside_shuffled(f"auc_{when}", one.area.value, one.shuffled)
        row |= {f"auc_{when}_low": ends.low, f"auc_{when}_high": ends.high}
    change = told.probes[1].area.minus(told.probes[0].area)
    ends = change.interval()
    row |= {"auc_change": change.value, "auc_change_low": ends.low, "auc_change_high": ends.high}
    row |= beside_shuffled_cosine("cosine", cosine(*(one.direction for one in told.probes)), _turned(told.probes))
    row |= {"gap": told.gap, **beside_both("writes", told.writes[0], told.writes[1:], told.by_chance[0])}
    before, after, *drawn = told.reads
    row |= {"reads_before": before, "reads_after": after}
    return row | beside_both("reads", after - before, [one - before for one in drawn], told.by_chance[1])


def _turned(probes: Sequence[Probe]) -> list[float]:
    return [cosine(one, other) for one, other in zip(*(each.turned for each in probes), strict=True)]
