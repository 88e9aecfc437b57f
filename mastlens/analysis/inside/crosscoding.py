"""Features that a pair of models shares or has alone, and which of them RLVR's change is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from mastlens.analysis.inside.crosscoders import Crosscoder, read_crosscoder
from mastlens.analysis.inside.featuring import RATE, SquaredError
from mastlens.analysis.inside.looking import Texts, looked_inside
from mastlens.analysis.inside.nulls import SOURCE, beside_null, beside_nulls
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.settings import InsideCrosscoderSettings
from mastlens.analysis.inside.tally import ALL
from mastlens.errors import NotTogether
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import counted_states
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import Batch, EncodedProblem
from mastlens.runs.calls import takes
from mastlens.statistics import ratio_intervals

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE, FIT = "inside_crosscoder.parquet", "inside_crosscoder_fit.parquet"
_TOKENS = 1024  # that features are computed of at a time


@dataclass(frozen=True, repr=False)
class SharedFeatures(Carded):
    """Features of a crosscoder on a pair of models.

    Attributes:
        table: One row a split and feature that is ever on; the columns are described at ``inside_crosscoder``.
        fit: One row a split: how well the crosscoder fits both models.
        settings: What made them.
    """

    table: pd.DataFrame
    fit: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.inside import crosscoder_card

        return crosscoder_card(self.table, self.fit, self.settings)

    def plot(self, split: str | None = None) -> "go.Figure":
        """Draw how active each feature is by the share that RLVR has in it; the first split by default."""
        from mastlens.plots.crosscoder import plot_crosscoder

        return plot_crosscoder(self.table, split)


@takes(InsideCrosscoderSettings)
def inside_crosscoder(settings: InsideCrosscoderSettings) -> SharedFeatures:
    """Read both models through a crosscoder: which features either has alone, and which RLVR's change makes active.

    The crosscoder was trained on an activation of both models (``inside.crosscoders``). Both read the same texts;
    looked at are the states that each solution token is predicted from. Columns: ``split``, ``layer``, ``site``,
    ``head`` (-1), ``position`` (-1), ``feature``, ``tokens``; ``share``, RLVR's part of the feature: the length of its
    decoder there over that in both models (0: SFT's alone, 1: RLVR's alone), and ``cosine`` of the two;

    - ``active``: mean activation, in units of the states: times the lengths of both decoders, with its 95 % interval
      over texts (``_low``, ``_high``), and ``firing``, the share of tokens at which it is on;
    - both beside the same where RLVR is a random change of its size (``active_null`` ...; ``inside.pair``): what is
      beyond it is made of what RLVR did, and not of any change. With a threshold, the spread of ``active`` allows for a
      token more or less at which a feature is on. ``active_q`` is p adjusted for all features of the
      split (Benjamini-Hochberg), ``_distinguishable`` q <= 0.05.

    ``fit``: ``split``, ``layer``, ``site``, ``tokens``, ``features``, ``alive``, ``fvu_before`` and ``fvu_after``
    (share of the states' variance that is not given back), ``fvu_after`` beside random changes, ``l0``.

    Raises:
        MastlensError: If the checkpoints are not one lineage, or cannot read the same texts; if the crosscoder is none,
            of another width or activation: what it gives back of SFT's states is then worse than their mean.
    """
    crosscoder = read_crosscoder(settings.crosscoder)

    def look(pair: Pair, texts: Texts) -> tuple[pd.DataFrame, pd.DataFrame]:
        reading = _Reading(pair, crosscoder, settings)
        tables, fits = [], []
        for split, encoded in texts.items():
            found = reading.read(encoded, f"inside crosscoder: {split}" if settings.progress else None)
            place = {"split": split, "layer": settings.layer, "site": settings.site}
            fits.append(_fit(place, found, crosscoder))
            tables.append(_table(place, found, crosscoder))
        return pd.concat(tables, ignore_index=True), pd.DataFrame(fits)

    deciding = {"site": settings.site, "layer": settings.layer}
    return looked_inside(settings, SharedFeatures, {"table": FILE, "fit": FIT}, look, **deciding)


@dataclass
class _Found:
    """Sums over tokens.

    Attributes:
        counts: Tokens of each text.
        sums: Summed activation, and tokens at which a feature is on, of RLVR; [2, texts, features], float32.
        totals: The same over all texts, of RLVR and of each random change, [2, 1 + draws, features]. All are added up
            alike: what a change leaves as it is, is equal bit for bit, and no rounding is told as a finding.
        errors: Of SFT, RLVR and each random change.
    """

    counts: np.ndarray
    sums: np.ndarray
    totals: np.ndarray
    errors: list[SquaredError]


class _Reading:
    """Both models and the random changes, read through a crosscoder."""

    def __init__(self, pair: Pair, crosscoder: Crosscoder, settings: InsideCrosscoderSettings):
        self.pair, self.settings, self.crosscoder = pair, settings, crosscoder.to(pair.source.device)
        self.models = HookedModel(pair.source), HookedModel(pair.changed)

    @torch.no_grad()
    def read(self, encoded: Sequence[EncodedProblem], progress: str | None) -> _Found:
        draws, features = self.pair.draws, self.crosscoder.features
        found = _Found(np.zeros(len(encoded), dtype=int), np.zeros((2, len(encoded), features), dtype=np.float32),
                       np.zeros((2, 1 + draws, features)), [SquaredError() for _ in range(2 + draws)])  # fmt: skip
        # Draw by draw: every weight is redrawn once, and SFT's states are computed once more for each.
        for turn in range(1 + draws):
            self.pair.take(turn)
            label = None if progress is None else f"{progress}, pass {turn + 1} of {1 + draws}"
            batches = by_length(self.pair.source, encoded, self.settings.batch_size, label)
            for items, batch in batches:
                with batches.fitting():
                    rows = batch.is_solution[:, 1:].nonzero()[:, 0].cpu()
                    sums, errors = self._sums(self._states(0, batch), self._states(1, batch), rows, len(items))
                    # Noted at the end: a batch that does not fit memory is given again in halves.
                    found.errors[1 + turn].add(errors[1])
                    found.totals[:, turn] += sums.sum(axis=1)
                    if not turn:
                        found.errors[0].add(errors[0])
                        found.sums[:, items] = sums
                        found.counts[items] = np.bincount(rows.numpy(), minlength=len(items))
        self.pair.take(RLVR)
        return found

    def _states(self, which: int, batch: Batch) -> torch.Tensor:
        hooked, site, layer = self.models[which], self.settings.site, self.settings.layer
        with hooked.watch(site, layers=layer) as view:
            counted_states(hooked.model, batch)
        states = view[site, layer][torch.nn.functional.pad(batch.is_solution[:, 1:], (0, 1))].flatten(1)
        if states.shape[1] != self.crosscoder.width:
            raise NotTogether(
                f"{self.crosscoder.path} reads states of {self.crosscoder.width} entries, and {site} of "
                f"{self.pair.sft.spec} has {states.shape[1]}: it is a crosscoder of other models or activations."
            )
        return states

    def _sums(
        self, before: torch.Tensor, after: torch.Tensor, rows: torch.Tensor, texts: int
    ) -> tuple[np.ndarray, list[SquaredError]]:
        sums, errors = torch.zeros(2, texts, self.crosscoder.features), [SquaredError(), SquaredError()]
        for start in range(0, len(before), _TOKENS):
            part = slice(start, start + _TOKENS)
            states = torch.stack([before[part], after[part]]).float()
            features, made = self.crosscoder.read(states)
            sums[0].index_add_(0, rows[part], features.cpu())
            sums[1].index_add_(0, rows[part], (features > 0).float().cpu())
            for error, own, back in zip(errors, states, made, strict=True):
                error.add(SquaredError.of(own, back))
        return sums.numpy(), errors


def _fit(place: dict[str, Any], found: _Found, crosscoder: Crosscoder) -> dict[str, Any]:
    tokens = int(found.counts.sum())
    before, after, *drawn = (error.unexplained(tokens) for error in found.errors)
    if before >= 1:
        raise NotTogether(
            f"{crosscoder.path} is no crosscoder of these states: what it gives back of SFT's {place['site']} in layer "
            f"{place['layer']} on {place['split']} is off by {before:.3g} times their variance, worse than their mean "
            "is. It is of other models or of another activation, or its models come in another order (SFT first)."
        )
    on = found.sums[1].sum(axis=0) / tokens
    row = {**place, "tokens": tokens, "features": crosscoder.features, "alive": int((on > 0).sum())}
    return row | {"fvu_before": before, **beside_null("fvu_after", after, drawn), "l0": float(on.sum())}


def _table(place: dict[str, Any], found: _Found, crosscoder: Crosscoder) -> pd.DataFrame:
    alive = np.flatnonzero(found.sums[1].max(axis=0) > 0)
    tokens, lengths = int(found.counts.sum()), crosscoder.lengths.double().numpy()[:, alive]
    same = {**place, "head": -1, "position": ALL}
    table = pd.DataFrame({**same, "feature": alive, "tokens": tokens}, index=range(len(alive)))
    whole, least = lengths.sum(axis=0), crosscoder.least.double().numpy()[alive]
    one, other = crosscoder.decoder.double().numpy()[:, alive]
    with np.errstate(divide="ignore", invalid="ignore"):
        table["share"] = lengths[1] / whole
        table["cosine"] = (one * other).sum(axis=1) / (lengths[0] * lengths[1])
    for measure, (name, unit) in enumerate((("active", whole), ("firing", np.ones(len(alive))))):
        sums = found.sums[measure][:, alive].astype(np.float64) * unit
        value, *drawn = found.totals[measure][:, alive] * unit / tokens
        # A feature that goes on at one token goes on by its threshold, which no spread of a few draws knows.
        step = least * unit / tokens if name == "active" else np.zeros(len(alive))
        table = table.assign(**_judged(name, value, np.array(drawn), step))
        if name == "active":
            low, high = ratio_intervals(sums.T, found.counts.astype(float))
            table = table.assign(active_low=low, active_high=high)
    return table


def _judged(column: str, value: np.ndarray, drawn: np.ndarray, step: np.ndarray) -> dict[str, Any]:
    mean, z, p = beside_nulls(value, drawn, step)
    known = bool(len(drawn)) and len(value) > 0
    q = stats.false_discovery_control(p, method="bh") if known else p
    found = {"": value, "_null": mean, "_z": z, "_p": p, "_q": q, "_judged_by": SOURCE if len(drawn) else ""}
    return {f"{column}{end}": one for end, one in found.items()} | {f"{column}_distinguishable": q <= RATE}
