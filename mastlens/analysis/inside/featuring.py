"""Features of a dictionary that RLVR raised or lowered, beside exchanged texts and random changes of its size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import special, stats

from mastlens.analysis.inside.dictionaries import Dictionary, read_dictionary
from mastlens.analysis.inside.looking import Texts, looked_inside
from mastlens.analysis.inside.nulls import SOURCE, beside_null, beside_nulls
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.settings import InsideDictionarySettings
from mastlens.analysis.inside.tally import ALL
from mastlens.errors import NotTogether
from mastlens.models.batching import by_length
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import counted_states
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.calls import takes
from mastlens.statistics import ratio_intervals

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE, FIT = "inside_dictionary.parquet", "inside_dictionary_fit.parquet"
RATE = 0.05
"""Share of features called changed that may be so by chance (Benjamini and Hochberg 1995)."""
_MEASURES = ("change", "firing_change")
_TOKENS = 1024  # that features are computed of at a time


@dataclass(frozen=True, repr=False)
class Features(Carded):
    """Features of a dictionary in SFT and in RLVR.

    Attributes:
        table: One row a split and feature that is ever on; the columns are described at ``inside_dictionary``.
        fit: One row a split: how well the dictionary fits both models.
        settings: What made them.
    """

    table: pd.DataFrame
    fit: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.inside import features_card

        return features_card(self.table, self.fit, self.settings)

    def plot(self, split: str | None = None, top: int = 20) -> "go.Figure":
        """Draw the features that changed most, with intervals and their null; the first split by default."""
        from mastlens.plots.features import plot_features

        return plot_features(self.table, split, top)


@takes(InsideDictionarySettings)
def inside_dictionary(settings: InsideDictionarySettings) -> Features:
    """Read both models through a dictionary of features, and say which features RLVR raised or lowered.

    The dictionary is a sparse autoencoder in SAELens' folder format (``inside.dictionaries``), trained on an activation
    of the SFT model, or of one near to it. Both models read the same texts; looked at are the states that each solution
    token is predicted from. Columns: ``split``, ``layer``, ``site``, ``head`` (-1), ``position`` (-1), ``feature``,
    ``tokens``; ``before`` and ``after`` (mean activation in SFT and RLVR), ``firing_before`` and ``firing_after``
    (share of tokens at which it is above 0); ``change`` and ``firing_change``, after minus before, with paired 95 %
    intervals over texts (``_low``, ``_high``) and two nulls, of which the one counts that explains it best: SFT and
    RLVR exchanged text by text (``judged_by`` ``exchanged``), and random changes of RLVR's size (``signs``; ``_null``
    is their mean). ``_q`` is p adjusted for all features of the split (Benjamini-Hochberg), ``_distinguishable``
    q <= 0.05.

    ``fit``: ``split``, ``layer``, ``site``, ``tokens``, ``features``, ``alive`` (ever on), ``fvu_before`` and
    ``fvu_after`` (share of the states' variance that the dictionary does not give back), ``fvu`` (after minus before)
    beside random changes, ``l0_before`` and ``l0_after`` (features on, mean over tokens).

    Raises:
        MastlensError: If the checkpoints are not one lineage, or cannot read the same texts; if the dictionary is none,
            of another activation, width or model: what it gives back of SFT's states is then worse than their mean.
    """
    dictionary = read_dictionary(settings.dictionary, site=settings.site, layer=settings.layer)

    def look(pair: Pair, texts: Texts) -> tuple[pd.DataFrame, pd.DataFrame]:
        reading = _Reading(pair, dictionary)
        tables, fits = [], []
        for split, encoded in texts.items():
            label = f"inside dictionary: {split}" if settings.progress else None
            found = reading.read(encoded, batch_size=settings.batch_size, progress=label)
            place = {"split": split, "layer": dictionary.layer, "site": dictionary.site}
            fits.append(_fit(place, found, dictionary))
            tables.append(_table(place, found))
        return pd.concat(tables, ignore_index=True), pd.DataFrame(fits)

    deciding = {"site": dictionary.site, "layer": dictionary.layer, "trained_on": dictionary.model}
    return looked_inside(settings, Features, {"table": FILE, "fit": FIT}, look, **deciding)


@dataclass
class _Found:
    """Sums over tokens.

    Attributes:
        counts: Tokens of each text.
        sums: Summed activations and numbers of tokens at which a feature is on, [measure, before or after, texts,
            features]; float32.
        drawn: The same over all texts under each random change, [measure, draws, features].
        errors: Summed squared error, summed square and summed state, a row a model (SFT, RLVR, random changes).
    """

    counts: np.ndarray
    sums: np.ndarray
    drawn: np.ndarray
    errors: list["SquaredError"]


@dataclass
class SquaredError:
    """What is not given back of states, added up.

    Attributes:
        squared: Summed squared error.
        square: Summed square of the states.
        state: Summed state.
    """

    squared: float = 0.0
    square: float = 0.0
    state: np.ndarray | float = 0.0

    @classmethod
    def of(cls, states: torch.Tensor, made: torch.Tensor) -> "SquaredError":
        """Return that of some states, from what is made of them."""
        squared = float((states - made).double().square().sum())
        return cls(squared, float(states.double().square().sum()), states.double().sum(dim=0).cpu().numpy())

    def add(self, other: "SquaredError") -> None:
        """Add that of other states."""
        self.squared += other.squared
        self.square += other.square
        self.state = self.state + other.state

    def unexplained(self, tokens: int) -> float:
        """Return the share of the states' variance that is not given back."""
        spread = self.square - float(np.sum(np.square(self.state))) / tokens
        return self.squared / spread if spread > 0 else math.nan


class _Reading:
    """Both models and the random changes, read through a dictionary."""

    def __init__(self, pair: Pair, dictionary: Dictionary):
        self.pair, self.dictionary = pair, dictionary.to(pair.source.device)
        self.models = HookedModel(pair.source), HookedModel(pair.changed)
        self._known = [False, False]

    @torch.no_grad()
    def read(self, encoded: Sequence[EncodedProblem], *, batch_size: int | str, progress: str | None) -> _Found:
        turns, features = 2 + self.pair.draws, self.dictionary.features
        shape = (2, 2, len(encoded), features)
        found = _Found(np.zeros(len(encoded), dtype=int), np.zeros(shape, dtype=np.float32),
                       np.zeros((2, self.pair.draws, features)), [SquaredError() for _ in range(turns)])  # fmt: skip
        for turn in range(turns):
            which, label = min(turn, 1), None if progress is None else f"{progress}, pass {turn + 1} of {turns}"
            if turn:
                self.pair.take(turn - 1)
            hooked = self.models[which]
            batches = by_length(hooked.model, encoded, batch_size, label)
            for items, batch in batches:
                with batches.fitting():
                    site, layer = self.dictionary.site, self.dictionary.layer
                    with hooked.watch(site, layers=layer) as view:
                        _, head = counted_states(hooked.model, batch, known=self._known[which])
                    self._known[which] = head.embedding is not None
                    counted = torch.nn.functional.pad(batch.is_solution[:, 1:], (0, 1))
                    states = view[site, layer][counted].flatten(1)
                    self._check_width(states.shape[1])
                    rows = counted.nonzero()[:, 0].cpu()
                    sums, error = self._sums(states, rows, len(items))
                    # Noted at the end: a batch that does not fit memory is given again in halves.
                    found.errors[turn].add(error)
                    if turn > 1:
                        found.drawn[:, turn - 2] += sums.sum(axis=1)
                    else:
                        found.sums[:, turn, items] = sums
                        found.counts[items] = np.bincount(rows.numpy(), minlength=len(items))
        self.pair.take(RLVR)
        return found

    def _sums(self, states: torch.Tensor, rows: torch.Tensor, texts: int) -> tuple[np.ndarray, SquaredError]:
        sums = torch.zeros(2, texts, self.dictionary.features)
        error = SquaredError()
        for start in range(0, len(states), _TOKENS):
            part, of = states[start : start + _TOKENS].float(), rows[start : start + _TOKENS]
            features, made = self.dictionary.read(part)
            sums[0].index_add_(0, of, features.cpu())
            sums[1].index_add_(0, of, (features > 0).float().cpu())
            error.add(SquaredError.of(part, made))
        return sums.numpy(), error

    def _check_width(self, width: int) -> None:
        if width != self.dictionary.width:
            raise NotTogether(
                f"{self.dictionary.path} reads states of {self.dictionary.width} entries, and {self.dictionary.site} "
                f"of {self.pair.sft.spec} has {width}: it is a dictionary of another model{_named(self.dictionary)}."
            )


def _named(dictionary: Dictionary) -> str:
    return f" ({dictionary.model})" if dictionary.model else ""


def _fit(place: dict[str, Any], found: _Found, dictionary: Dictionary) -> dict[str, Any]:
    tokens = int(found.counts.sum())
    before, after, *drawn = (error.unexplained(tokens) for error in found.errors)
    if before >= 1:
        raise NotTogether(
            f"{dictionary.path}{_named(dictionary)} is no dictionary of these states: what it gives back of "
            f"{place['site']} in layer {place['layer']} on {place['split']} is off by {before:.3g} times their "
            "variance, worse than their mean is. It is of another model or activation, or reads them scaled otherwise."
        )
    on = found.sums[1].sum(axis=1) / tokens  # [before or after, features]
    row = {**place, "tokens": tokens, "features": dictionary.features, "alive": int((on.max(axis=0) > 0).sum())}
    row |= {"fvu_before": before, "fvu_after": after}
    row |= beside_null("fvu", after - before, [one - before for one in drawn])
    return row | {"l0_before": float(on[0].sum()), "l0_after": float(on[1].sum())}


def _table(place: dict[str, Any], found: _Found) -> pd.DataFrame:
    alive = np.flatnonzero(found.sums[1].max(axis=(0, 1)) > 0)
    tokens = int(found.counts.sum())
    same = {**place, "head": -1, "position": ALL}
    table = pd.DataFrame({**same, "feature": alive, "tokens": tokens}, index=range(len(alive)))
    for measure, (name, column) in enumerate(zip(("", "firing_"), _MEASURES, strict=True)):
        sums = found.sums[measure][:, :, alive].astype(np.float64)
        before, after = sums.sum(axis=1) / tokens
        table[f"{name}before"], table[f"{name}after"] = before, after
        drawn = found.drawn[measure][:, alive] / tokens - before
        told = _judged(column, after - before, (sums[1] - sums[0]), drawn)
        low, high = ratio_intervals((sums[1] - sums[0]).T, found.counts.astype(float))
        table = table.assign(**told, **{f"{column}_low": low, f"{column}_high": high})
    return table


def _judged(column: str, change: np.ndarray, by_text: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """Return a measure of all features beside both nulls.

    Exchanging SFT and RLVR in each text leaves a sum of differences d the mean 0 and the spread sqrt(sum of d^2); the
    law is Student's. Of few texts in which a feature differs at all, no exact test gets below 2^(1 - texts).
    """
    if not len(drawn):
        nothing = {f"{column}_{end}": np.nan for end in ("null", "z", "p", "q")}
        return {column: change, **nothing, f"{column}_judged_by": "", f"{column}_distinguishable": False}
    exchanged = exchanged_p(by_text)
    mean, z, signs = beside_nulls(change, drawn)
    p = np.maximum(exchanged, signs)
    q = stats.false_discovery_control(p, method="bh") if len(p) else p
    return {
        column: change,
        f"{column}_null": mean,
        f"{column}_z": z,
        f"{column}_p": p,
        f"{column}_q": q,
        f"{column}_judged_by": np.where(exchanged >= signs, "exchanged", SOURCE),
        f"{column}_distinguishable": q <= RATE,
    }


def exchanged_p(differences: np.ndarray) -> np.ndarray:
    """Return the two-sided p of sums of paired differences whose signs might as well be the other way.

    Args:
        differences: After minus before, [texts, features].
    """
    texts = len(differences)
    square = np.square(differences).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(square > 0, differences.sum(axis=0) ** 2 / square, 0.0)  # at most the number of texts
        student = np.sqrt(share * (texts - 1) / np.maximum(texts - share, 1e-300))
    least = 2.0 ** (1 - (differences != 0).sum(axis=0))
    return np.minimum(1.0, np.maximum(2 * special.stdtr(max(texts - 1, 1), -student), least))
