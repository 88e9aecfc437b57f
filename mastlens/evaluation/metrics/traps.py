"""What misleads in numbers that were measured, said where it is seen: a holdout of another kind, a reference unlike."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.evaluation.metrics.metric import MembershipMetric, Metric, membership_pairs
from mastlens.statistics import auc_functional, auc_interval

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mastlens.evaluation.metrics.tables import Measured

Notes = dict[tuple[str, str], str]
"""(kind of metric, split) to what is to be known."""
MEMBERSHIP, REFERENCE = "membership", "reference"


def model_shape(model: "PreTrainedModel") -> dict[str, Any]:
    """Return what tells a model of another kind or size, whatever its weights."""
    return {"type": str(model.config.model_type), "parameters": sum(one.numel() for one in model.parameters())}


def holdout_notes(items: pd.DataFrame, splits: Sequence[str]) -> Notes:
    """Return a note for each forget split that the length of an answer alone tells from its holdout.

    What sees nothing but lengths has seen no model: an area of its own beside 0.5 says that the two are not of one
    distribution (blind baselines: Das et al. 2024, arXiv:2406.16201).
    """
    notes: Notes = {}
    for pair in membership_pairs(splits):
        area = auc_functional(*(items.loc[items["split"] == one, "tokens"].to_numpy(float) for one in pair), names=pair)
        interval = auc_interval(area)
        if not interval.low <= 0.5 <= interval.high:
            told = f"the length of an answer alone has an area of {area.value:.2f}: this holdout is of another kind"
            notes[MEMBERSHIP, " / ".join(pair)] = told
    return notes


def reference_notes(items: pd.DataFrame, reference: "Measured | None", shape: Mapping[str, Any]) -> Notes:
    """Return a note for each split whose reference is this model itself, or a model of another kind or size.

    Args:
        items: Items of this model, with their losses.
        reference: What was measured of the reference.
        shape: What this model is (``model_shape``).
    """
    if reference is None:
        return {}
    told, theirs = "", dict(reference.model)
    if theirs and theirs != dict(shape):
        sides = (f"{one['type']}, {one['parameters']:,} parameters" for one in (theirs, shape))
        told = "the reference is another kind of model ({}; this one is {})".format(*sides)
    both = items.merge(reference.items, on=["split", "item"], suffixes=("", "_theirs"))
    notes: Notes = {}
    for split, rows in both.groupby("split", sort=False):
        same = np.array_equal(rows["loss"], rows["loss_theirs"])
        said = "the reference has this model's own losses: it is the same model" if same else told
        if said:
            notes[REFERENCE, str(split)] = said
    return notes


def note_of(metric: Metric, split: str, notes: Mapping[tuple[str, str], str]) -> list[str]:
    """Return what of these notes a metric's number of a split is misled by."""
    kinds = [MEMBERSHIP] * isinstance(metric, MembershipMetric) + [REFERENCE] * bool(metric.of_reference)
    return [
        notes[kind, part]
        for kind in kinds
        for part in dict.fromkeys([split, *split.split(" / ")])
        if (kind, part) in notes
    ]
