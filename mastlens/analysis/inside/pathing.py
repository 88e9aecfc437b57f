"""Which paths between components carry what RLVR changed: activations of SFT and RLVR exchanged along them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.analysis.causal.settings import DIRECTIONS
from mastlens.analysis.inside.looking import Texts, looked_inside
from mastlens.analysis.inside.nulls import beside_null
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.paths import (
    RECEIVERS,
    SENDERS,
    Component,
    check_path,
    path_effects,
    resampled,
    sent,
)
from mastlens.analysis.inside.settings import InsidePathSettings
from mastlens.analysis.inside.tally import ALL
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.calls import takes
from mastlens.statistics import ratio_intervals

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "inside_path.parquet"
Key = tuple[str, Component, Component]
"""Direction, sender and receiver."""


@dataclass(frozen=True, repr=False)
class Paths(Carded):
    """What paths between components carry.

    Attributes:
        table: One row a split, direction, sender and receiver; the columns are described at ``inside_path``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.inside import paths_card

        return paths_card(self.table, self.settings)

    def plot(self, direction: str = "restore", split: str | None = None, top: int = 20) -> "go.Figure":
        """Draw the paths that carry most, with intervals, their null and another text's; the first split by default."""
        from mastlens.plots.paths import plot_paths

        return plot_paths(self.table, direction, split, top)


@takes(InsidePathSettings)
def inside_path(settings: InsidePathSettings) -> Paths:
    """Exchange what one component of SFT and RLVR hands to another, directly, and measure what changes.

    Path patching (``inside.paths``), in both directions of ``inside_patch`` and in its measure. Columns: ``split``,
    ``direction``, ``layer``, ``site`` and ``head`` of the sender, ``position`` (-1), ``tokens``, ``sender`` and
    ``receiver`` as they are typed; ``effect``, log-probability of the solutions in nats a token, with the exchange
    minus without it, with its paired 95 % interval over problems (``_low``, ``_high``), beside the same where RLVR is a
    random change of its size (``effect_null`` ...; ``inside.pair``); ``resampled``, what goes along the path where the
    same model reads another text, with its interval: how much the path can matter at all; ``unpatched``, and ``total``,
    the effect of the whole other model.

    Raises:
        MastlensError: If the checkpoints are not one lineage, cannot read the same texts, or lack a component; if a
            receiver does not stand behind a sender.
    """
    senders = [Component.of(one, SENDERS, "sender") for one in dict.fromkeys(settings.senders)]
    receivers = [Component.of(one, RECEIVERS, "receiver") for one in dict.fromkeys(settings.receivers)]

    def look(pair: Pair, texts: Texts) -> tuple[pd.DataFrame]:
        pathing = _Pathing(pair, senders, receivers, settings)
        tables = []
        for split, encoded in texts.items():
            found = pathing.run(encoded, f"inside path: {split}" if settings.progress else None)
            tables.append(_table(split, found))
        return (pd.concat(tables, ignore_index=True),)

    deciding = {"senders": list(map(str, senders)), "receivers": list(map(str, receivers))}
    return looked_inside(settings, Paths, {"table": FILE}, look, **deciding)


@dataclass
class _Found:
    """What exchanging did, item by item.

    Attributes:
        counts: Solution tokens of each item.
        unpatched: Direction to each solution's summed log-probability.
        effects: The change of these, by path.
        resampled: The same where the sender's activation is that of another text.
        drawn: The sum over items of the change where RLVR is a random change, [draws].
    """

    counts: np.ndarray
    unpatched: dict[str, np.ndarray] = field(default_factory=dict)
    effects: dict[Key, np.ndarray] = field(default_factory=dict)
    resampled: dict[Key, np.ndarray] = field(default_factory=dict)
    drawn: dict[Key, np.ndarray] = field(default_factory=dict)


class _Pathing:
    """Both models and the random changes, with some paths between their components."""

    def __init__(
        self, pair: Pair, senders: Sequence[Component], receivers: Sequence[Component], settings: InsidePathSettings
    ):
        self.pair, self.senders, self.receivers, self.settings = pair, senders, receivers, settings
        self.models = HookedModel(pair.source), HookedModel(pair.changed)
        for sender in senders:
            for receiver in receivers:
                check_path(self.models[0], sender, receiver)

    def run(self, encoded: Sequence[EncodedProblem], progress: str | None) -> _Found:
        found = _Found(np.zeros(len(encoded)))
        batches = by_length(self.pair.source, encoded, self.settings.batch_size, progress)
        for items, batch in batches:
            with batches.fitting():
                sums: dict[Key, list[float]] = {}
                before = sent(self.models[0], batch, self.senders)
                for turn in range(1 + self.pair.draws):
                    self.pair.take(turn)
                    after = sent(self.models[1], batch, self.senders)
                    for way, which, given in ((DIRECTIONS[0], 1, before), (DIRECTIONS[1], 0, after)):
                        base, told = path_effects(self.models[which], batch, given, self.receivers)
                        for path, change in told.items():
                            if turn == RLVR:
                                _note(found.effects, (way, *path), items, change, len(encoded))
                            else:
                                sums.setdefault((way, *path), []).append(float(change.sum()))
                        if turn == RLVR:
                            found.unpatched.setdefault(way, np.zeros(len(encoded)))[items] = base
                            others = resampled(self.models[which], encoded, items, batch, self.senders)
                            _, told = path_effects(self.models[which], batch, others, self.receivers)
                            for path, change in told.items():
                                _note(found.resampled, (way, *path), items, change, len(encoded))
                self.pair.take(RLVR)
                # Noted at the end: a batch that does not fit memory is given again in halves.
                found.counts[items] = batch.is_solution[:, 1:].sum(dim=1).cpu().numpy()
                for key, values in sums.items():
                    found.drawn[key] = found.drawn.get(key, np.zeros(self.pair.draws)) + values
        return found


def _note(into: dict[Key, np.ndarray], key: Key, items: Sequence[int], values: np.ndarray, count: int) -> None:
    into.setdefault(key, np.zeros(count))[items] = values


def _table(split: str, found: _Found) -> pd.DataFrame:
    tokens, keys = found.counts.sum(), list(found.effects)
    means = {way: sums.sum() / tokens for way, sums in found.unpatched.items()}
    other: dict[str, str] = dict(zip(DIRECTIONS, reversed(DIRECTIONS), strict=True))
    low, high = ratio_intervals(np.stack([found.effects[key] for key in keys]), found.counts)
    ends = ratio_intervals(np.stack([found.resampled[key] for key in keys]), found.counts)
    rows = []
    for number, key in enumerate(keys):
        way, sender, receiver = key
        row: dict[str, Any] = {"split": split, "direction": way, "layer": sender.layer, "site": sender.site}
        row |= {"head": sender.head, "position": ALL, "tokens": int(tokens)}
        row |= {"sender": str(sender), "receiver": str(receiver)}
        drawn = (found.drawn[key] / tokens).tolist() if key in found.drawn else []
        row |= beside_null("effect", float(found.effects[key].sum() / tokens), drawn)
        row |= {"effect_low": low[number], "effect_high": high[number]}
        row |= {"resampled": found.resampled[key].sum() / tokens}
        row |= {"resampled_low": ends[0][number], "resampled_high": ends[1][number]}
        rows.append(row | {"unpatched": means[way], "total": means[other[way]] - means[way]})
    return pd.DataFrame(rows)
