"""Where two models part: in the residual stream layer by layer, in the next-token distribution, token by token."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.analysis.inside.distances import cka_distance, procrustes_distance
from mastlens.analysis.inside.looking import Texts, looked_inside
from mastlens.analysis.inside.nulls import beside_null
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.reading import LOGITS, Fork, PairReading, counted_tokens
from mastlens.analysis.inside.settings import InsideDepartSettings
from mastlens.analysis.inside.tally import ALL, BEFORE, Tally
from mastlens.analysis.tokens import token_texts
from mastlens.models.backends.recording import Point
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.calls import takes

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedTokenizerBase

    from mastlens.plots.cards.card import Card

FILE = "inside_depart.parquet"
FORKS = "inside_forks.parquet"
WHOLE = -1
"""The head of a row that is about all heads."""


@dataclass(frozen=True, repr=False)
class Departure(Carded):
    """Where two models part.

    Attributes:
        table: One row a split, point of the model and position; the columns are described at ``inside_depart``.
        forks: One row a text in which the two would have gone on with another token: the first such token.
        settings: What made them.
    """

    table: pd.DataFrame
    forks: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.inside import departure_card

        return departure_card(self.table, self.forks, self.settings)

    def plot(self, measure: str = "difference") -> "go.Figure":
        """Draw a measure of the stream by layer, a line a split, beside what random changes do."""
        from mastlens.plots.departure import plot_departure

        return plot_departure(self.table, measure)


@takes(InsideDepartSettings)
def inside_depart(settings: InsideDepartSettings) -> Departure:
    """Measure how far SFT and RLVR are apart on the same texts, layer by layer, beside random changes of that size.

    Both models read the texts (teacher forcing) with the same tokens; what is compared are the states that each
    solution token is predicted from. Batches are streamed: memory does not grow with the number of texts. Columns:
    ``split``, ``layer``, ``site``, ``head`` (-1), ``position`` (in the solution, from 0; -1 for all tokens),
    ``tokens``; for the stream (``embed``, and ``resid_post`` of each layer), means over tokens:

    - ``difference``: |after - before| / |before|;
    - ``angle_deg``: the angle between the two, in degrees;
    - ``cka_distance``: 1 - linear CKA over 256 tokens of the split, spread evenly (not by position);
    - ``procrustes``: the Procrustes distance of the same tokens, 0 where one is the other turned, moved and scaled;
    - ``lens_kl``: with ``lens``, KL(SFT || RLVR) of what each model's final norm and output embedding make of it;

    and for ``logits``: ``kl`` = KL(SFT || RLVR) of the next-token distributions over the whole vocabulary, ``js``,
    ``entropy_change`` (RLVR minus SFT), all in nats, ``top_differs`` (share of tokens at which another one is the most
    probable). Each measure X has ``X_null`` (what random changes of RLVR's size do, put into the SFT model: see
    ``inside.pair``), ``X_z``, ``X_p``, ``X_judged_by`` and ``X_distinguishable`` (p < 0.001 by the predictive law of
    the draws).

    ``forks``: ``split``, ``item``, ``position``, ``token`` (of the text), ``sft_token`` and ``rlvr_token`` (the most
    probable one of each), each with its probability under both, ``kl`` there with its null, ``entropy_before``.

    Raises:
        MastlensError: If the checkpoints are not one lineage, or cannot read the same texts.
    """

    def look(pair: Pair, texts: Texts) -> tuple[pd.DataFrame, pd.DataFrame]:
        reading = PairReading(pair, lens=settings.lens)
        tokenizer = pair.rlvr.load_tokenizer()
        tables, forks = [], []
        for split, encoded in texts.items():
            tally = Tally(1 + pair.draws, settings.positions, sum(counted_tokens(ids) for ids in encoded))
            label = f"inside depart: {split}" if settings.progress else None
            found = reading.read(encoded, tally, batch_size=settings.batch_size, progress=label)
            tables.append(pd.DataFrame(_rows(split, reading, tally)))
            forks += [_fork_row(split, encoded[item], found[item], tokenizer) for item in sorted(found)]
        return pd.concat(tables, ignore_index=True), pd.DataFrame(forks) if forks else _no_forks()

    files = {"table": FILE, "forks": FORKS}
    return looked_inside(settings, Departure, files, look, lens=settings.lens, positions=settings.positions)


def _rows(split: str, reading: PairReading, tally: Tally) -> list[dict[str, Any]]:
    rows = []
    for point in reading.points:
        name, layer = point
        sampled = {} if point == LOGITS else _sampled(tally, point)
        for row, tokens in enumerate(tally.counts):
            if not tokens:
                continue
            place = {"split": split, "layer": layer, "site": name, "head": WHOLE, "position": row - 1 if row else ALL}
            told: dict[str, Any] = {**place, "tokens": int(tokens)}
            for measure in reading.measures:
                values = [math.nan] * tally.models
                if (measure, point) in tally.sums:
                    values = tally.means(measure, point)[:, row].tolist()
                elif measure in sampled and not row:
                    values = sampled[measure]
                told |= beside_null(measure, values[RLVR], values[1:])
            rows.append(told)
    return rows


def _sampled(tally: Tally, point: Point) -> dict[str, list[float]]:
    """Return what compares all tokens at once, of the sampled ones: measure to its value for each model."""
    before = tally.sampled[BEFORE, point].double()
    measures = {"cka_distance": cka_distance, "procrustes": procrustes_distance}
    return {
        name: [of(before, tally.sampled[model, point].double()) for model in range(tally.models)]
        for name, of in measures.items()
    }


_TOKENS = ("token", "sft_token", "rlvr_token")


def _fork_row(split: str, ids: EncodedProblem, fork: Fork, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    texts = (token_texts(ids.solution, tokenizer)[fork.position], *(_shown(token, tokenizer) for token in fork.tops))
    row: dict[str, Any] = {"split": split, "item": fork.item, "position": fork.position}
    row |= dict(zip(_TOKENS, texts, strict=True))
    for column, of_token in zip(_TOKENS, fork.chances.T.tolist(), strict=True):
        row |= {f"{column}_before": of_token[0], f"{column}_after": of_token[1]}
    return row | {"entropy_before": fork.entropy} | beside_null("kl", fork.kl[RLVR], fork.kl[1:])


def _shown(token: int, tokenizer: "PreTrainedTokenizerBase") -> str:
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))


def _no_forks() -> pd.DataFrame:
    """Return the table of forks without a row, for models that say the same everywhere."""
    places = {"split": "", "item": 0, "position": 0, **dict.fromkeys(_TOKENS, "")}
    chances = {f"{column}_{when}": math.nan for column in _TOKENS for when in ("before", "after")}
    return pd.DataFrame([{**places, **chances, "entropy_before": math.nan, **beside_null("kl", math.nan, [])}])[:0]
