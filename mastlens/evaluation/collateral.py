"""What an edit does to everything it was not meant to touch: token by token, on neutral text, in its responses."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting, NotTogether
from mastlens.evaluation.comparison import read_responses
from mastlens.evaluation.degeneration import CLASSES, response_faults
from mastlens.evaluation.perplexity import neutral_logprobs, read_texts
from mastlens.evaluation.responses import FILE as RESPONSES
from mastlens.evaluation.settings import CollateralSettings
from mastlens.models.divergence import token_divergence
from mastlens.plots.cards.carded import Carded
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import check_tokenizer, context_length, encode_problems
from mastlens.problems.reading import read_problems
from mastlens.runs.calls import takes
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tables import Kept
from mastlens.statistics import paired_interval, ratio_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.plots.cards.card import Card

FILE = "collateral.parquet"
ITEMS = "collateral_items.parquet"


@dataclass(frozen=True, repr=False)
class Collateral(Carded):
    """What an edit did beside what it was made for.

    Attributes:
        table: One row a measure and split: ``measure``, ``split``, ``items``, ``before``, ``after`` (where the
            measure has them), ``value`` with ``ci_low`` and ``ci_high`` (over items),
            ``unit``. The measures: ``kl``
            (KL(source || edited) in nats a token), ``same_top`` (share of tokens at which both find the same token
            most probable), ``perplexity`` (value: after / before), and differences after - before of
            ``repetition`` (share of repeated 4-grams), ``wrong``, ``no answer`` and ``truncated`` (shares of
            responses).
        items: One row an item that the divergence was taken on: ``split``, ``item``, ``tokens``, ``kl`` (summed, in
            nats), ``same_top`` (number of tokens).
        settings: What made it.
    """

    table: pd.DataFrame
    items: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import collateral_card

        return collateral_card(self.table, self.settings)

    def plot(self) -> "go.Figure":
        """Draw divergence, perplexity and what became of the responses."""
        from mastlens.plots.forgetting import plot_collateral

        return plot_collateral(self.table)


@takes(CollateralSettings)
def measure_collateral(settings: CollateralSettings) -> Collateral:
    """Measure what an edit does to texts that it was not meant to touch.

    With ``before`` and ``after``, repetition and missing answers are compared too. With ``out``, e.g. the edit's
    evaluation folder, it holds ``collateral.parquet`` and ``collateral_items.parquet``.

    Raises:
        MastlensError: If the edit belongs to another checkpoint, only one of before and after is given, or there is
            nothing to measure on.
    """
    splits, before, after = settings.splits, settings.before, settings.after
    if not splits:
        raise BadSetting("There is nothing to measure on: give --split NAME=FILE at least once.")
    if (before is None) != (after is None):
        raise BadSetting("Responses are compared between two evaluations: give both --before and --after.")
    tested = EditedCheckpoint.open(settings.model, settings.edit)
    folders = {"before": before, "after": after}
    inputs = {
        **hash_inputs({**{f"split {name}": path for name, path in splits.items()}, "neutral": settings.neutral}),
        **hash_inputs({side: Path(folder) / RESPONSES for side, folder in folders.items() if folder is not None}),
    }
    computing = settings.computing(tested.checkpoint)
    asking = settings.asking
    recorded = {**asking.record(), "dtype": computing.dtype, "limit": settings.limit}

    def compute() -> Collateral:
        checkpoint, batch_size = tested.checkpoint, settings.batch_size
        loaded, tokenizer = computing.load(checkpoint), checkpoint.load_tokenizer()
        items = _divergence(
            loaded,
            tokenizer,
            checkpoint.spec,
            tested.changes,
            splits,
            chat_template=asking,
            limit=settings.limit,
            batch_size=batch_size,
            progress=settings.progress,
        )
        rows = [row for split in splits for row in _divergence_rows(items[items["split"] == split], split)]
        if settings.neutral is not None:
            texts = read_texts(settings.neutral)[: settings.limit]
            sums, counts = neutral_logprobs(loaded, tokenizer, texts, batch_size=batch_size)
            with tested.applied(loaded):
                moved, _ = neutral_logprobs(loaded, tokenizer, texts, batch_size=batch_size)
            rows.append(_perplexity_row(sums, moved, counts))
        if before is not None and after is not None:
            rows += _fault_rows(read_responses(before), read_responses(after))
        return Collateral(pd.DataFrame(rows), items, recorded)

    kept = Kept(Collateral, {"table": FILE, "items": ITEMS})
    return tested.remembered("measure-collateral", kept, settings, settings=recorded, inputs=inputs, compute=compute)


def _divergence(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    spec: str,
    edited: "Mapping[str, Tensor]",
    splits: Mapping[str, str | os.PathLike[str]],
    *,
    chat_template: Asked,
    limit: int | None,
    batch_size: int | str,
    progress: bool,
) -> pd.DataFrame:
    tables = []
    for split, path in splits.items():
        problems = read_problems(path, limit)
        check_tokenizer(tokenizer, problems, spec)
        encoded = encode_problems(
            problems,
            tokenizer,
            context=context_length(model.config),
            chat_template=chat_template,
            source=str(path),
        )
        found = token_divergence(
            model, edited, encoded, batch_size=batch_size, progress=f"KL on {split}" if progress else None
        )
        found.insert(0, "item", range(len(found)))
        found.insert(0, "split", split)
        tables.append(found)
    return pd.concat(tables, ignore_index=True)


def _divergence_rows(items: pd.DataFrame, split: str) -> list[dict[str, Any]]:
    tokens = items["tokens"].to_numpy(dtype=float)
    rows = []
    for measure, unit in (("kl", "nats per token"), ("same_top", "share of tokens")):
        sums = items[measure].to_numpy(dtype=float)
        interval = ratio_interval(sums, tokens)
        rows.append(
            _row(measure, split, len(items), nan, nan, sums.sum() / tokens.sum(), interval.low, interval.high, unit)
        )
    return rows


def _perplexity_row(before: np.ndarray, after: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    # The logarithm of the ratio is a mean over tokens, so it is what is resampled, by text.
    interval = ratio_interval(before - after, counts)
    old, new = (float(np.exp(-sums.sum() / counts.sum())) for sums in (before, after))
    low, high = float(np.exp(interval.low)), float(np.exp(interval.high))
    return _row("perplexity", "neutral", len(counts), old, new, new / old, low, high, "after / before")


def _fault_rows(before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, Any]]:
    keys = ["split", "item"]
    old, new = (response_faults(table).groupby(keys, sort=False).mean() for table in (before, after))
    if set(old.index) != set(new.index):
        raise NotTogether("The evaluations before and after are of different items. Evaluate both on the same files.")
    new = new.loc[old.index]
    units = {"repetition": "share of 4-grams", **dict.fromkeys(CLASSES[1:], "share of responses")}
    rows = []
    for split in dict.fromkeys(old.index.get_level_values("split")):
        for measure, unit in units.items():
            was, now = (side.loc[[split], measure].to_numpy(dtype=float) for side in (old, new))
            interval = paired_interval(was, now)
            a, b = float(was.mean()), float(now.mean())
            rows.append(_row(measure, str(split), len(was), a, b, b - a, interval.low, interval.high, unit))
    return rows


def _row(
    measure: str,
    split: str,
    items: int,
    before: float,
    after: float,
    value: float,
    low: float,
    high: float,
    unit: str,
) -> dict[str, Any]:
    return {
        "measure": measure,
        "split": split,
        "items": items,
        "before": before,
        "after": after,
        "value": float(value),
        "ci_low": low,
        "ci_high": high,
        "unit": unit,
    }
