"""What is measured on one model: every patch, on both sides, read once."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from mastlens.analysis.causal.first_order import first_order, first_order_over_ranks
from mastlens.analysis.causal.patching import (
    Patch,
    ProblemSet,
    Readings,
    greedy_correct,
    located,
    parameter_groups,
    patched_tensors,
    read_patched,
    read_sides,
    stored_tensors,
)
from mastlens.architectures.placement import locate_tensors
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.decoding.engines import Decoding
from mastlens.decoding.graders import Grader
from mastlens.errors import unknown
from mastlens.models.gradients import measure_gradients
from mastlens.models.sharding import Spread, load_sharded, other_rows, rows_swapped, settle
from mastlens.models.weights import stored_parameters, swapped
from mastlens.problems.asking import Asked
from mastlens.runs.ranks import Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Measured:
    """What was measured on one model: per side the readings, per patch sizes and predictions."""

    patches: Sequence[Patch]
    readings: Mapping[str, Readings]
    predictions: Mapping[str, pd.DataFrame]
    correct: Mapping[str, np.ndarray]  # one row a patch, after that of the unpatched model
    groups: Mapping[str, Mapping[str, Readings]]  # group, side; as the unpatched ones of a model of its own


def measure_patches(
    own: Checkpoint,
    other: Checkpoint,
    *,
    files: "Mapping[str, str | os.PathLike[str] | None]",
    patches: Sequence[Patch],
    grader: Grader | None,
    max_new_tokens: int,
    limit: int | None,
    batch_size: int | str,
    chat_template: Asked,
    computing: Computing,
    progress: str | None,
    ranks: Ranks | None,
) -> Measured:
    """Patch the checkpoint ``own`` with the weights of ``other``."""
    matrices = [patch.projection for patch in patches]
    stored = [matrix.stored for matrix in matrices]
    model = computing.load(own) if ranks is None else load_sharded(own, computing, ranks, stored)
    tokenizer = own.load_tokenizer()
    taken = stored_tensors(other, model, matrices)
    sides = read_sides(own, model, tokenizer, files, limit=limit, chat_template=chat_template)
    readings, predictions, correct, groups = {}, {}, {}, {}
    for side, problems in sides.items():
        label = f"{progress}: {side}" if progress else None
        readings[side] = read_patched(
            model,
            problems.encoded,
            [[patch] for patch in patches],
            taken,
            batch_size=batch_size,
            progress=label,
        )
        if patches:
            places = located(taken, model)
            found = measure_gradients(
                model,
                problems.encoded,
                list(places.values()),
                batch_size=batch_size,
                progress=f"{label}, gradient" if label else None,
            ).mean
            gradients = {name: found[place] for name, place in places.items()}
            old = stored_tensors(own, model, matrices)
            if ranks is None:
                whole = {name: held for name, held in gradients.items() if isinstance(held, Tensor)}
                predictions[side] = first_order(patches, whole, old, taken)
            else:
                spread = {name: held for name, held in gradients.items() if isinstance(held, Spread)}
                predictions[side] = first_order_over_ranks(model, patches, spread, old, taken, ranks)
        if grader is not None:
            decoding = Decoding(max_new_tokens, batch_size)
            correct[side] = _responses(model, tokenizer, problems, patches, taken, decoding, grader, label)
    for group, names in _group_tensors(model, own, other, patches).items():
        with (
            swapped(model, {name: other.tensor(name) for name in names})
            if ranks is None
            else rows_swapped(model, other_rows(other, model, names))
        ):
            groups[group] = {
                side: read_patched(model, problems.encoded, [], {}, batch_size=batch_size)
                for side, problems in sides.items()
            }
    return Measured(patches, readings, predictions, correct, groups)


def _group_tensors(
    model: "PreTrainedModel", own: Checkpoint, other: Checkpoint, patches: Sequence[Patch]
) -> dict[str, list[str]]:
    """Return group to the names of the other checkpoint's tensors that are the group's parameters.

    Raises:
        MastlensError: If the other checkpoint has no tensor for a parameter.
    """
    if not patches:
        return {}
    settle(model)
    projections = list(dict.fromkeys(patch.projection for patch in patches))
    groups = {"projections": list(located((projection.stored for projection in projections), model).values())}
    groups |= parameter_groups(model, own.projections)
    sources: dict[str, list[str]] = {}  # one tensor, or all that transformers puts into a stack
    shapes = {name: tuple(value.shape) for name, value in stored_parameters(model).items()}
    for name, place in locate_tensors(other.tensors, shapes).items():
        sources.setdefault(place.parameter, []).append(name)
    for names in groups.values():
        if lost := [name for name in names if name not in sources]:
            raise unknown(f"tensor in {other.spec} for the model's parameter", lost[0], other.tensors)
    return {group: [name for parameter in names for name in sources[parameter]] for group, names in groups.items()}


def _responses(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    problems: ProblemSet,
    patches: Sequence[Patch],
    taken: Mapping[str, Tensor],
    decoding: Decoding,
    grader: Grader,
    label: str | None,
) -> np.ndarray:
    places = located(taken, model)
    own = {name: model.get_parameter(place) for name, place in places.items()}
    rows = []
    for patch in tqdm([None, *patches], desc=f"{label}, responses", disable=label is None, unit="patch"):
        tensors = patched_tensors([] if patch is None else [patch], own, taken)
        with swapped(model, {places[name]: tensor for name, tensor in tensors.items()}):
            rows.append(greedy_correct(model, tokenizer, problems, decoding, grader))
    return np.stack(rows)
