"""The unlearning depth score: how much of what the retrained model lacks the edited model lacks too, layer by layer."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import NotTogether
from mastlens.evaluation.depth.patching import PatchedLogprobs, layers_of, patched_logprobs
from mastlens.evaluation.depth.settings import ANSWER, DepthScoreSettings
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import EncodedProblem, check_tokenizer, context_length, encode_problems
from mastlens.problems.reading import Problem, read_problems
from mastlens.problems.thinking import answer_ids
from mastlens.runs.calls import takes
from mastlens.runs.stages import hash_inputs
from mastlens.runs.tables import Kept, remembered_tables
from mastlens.statistics import NONE, mean_interval, ratio_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel

    from mastlens.plots.cards.card import Card

FILE, ITEMS = "depth.parquet", "depth_items.parquet"
ALL = -1
"""The layer of the rows over all layers."""
EDITED, REFERENCE = "edited", "reference"


@dataclass(frozen=True, repr=False)
class Depth(Carded):
    """How deep an edit goes.

    Attributes:
        table: One row a split and layer, and one a split over all layers (layer -1); see ``summarise_depth``.
        items: One row an item and layer, and one an item over all layers (layer -1); see ``depth_items``.
        settings: What made it.
    """

    table: pd.DataFrame
    items: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.depth import depth_card

        return depth_card(self.table, self.settings)

    def plot(self) -> "go.Figure":
        """Draw what each layer's states take away: of the retrained model, and of the edited one."""
        from mastlens.plots.depth import plot_depth

        return plot_depth(self.table)


@takes(DepthScoreSettings)
def depth_score(settings: DepthScoreSettings) -> Depth:
    """Measure how deep an edit goes: the unlearning depth score (Lee, Kim and Jo 2026, arXiv:2605.24614).

    Hidden states of the reference, a model retrained without what was to be forgotten, are put into the source, one
    layer at a time: where the gold solution loses log-probability, that layer of the source encodes what the reference
    lacks. The same with the edited model's states says how much of that it lacks too. 0: nothing, whatever its answers
    say; 1: as much as the retrained model. Both ends are exact: the source's own states give 0, the reference's 1.

    Our reading for worked answers: what the paper calls the entity is the whole worked solution, working and answer,
    because the answer alone is copied from its last step; ``tokens="answer"`` takes the boxed answer straight after the
    prompt, as ``evaluate`` does for ``logprob_answer``. Two things it does not see: a model that lost everything looks
    deep as well (give a retain split beside it, on which the reference lacks nothing), and what an edit changed behind
    the last layer, norm and output embedding, is the source's own here. And it needs a reference that says of the gold
    solution's tokens something else than the source: where RLVR only made likelier what was there, few items are
    encoded anywhere (``encoding``), and of fewer than three there is no score to be told.

    Three models are in memory with ``source``, two with ``edit``. With ``out`` the folder holds ``depth.parquet`` and
    ``depth_items.parquet``.

    Raises:
        MastlensError: If the models differ in layers, width or tokenizer, or a file cannot be read.
    """
    settings.check()
    here = EditedCheckpoint.open(settings.model, settings.edit)
    source = here.checkpoint if settings.source is None else Checkpoint(settings.source)
    reference = Checkpoint(settings.reference)
    for other in (here.checkpoint, reference):
        check_shapes(source, other)
    models = {"source": source, "model": here.checkpoint, "reference": reference}
    computing, asking = settings.computing(*models.values()), settings.asking
    recorded: dict[str, Any] = {**asking.record(), "dtype": computing.dtype, "limit": settings.limit}
    recorded |= {"tokens": settings.tokens, "threshold": settings.threshold}

    def compute() -> Depth:
        tokenizer = source.load_tokenizer()
        loaded = computing.load(source)
        edited: PreTrainedModel = loaded if settings.source is None else computing.load(here.checkpoint)
        donors = {
            REFERENCE: (computing.load(reference), nullcontext),
            EDITED: (edited, partial(here.applied, edited)),
        }
        sizes = {name: len(layers_of(model)) for name, (model, _) in donors.items()} | {
            "source": len(layers_of(loaded))
        }
        if len(set(sizes.values())) > 1:
            raise NotTogether(f"The models have different numbers of layers: {sizes}.")
        tables = []
        for split, path in settings.splits.items():
            problems = read_problems(path, settings.limit)
            check_tokenizer(tokenizer, problems, source.spec)
            encoded = encode_problems(
                problems, tokenizer, context=context_length(loaded.config), chat_template=asking, source=str(path)
            )
            if settings.tokens == ANSWER:
                encoded = answers_alone(problems, encoded, tokenizer)
            label = f"depth on {split}" if settings.progress else None
            found = patched_logprobs(loaded, donors, encoded, batch_size=settings.batch_size, progress=label)
            tables.append(depth_items(found, settings.threshold).assign(split=split))
        items = pd.concat(tables, ignore_index=True)
        items = items[["split", *(column for column in items if column != "split")]]
        return Depth(summarise_depth(items), items, recorded)

    return remembered_tables(
        "depth-score",
        Kept(Depth, {"table": FILE, "items": ITEMS}),
        settings,
        settings=recorded,
        lineage={role: one.fingerprint for role, one in models.items()},
        behaviour={role: one.behaviour for role, one in models.items()},
        inputs={**hash_inputs({f"split {name}": path for name, path in settings.splits.items()}), **here.inputs},
        compute=compute,
    )


def check_shapes(source: Checkpoint, other: Checkpoint) -> None:
    """Raise unless states of one model have a place in the other, before either is loaded."""
    for key, what in (("num_hidden_layers", "layers"), ("hidden_size", "numbers a state")):
        here, there = (_size(one, key) for one in (source, other))
        if here != there:
            raise NotTogether(
                f"{source.spec} has {here} {what} and {other.spec} {there}: the states of one have no place in the "
                "other. A depth score is of models of one architecture and size."
            )
    own, vocabulary = (one.load_tokenizer().get_vocab() for one in (source, other))
    if own != vocabulary:
        raise NotTogether(
            f"{other.spec} has another tokenizer than {source.spec}: their states stand for other tokens. Give models "
            "of one lineage."
        )


def _size(checkpoint: Checkpoint, key: str) -> Any:
    text = checkpoint.config.get("text_config")
    return (text if isinstance(text, dict) and key in text else checkpoint.config).get(key)


def answers_alone(
    problems: Sequence[Problem], encoded: Sequence[EncodedProblem], tokenizer: Any
) -> list[EncodedProblem]:
    """Return prompts with the boxed answer alone behind them."""
    return [
        EncodedProblem(ids.prompt, answer_ids(rf"\boxed{{{one.answer}}}", tokenizer))
        for one, ids in zip(problems, encoded, strict=True)
    ]


def depth_items(found: PatchedLogprobs, threshold: float) -> pd.DataFrame:
    """Return what each layer encodes of each item, and how much of that is erased.

    Args:
        found: What the source says unpatched, and with the states of ``reference`` and ``edited``.
        threshold: Least drop, in nats a token, of a layer that encodes an item.

    Returns:
        One row an item and layer: ``item``, ``layer``, ``tokens`` (counted), ``logprob`` (of the source, mean over
        them, in nats), ``reference_drop`` and ``edited_drop`` (how much lower it is with that layer's states of the
        other model), ``encodes`` (whether the reference's drop is above the threshold), ``erased`` = edited drop /
        reference drop, between 0 and 1, NaN where nothing is encoded. One more an item, layer -1: drops averaged over
        the layers; ``erased`` averaged over the layers that encode it, weighted by the reference's drops: the item's
        depth score.
    """
    base = found.unpatched / found.counts
    drops = {name: base - sums / found.counts for name, sums in found.patched.items()}
    reference, edited = drops[REFERENCE], drops[EDITED]
    encodes = reference > threshold
    with np.errstate(divide="ignore", invalid="ignore"):
        erased = np.where(encodes, np.clip(edited / reference, 0.0, 1.0), np.nan)
        weights = np.where(encodes, reference, 0.0)
        score = np.nansum(weights * np.nan_to_num(erased), axis=0) / weights.sum(axis=0)
    count = len(base)
    rows = [(layer, reference[layer], edited[layer], encodes[layer], erased[layer]) for layer in range(len(reference))]
    rows.append((ALL, reference.mean(axis=0), edited.mean(axis=0), encodes.any(axis=0), score))
    parts = [
        pd.DataFrame(
            {
                "item": np.arange(count),
                "layer": layer,
                "tokens": found.counts.astype(int),
                "logprob": base,
                "reference_drop": lost,
                "edited_drop": lost_too,
                "encodes": holds,
                "erased": share,
            }
        )
        for layer, lost, lost_too, holds, share in rows
    ]
    return pd.concat(parts, ignore_index=True)


def summarise_depth(items: pd.DataFrame) -> pd.DataFrame:
    """Return one row a split and layer, and one a split over all layers (layer -1).

    Args:
        items: As ``depth_items`` returns it, with ``split``.

    Returns:
        ``split``, ``layer``, ``items``, ``encoding`` (items that are encoded there), ``reference_drop`` and
        ``edited_drop`` (means over items, nats a token) with their intervals over items, and ``erased`` with
        ``erased_low`` and ``erased_high``: of a layer, the share of the reference's drop that the edited model has too,
        over the items that it encodes; over all layers, the depth score, the mean of the items'. NaN where no item is
        encoded; intervals lie within 0 and 1, NaN of fewer than three.
    """
    rows = []
    for (split, layer), part in items.groupby(["split", "layer"], sort=False):
        row: dict[str, Any] = {
            "split": split,
            "layer": layer,
            "items": len(part),
            "encoding": int(part["encodes"].sum()),
        }
        for column in ("reference_drop", "edited_drop"):
            ends = mean_interval(part[column])
            row |= {column: float(part[column].mean()), f"{column}_low": ends.low, f"{column}_high": ends.high}
        held = part[part["encodes"]]
        if held.empty:
            share, ends = float("nan"), NONE
        elif layer == ALL:
            share, ends = float(held["erased"].mean()), mean_interval(held["erased"])
        else:
            lost = held["erased"] * held["reference_drop"]
            share = float(lost.sum() / held["reference_drop"].sum())
            ends = ratio_interval(lost, held["reference_drop"])
        low, high = np.clip([ends.low, ends.high], 0.0, 1.0)  # what a share can be; NaN stays
        rows.append({**row, "erased": share, "erased_low": float(low), "erased_high": float(high)})
    return pd.DataFrame(rows)
