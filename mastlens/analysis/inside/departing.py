"""Where two models part: in the residual stream layer by layer, in the next-token distribution, token by token."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from mastlens.analysis.inside.distances import cka_distance, procrustes_distance
from mastlens.analysis.inside.lenses import MODELS, TunedLens, kept_lenses, read_lenses
from mastlens.analysis.inside.looking import Texts, looked_inside
from mastlens.analysis.inside.nulls import beside_null
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.reading import EMBED, ERRORS, LOGITS, WHEN, Fork, PairReading, counted_tokens
from mastlens.analysis.inside.settings import InsideDepartSettings
from mastlens.analysis.inside.tally import ALL, BEFORE, Tally
from mastlens.analysis.inside.tuning import lesson, train_lens
from mastlens.analysis.tokens import token_texts
from mastlens.errors import NotTogether
from mastlens.models.backends.recording import Point
from mastlens.models.hooked import HookedModel
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.calls import takes

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedTokenizerBase

    from mastlens.plots.cards.card import Card

FILE = "inside_depart.parquet"
FORKS = "inside_forks.parquet"
LENSES = "inside_lenses.safetensors"
WHOLE = -1
"""The head of a row that is about all heads."""


@dataclass(frozen=True, repr=False)
class Departure(Carded):
    """Where two models part.

    Attributes:
        table: One row a split, point of the model and position; the columns are described at ``inside_depart``.
        forks: One row a text in which the two would have gone on with another token: the first such token.
        settings: What made them.
        lenses: Tuned lenses that were trained, ``MODEL/LAYER.weight`` and ``MODEL/LAYER.bias`` with MODEL ``sft`` or
            ``rlvr``, float32; ``tuned_lens`` takes the file that they are kept in. Empty where none was.
    """

    table: pd.DataFrame
    forks: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    lenses: Mapping[str, Tensor] = field(default_factory=dict)

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
    - ``tuned_kl``: with ``tuned_lens``, the same behind an affine map of each layer (``inside.lenses``), and
      ``lens_error_before``, ``lens_error_after``, ``tuned_error_before``, ``tuned_error_after``: KL(what SFT, or RLVR,
      says || what the logit lens, or the tuned one, reads off its layer), which has no null. Where lenses are trained
      here (``inside.tuning``), one for SFT, for RLVR and for each random change, on the same tokens, a quarter of each
      split's prompts is held out, and all rows and forks are of these. One lens that is given reads all models alike;
      of two, random changes have none, and ``tuned_kl`` has no verdict;

    and for ``logits``: ``kl`` = KL(SFT || RLVR) of the next-token distributions over the whole vocabulary, ``js``,
    ``entropy_change`` (RLVR minus SFT), all in nats, ``top_differs`` (share of tokens at which another one is the most
    probable). Each measure X has ``X_null`` (what random changes of RLVR's size do, put into the SFT model: see
    ``inside.pair``), ``X_z``, ``X_p``, ``X_judged_by`` and ``X_distinguishable`` (p < 0.001 by the predictive law of
    the draws).

    ``forks``: ``split``, ``item``, ``position``, ``token`` (of the text), ``sft_token`` and ``rlvr_token`` (the most
    probable one of each), each with its probability under both, ``kl`` there with its null, ``entropy_before``.

    Raises:
        MastlensError: If the checkpoints are not one lineage, or cannot read the same texts; if a tuned lens is none,
            or of another model: of another shape, or what it reads off SFT is farther from what SFT says than what the
            logit lens does; if there are too few texts to train one.
    """
    training = settings.tuned_lens is not None and not settings.tuned_lens

    def look(pair: Pair, texts: Texts) -> tuple[Any, ...]:
        reading, held, lenses = _reading(pair, texts, settings)
        tokenizer = pair.rlvr.load_tokenizer()
        tables, forks = [], []
        for split, every in texts.items():
            encoded = [every[item] for item in held[split]]
            tally = Tally(1 + pair.draws, settings.positions, sum(counted_tokens(ids) for ids in encoded))
            label = f"inside depart: {split}" if settings.progress else None
            found = reading.read(encoded, tally, batch_size=settings.batch_size, progress=label)
            tables.append(pd.DataFrame(_rows(split, reading, tally)))
            if settings.tuned_lens:
                _check_lenses(split, tables[-1], reading.tuned)
            places = held[split]
            forks += [_fork_row(split, places[item], encoded[item], found[item], tokenizer) for item in sorted(found)]
        told = pd.concat(tables, ignore_index=True), pd.DataFrame(forks) if forks else _no_forks()
        return (*told, lenses) if training else told

    def kept(table: pd.DataFrame, forks: pd.DataFrame, *rest: Any) -> Departure:
        *lenses, recorded = rest
        return Departure(table, forks, recorded, *lenses)

    files = {"table": FILE, "forks": FORKS, **({"lenses": LENSES} if training else {})}
    deciding = {"lens": settings.lens, "positions": settings.positions}
    if settings.tuned_lens is not None:
        deciding |= {"tuned_lens": "trained" if training else "given"}
    if training:
        deciding |= {"lens_tokens": settings.lens_tokens}
    return looked_inside(settings, kept, files, look, **deciding)


def _reading(
    pair: Pair, texts: Texts, settings: InsideDepartSettings
) -> tuple[PairReading, Mapping[str, Sequence[int]], dict[str, Tensor]]:
    """Return how the pair is read, split to the texts that it is read on, and lenses that were trained for it."""
    every = {split: range(len(encoded)) for split, encoded in texts.items()}
    if settings.tuned_lens is None:
        return PairReading(pair, lens=settings.lens), every, {}
    if settings.tuned_lens:
        given = read_lenses(settings.tuned_lens)
        for lens, checkpoint, model in zip(given, (pair.sft, pair.rlvr), (pair.source, pair.changed), strict=False):
            config = model.config.get_text_config()
            lens.check(config.hidden_size, config.num_hidden_layers, checkpoint.spec)
        tuned = given * (2 + pair.draws) if len(given) == 1 else given
        first = next(ids for encoded in texts.values() for ids in encoded)
        return PairReading(pair, lens=True, tuned=tuned, entering=_enters(pair, first)), every, {}
    taught = lesson(texts, most=settings.lens_tokens, seed=settings.seed)
    models = HookedModel(pair.source), HookedModel(pair.changed)
    told = f"inside depart: lens of {{}} on {taught.tokens} tokens" if settings.progress else None
    given = {"batch_size": settings.batch_size, "seed": settings.seed}
    names = ("SFT", "RLVR", *(f"random change {turn} of {pair.draws}" for turn in range(1, 1 + pair.draws)))
    tuned = []
    for number, name in enumerate(names):
        pair.take(max(number - 1, RLVR))
        tuned.append(train_lens(models[number > 0], taught, name, progress=told and told.format(name), **given))
    pair.take(RLVR)
    kept = kept_lenses(dict(zip(MODELS, tuned, strict=False)))
    return PairReading(pair, lens=True, tuned=tuned), taught.held, kept


@torch.no_grad()
def _enters(pair: Pair, ids: EncodedProblem) -> bool:
    """Return whether the embedding is what enters the first block: positions, a scale or a norm may come between."""
    hooked = HookedModel(pair.source)
    with hooked.watch("embed", "resid_pre") as view:
        view.logits(torch.tensor([ids.prompt + ids.solution], device=pair.source.device))
    return torch.equal(view[EMBED], view["resid_pre", 0])


def _check_lenses(split: str, table: pd.DataFrame, lenses: Sequence[TunedLens]) -> None:
    """Refuse a lens through which its own model is farther from what it says than without: it is another model's."""
    whole = table[(table["position"] == ALL) & table["tuned_error_before"].notna()]
    own = list(zip(WHEN, ("SFT", "RLVR"), lenses, strict=False))
    for when, model, lens in own[: 2 if lenses[1] is not lenses[0] else 1]:  # one lens for all is SFT's
        plain, tuned = (float(whole[f"{error}_{when}"].mean()) for error in ERRORS)
        if tuned > plain:
            raise NotTogether(
                f"{lens.path} is no lens of this {model} model but of {lens.model}: what it reads off the layers on "
                f"{split} is {tuned:.3g} nats from what the model says, mean over layers, and without it {plain:.3g}. "
                "Give a lens of this model, or let one be trained on the texts (--tuned-lens with nothing behind it)."
            )


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
                told |= beside_null(measure, values[RLVR], values[1:] if reading.judged(measure) else [])
            for error in reading.errors:
                known = (error, point) in tally.sums
                told[error] = float(tally.means(error, point)[RLVR, row]) if known else math.nan
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


def _fork_row(
    split: str, item: int, ids: EncodedProblem, fork: Fork, tokenizer: "PreTrainedTokenizerBase"
) -> dict[str, Any]:
    texts = (token_texts(ids.solution, tokenizer)[fork.position], *(_shown(token, tokenizer) for token in fork.tops))
    row: dict[str, Any] = {"split": split, "item": item, "position": fork.position}
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
