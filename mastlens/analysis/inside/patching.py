"""What activations do when they are exchanged between SFT and RLVR, beside what putting weights back does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.analysis.causal.settings import DIRECTIONS
from mastlens.analysis.inside.exchanging import Exchange, Exchanged, Place
from mastlens.analysis.inside.integrating import integrated_effects
from mastlens.analysis.inside.looking import Texts, looked_inside
from mastlens.analysis.inside.nulls import beside_first_order, beside_null
from mastlens.analysis.inside.pair import Pair
from mastlens.analysis.inside.settings import InsidePatchSettings
from mastlens.analysis.inside.tally import ALL
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.statistics import ratio_intervals, spearman

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "inside_patch.parquet"


@dataclass(frozen=True, repr=False)
class ActivationPatches(Carded):
    """What exchanged activations do.

    Attributes:
        table: One row a split, direction and activation; the columns are described at ``inside_patch``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def agreement(self) -> pd.DataFrame:
        """How well the first order tells what exact patching finds, a row a split, direction and site.

        Columns: ``split``, ``direction``, ``site``, ``n``, ``spearman``, ``p_value`` (permutation), ``sign_agreement``;
        no row without exact patching. With integrated gradients ``integrated_spearman``, ``integrated_p_value`` and
        ``integrated_sign_agreement``, the same of these, and ``first_order_error`` and ``integrated_error``, how far
        either is off: root of the summed squared error over that of the exact effects.
        """
        rows = []
        if "effect" in self.table:
            for place, part in self.table.groupby(["split", "direction", "site"], sort=False):
                if len(part) > 1:
                    exact, cheap = part["effect"].to_numpy(), part["first_order"].to_numpy()
                    same = float(np.mean(np.sign(exact) == np.sign(cheap)))
                    named = dict(zip(("split", "direction", "site"), place, strict=True))
                    row = {**named, **spearman(exact, cheap), "sign_agreement": same}
                    if "integrated" in part:
                        row |= _integrated_agreement(exact, cheap, part["integrated"].to_numpy())
                    rows.append(row)
        columns = ["split", "direction", "site", "n", "spearman", "p_value", "sign_agreement"]
        columns += _INTEGRATED if "integrated" in self.table else []
        return pd.DataFrame(rows, columns=columns)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.inside import patches_card

        return patches_card(self.table, self.agreement, self.settings)

    def plot(self, direction: str = "restore", split: str | None = None) -> "go.Figure":
        """Draw what exchanging does by layer and activation, beside its null; the first split by default."""
        from mastlens.plots.inside_maps import plot_patches

        return plot_patches(self.table, direction, split)


@takes(InsidePatchSettings)
def inside_patch(settings: InsidePatchSettings) -> ActivationPatches:
    """Put activations of SFT into RLVR and the other way round, one at a time, and measure what changes.

    The same directions and the same measure as ``causal_map``, where weights are exchanged: log-probability of the
    solutions, in nats a token, with the exchange minus without it. An activation is exchanged at all tokens of a text.
    Columns: ``split``, ``direction`` (``restore``: SFT's into RLVR; ``insert``: RLVR's into SFT), ``layer``, ``site``,
    ``head`` (-1: the whole activation), ``position`` (-1), ``tokens``; ``effect`` (exact: layers below are not run
    again) with ``effect_low`` and ``effect_high``, its paired 95 % interval over problems; ``first_order`` (attribution
    patching: what gradients say of all activations at once); with ``integrate``, ``integrated`` (the gradient between
    own and other activation, ``inside.integrating``); all with their null, ``effect_null`` ...: the first-order
    effect where RLVR is a random change of its size (``inside.pair``), by whose spread they are judged: ``effect`` and
    ``integrated`` are beyond it only where ``first_order`` is, too (``effect_judged_by`` is ``first_order`` where that
    decides), for how far the first order of a random change is off is not measured; ``unpatched``, and ``total``, the
    effect of the whole other model.

    Raises:
        MastlensError: If the checkpoints are not one lineage, cannot read the same texts, or lack a site or a layer.
    """

    def look(pair: Pair, texts: Texts) -> tuple[pd.DataFrame]:
        exchange = Exchange(pair, settings.sites, settings.layers, exact=settings.exact)
        tables = []
        for split, encoded in texts.items():
            label = f"inside patch: {split}" if settings.progress else None
            found = exchange.run(encoded, batch_size=settings.batch_size, progress=label)
            integrated = {}
            if settings.integrate:
                integrated = integrated_effects(
                    pair,
                    encoded,
                    sites=settings.sites,
                    layers=settings.layers,
                    steps=settings.integrate,
                    batch_size=settings.batch_size,
                    progress=None if label is None else f"{label}, integrated",
                )
            tables.append(_table(split, found, integrated))
        return (pd.concat(tables, ignore_index=True),)

    sites, layers = list(settings.sites), None if settings.layers is None else list(settings.layers)
    deciding = {"sites": sites, "layers": layers, "exact": settings.exact}
    deciding |= {"integrate": settings.integrate} if settings.integrate else {}
    return looked_inside(settings, ActivationPatches, {"table": FILE}, look, **deciding)


_INTEGRATED = ["integrated_spearman", "integrated_p_value", "integrated_sign_agreement"]
_INTEGRATED += ["first_order_error", "integrated_error"]


def _integrated_agreement(exact: np.ndarray, cheap: np.ndarray, integrated: np.ndarray) -> dict[str, float]:
    ranks, size = spearman(exact, integrated), float(np.linalg.norm(exact))
    found = {"spearman": ranks["spearman"], "p_value": ranks["p_value"]}
    found["sign_agreement"] = float(np.mean(np.sign(exact) == np.sign(integrated)))
    errors = {"first_order": cheap, "integrated": integrated}
    return {f"integrated_{name}": value for name, value in found.items()} | {
        f"{name}_error": float(np.linalg.norm(one - exact)) / size if size else float("nan")
        for name, one in errors.items()
    }


def _table(split: str, found: Exchanged, integrated: Mapping[tuple[str, Place], np.ndarray]) -> pd.DataFrame:
    tokens = found.counts.sum()
    means = {way: sums.sum() / tokens for way, sums in found.unpatched.items()}
    other = dict(zip(DIRECTIONS, reversed(DIRECTIONS), strict=True))
    rows = []
    for way in DIRECTIONS:
        places = [place for at, place in found.first_order if at == way]
        ends = _ends(way, places, found)
        for number, place in enumerate(places):
            name, layer, head = place
            row: dict[str, Any] = {"split": split, "direction": way, "layer": layer, "site": name, "head": head}
            row |= {"position": ALL, "tokens": int(tokens)}
            drawn = (found.drawn.get((way, place), np.zeros(0)) / tokens).tolist()
            cheap = float(found.first_order[way, place].sum() / tokens)
            if ends is not None:
                low, high = ends
                row |= beside_first_order("effect", float(found.effects[way, place].sum() / tokens), drawn, cheap)
                row |= {"effect_low": low[number], "effect_high": high[number]}
            row |= beside_null("first_order", cheap, drawn)
            if integrated:
                row |= beside_first_order("integrated", float(integrated[way, place].sum() / tokens), drawn, cheap)
            rows.append(row | {"unpatched": means[way], "total": means[other[way]] - means[way]})
    return pd.DataFrame(rows)


def _ends(way: str, places: Sequence[Place], found: Exchanged) -> tuple[np.ndarray, np.ndarray] | None:
    if not found.effects:
        return None
    return ratio_intervals(np.stack([found.effects[way, place] for place in places]), found.counts)
