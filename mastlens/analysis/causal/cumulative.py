"""Cumulative curves: weights put back one projection after another; the area between orders scores a ranking."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.analysis.causal.patching import Patch, Readings, read_patched, read_sides, stored_tensors
from mastlens.analysis.causal.settings import CumulativeCurvesSettings
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.lineage import Lineage
from mastlens.errors import BadFile, BadSetting, NotFound, NotTogether, unknown
from mastlens.models.likelihood import sequence_logprobs
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, remembered
from mastlens.statistics import ratio_intervals

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "cumulative.parquet"
AREAS = "cumulative_areas.parquet"


@dataclass(frozen=True, repr=False)
class CumulativeCurves(Carded):
    """What putting weights over does, the more of them the more, in several orders.

    Attributes:
        table: One row an order and number of projections; the columns are described at ``cumulative_curves``.
        areas: One row a side: the score of the ranking.
        settings: What made it.
    """

    table: pd.DataFrame
    areas: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import curves_card

        return curves_card(self.areas, self.settings)

    def plot(self) -> "go.Figure":
        """Draw ranking, reverse and the band of random orders, forget and retain beside each other."""
        from mastlens.plots.causal import plot_cumulative

        return plot_cumulative(self.table, self.areas)


@takes(CumulativeCurvesSettings)
def cumulative_curves(settings: CumulativeCurvesSettings) -> CumulativeCurves:
    """Put the first k projections of a ranking over into the other model, for growing k; against other orders.

    Columns of ``table``: ``order`` (``ranking``, ``reverse``, ``random``), ``draw`` (of random orders, from 0; else
    -1), ``k``, and for each side, here ``forget``: ``forget_effect`` (change of the log-probability a token, in nats),
    ``forget_exact_change`` (of the share of problems that greedy decoding would answer with exactly the reference
    solution), ``forget_unpatched`` and ``forget_total`` (all weights put over, not only attention's).

    Columns of ``areas``, one row a side. An area is the mean of the effect over k from 0 to all (trapezoids, k as a
    share of all), in nats per token, so that an order that works early has a large one:

    - ``end``: the effect of all projections, where every order ends, with its interval ``end_low`` and ``end_high``;
      and ``total``, that of all weights: where the end is small beside the total, what is looked for does not lie in
      these projections, and no ranking of them can find it;
    - ``area``, ``area_reverse``, ``area_random`` (mean of the draws);
    - ``above_random`` = area - area_random and ``above_reverse`` = area - area_reverse, with their paired 95 %
      intervals over problems ``_low`` and ``_high``;
    - ``p_value``: share of the orders, draws and ranking together, whose area lies at least as far from their mean as
      the ranking's; ``draws``. With 20 draws it is at least 1 / 21.

    Raises:
        MastlensError: If the ranking is not one of this model's projections, or a number makes no sense.
    """
    if settings.draws < 1 or settings.points < 1:
        raise BadSetting(
            f"At least one random order and one point are needed, not {settings.draws} and {settings.points}."
        )
    lineage = Lineage.open(settings.rlvr, sft=settings.sft)
    own, other = lineage.increments["rlvr"]
    if settings.direction == "restore":
        own, other = other, own
    order = _order(settings.ranking, own)
    computing = settings.computing(own, other)
    asking = settings.asking
    recorded = {
        "dtype": computing.dtype,
        "ranking": order,
        "direction": settings.direction,
        "draws": settings.draws,
        "points": settings.points,
        "limit": settings.limit,
        "seed": settings.seed,
        **asking.record(),
    }

    def compute() -> CumulativeCurves:
        model, tokenizer = computing.load(own), own.load_tokenizer()
        taken = stored_tensors(other, model, own.projections)
        sides = read_sides(
            own,
            model,
            tokenizer,
            {"forget": settings.forget, "retain": settings.retain},
            limit=settings.limit,
            chat_template=asking,
        )
        projections = {projection.name: projection for projection in own.projections}
        curves = _curves(len(order), draws=settings.draws, points=settings.points, seed=settings.seed)
        sets = list(dict.fromkeys(chosen for _, _, orders in curves for chosen in orders))
        readings = {
            side: read_patched(
                model,
                problems.encoded,
                [[Patch(projections[order[i]]) for i in sorted(chosen)] for chosen in sets],
                taken,
                batch_size=settings.batch_size,
                progress=f"{settings.direction}: {side}, {len(sets)} sets" if settings.progress else None,
            )
            for side, problems in sides.items()
        }
        opposite = computing.load(other)
        totals = {
            side: float(sequence_logprobs(opposite, problems.encoded, batch_size=settings.batch_size)[0].sum())
            for side, problems in sides.items()
        }
        places = {chosen: row for row, chosen in enumerate(sets)}
        rows = [(name, draw, [places[chosen] for chosen in orders]) for name, draw, orders in curves]
        ks = np.array([0, *(len(chosen) for chosen in curves[0][2])])
        table = pd.concat([_side_columns(rows, ks, side, readings[side], totals[side]) for side in sides], axis=1)
        areas = [_areas(rows, ks, side, readings[side], totals[side]) for side in sides]
        return CumulativeCurves(table.loc[:, ~table.columns.duplicated()], pd.DataFrame(areas), recorded)

    def write(result: CumulativeCurves, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        write_table(folder / AREAS, result.areas)

    return remembered(
        settings.out,
        "cumulative",
        outputs=[FILE, AREAS],
        lineage=lineage.fingerprints,
        behaviour=lineage.behaviour(),
        inputs=hash_inputs({"forget": settings.forget, "retain": settings.retain}),
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=lambda folder: CumulativeCurves(read_table(folder / FILE), read_table(folder / AREAS), recorded),
    )


def _order(ranking: "str | os.PathLike[str] | pd.DataFrame | Sequence[str]", checkpoint: Checkpoint) -> list[str]:
    """Return the names of all the checkpoint's projections, best first."""
    if isinstance(ranking, str | os.PathLike):
        if not Path(ranking).is_file():
            raise NotFound(f"There is no ranking file {ranking}. Write it first: mastlens rank DIR --top N")
        ranking = read_table(ranking, ("name", "rank"), maker="mastlens rank")
    if isinstance(ranking, pd.DataFrame):
        if missing := {"rank", "name"} - set(ranking.columns):
            raise BadFile(f"The ranking has no column '{sorted(missing)[0]}'. mastlens rank writes one.")
        ranking = ranking.sort_values("rank", kind="stable")["name"].tolist()
    order = [str(name) for name in ranking]
    valid = [projection.name for projection in checkpoint.projections]
    if strange := [name for name in order if name not in valid]:
        raise unknown(f"projection in {checkpoint.spec}", strange[0], valid)
    if len(order) != len(set(order)) or len(order) != len(valid):
        raise NotTogether(
            f"The ranking has {len(order)} names, {len(set(order))} of them different; the model has {len(valid)} "
            "projections. A cumulative curve needs each of them once, so that all orders end in one place."
        )
    return order


def _curves(size: int, *, draws: int, points: int, seed: int) -> list[tuple[str, int, list[frozenset[int]]]]:
    """Return every order as (name, draw, sets of the first k places in the ranking for each k above 0)."""
    ks = np.unique(np.round(np.linspace(0, size, min(points, size) + 1)).astype(int))[1:]
    generator = np.random.default_rng(seed)
    orders = [("ranking", -1, list(range(size))), ("reverse", -1, list(range(size))[::-1])]
    orders += [("random", draw, generator.permutation(size).tolist()) for draw in range(draws)]
    return [(name, draw, [frozenset(order[:k]) for k in ks]) for name, draw, order in orders]


def _side_columns(
    curves: Sequence[tuple[str, int, list[int]]], ks: np.ndarray, side: str, readings: Readings, total: float
) -> pd.DataFrame:
    tokens = readings.counts.sum()
    effects = readings.differences.sum(axis=1) / tokens
    exact = (readings.patched_exact - readings.exact).mean(axis=1)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "order": name,
                    "draw": draw,
                    "k": ks,
                    f"{side}_effect": [0.0, *effects[places]],
                    f"{side}_exact_change": [0.0, *exact[places]],
                    f"{side}_unpatched": readings.unpatched.sum() / tokens,
                    f"{side}_total": (total - readings.unpatched.sum()) / tokens,
                }
            )
            for name, draw, places in curves
        ],
        ignore_index=True,
    )


def _areas(
    curves: Sequence[tuple[str, int, list[int]]],
    ks: np.ndarray,
    side: str,
    readings: Readings,
    total: float,
) -> dict[str, Any]:
    # An area is a weighted sum of effects, so every problem has its own, and an interval over problems.
    steps = np.diff(ks / ks[-1])
    weights = (steps + np.append(steps[1:], 0.0)) / 2  # of k > 0; at k = 0 there is no effect
    each = np.stack([weights @ readings.differences[places] for _, _, places in curves])
    tokens = readings.counts.sum()
    areas = each.sum(axis=1) / tokens
    end = readings.differences[curves[0][2][-1]]
    contrasts = np.stack([each[0] - each[2:].mean(axis=0), each[0] - each[1], end])
    low, high = ratio_intervals(contrasts, readings.counts)
    exchangeable = np.delete(areas, 1)  # were the ranking a random order, it could be any of these
    distance = np.abs(exchangeable - exchangeable.mean())
    return {
        "side": side,
        "end": end.sum() / tokens,
        "end_low": low[2],
        "end_high": high[2],
        "total": (total - readings.unpatched.sum()) / tokens,
        "area": areas[0],
        "area_reverse": areas[1],
        "area_random": areas[2:].mean(),
        "above_random": contrasts[0].sum() / tokens,
        "above_random_low": low[0],
        "above_random_high": high[0],
        "above_reverse": contrasts[1].sum() / tokens,
        "above_reverse_low": low[1],
        "above_reverse_high": high[1],
        # Areas that are equal but for the order of summation count as equal.
        "p_value": float(np.mean(distance >= distance[0] - 1e-12)),
        "draws": len(curves) - 2,
    }
