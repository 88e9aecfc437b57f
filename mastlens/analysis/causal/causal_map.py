"""Causal map: what one projection's weights do, shown by putting back those of the checkpoint before or after."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mastlens.analysis.causal.patching import (
    WHOLE,
    Patch,
    ProblemSet,
    Readings,
    greedy_correct,
    located,
    parameter_groups,
    patched_tensors,
    patches_of,
    read_patched,
    read_sides,
    stored_tensors,
    weight_rows,
)
from mastlens.analysis.causal.settings import DIRECTIONS, CausalMapSettings
from mastlens.architectures.placement import Place, locate_tensors
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.checkpoints.lineage import Lineage
from mastlens.decoding.engines import Decoding
from mastlens.decoding.graders import Grader, find_grader
from mastlens.decoding.graders import recorded as recorded_grader
from mastlens.errors import NotFound, NotSupported, NotTogether, unknown
from mastlens.models.gradients import measure_gradients
from mastlens.models.parts import local_part
from mastlens.models.sharding import Spread, load_sharded, other_rows, rows_swapped, settle
from mastlens.models.weights import stored_parameters, swapped
from mastlens.plots.cards.carded import Carded
from mastlens.problems.asking import Asked
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table
from mastlens.runs.ranks import Ranks, ahead, ranks_for, remembered
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs
from mastlens.statistics import ratio_intervals, spearman

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.plots.cards.card import Card

FILE = "causal_map.parquet"
GROUPS = "causal_groups.parquet"


@dataclass(frozen=True, repr=False)
class CausalMap(Carded):
    """The effect of every projection's weights, measured and predicted.

    Attributes:
        table: One row a direction, projection and head; the columns are described at ``causal_map``.
        groups: One row a direction and group of parameters, all of them put in together: what attention as a whole
            does, beside the rest of the model.
        settings: What made it.
    """

    table: pd.DataFrame
    groups: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import causal_card

        return causal_card(self.table, self.groups, self.settings)

    @property
    def correlation(self) -> pd.DataFrame:
        """Rank correlation of measured effect and first-order prediction, one row a direction, part and side.

        Columns: ``direction``, ``part`` (``projection`` or ``head``), ``side``, ``n``, ``spearman``, ``p_value``
        (permutation), ``sign_agreement`` (share of parts in which both have the same sign).
        """
        rows = []
        for direction in self.table["direction"].unique():
            for part in ("projection", "head"):
                for side in ("forget", "retain"):
                    chosen = _chosen(self.table, direction, part)
                    if f"{side}_effect" not in chosen or len(chosen) < 2:
                        continue
                    effect = chosen[f"{side}_effect"].to_numpy()
                    predicted = chosen[f"{side}_first_order"].to_numpy()
                    rows.append(
                        {
                            "direction": direction,
                            "part": part,
                            "side": side,
                            **spearman(effect, predicted),
                            "sign_agreement": float(np.mean(np.sign(effect) == np.sign(predicted))),
                        }
                    )
        return pd.DataFrame(rows)

    def plot(self, direction: str = "restore", *, heads: bool = False) -> "go.Figure":
        """Draw the effects of one direction by layer and projection (or head), forget and retain in equal colours."""
        from mastlens.plots.causal import plot_causal_map

        return plot_causal_map(self.table, direction=direction, heads=heads)

    def plot_groups(self, direction: str = "restore") -> "go.Figure":
        """Draw what attention does as a whole, beside the rest of the model."""
        from mastlens.plots.causal import plot_causal_groups

        return plot_causal_groups(self.groups, direction=direction)

    def plot_first_order(self, direction: str = "restore") -> "go.Figure":
        """Draw the measured effects against their first-order prediction."""
        from mastlens.plots.causal import plot_first_order

        return plot_first_order(self.table, direction=direction)


@takes(CausalMapSettings)
def causal_map(settings: CausalMapSettings) -> CausalMap:
    """Put each projection's weights of one checkpoint into the other, one at a time, and measure what changes.

    Layers below the patched one are not run again. Columns: ``direction`` (``restore``: the SFT weights in the RLVR
    model; ``insert``: the RLVR weights in the SFT model), ``layer``, ``projection``, ``name``, ``head`` (from 0; -1 is
    the whole projection; of k and v a head is a group), ``delta_norm`` (Frobenius norm of what changed), and for each
    side, here ``forget``:

    - ``forget_effect``: log-probability with the patch minus without it, summed over all solution tokens and
      divided by their count; nats per token; ``forget_effect_low`` and ``forget_effect_high``: its paired 95 %
      interval over problems;
    - ``forget_first_order``: the same change as the gradient at the unpatched model predicts it;
    - ``forget_null_sd``: standard deviation of that prediction for a change of the same size in a random direction,
      |gradient| |change| / sqrt(entries): an effect within two of them is one that any change could have;
    - ``forget_exact_change``: change of the share of problems whose every solution token is the most probable one
      after the reference solution so far (teacher forcing), so that greedy decoding would write exactly it;
    - ``forget_unpatched`` (log-probability a token without a patch) and ``forget_total`` (effect of putting in all
      weights of the other checkpoint, not only attention's);
    - with ``accuracy``, ``forget_accuracy_change``: change of the share of right greedy responses, with its
      interval ``_low`` and ``_high``. This generates anew for every patch, which takes long.

    A map of attention says nothing of what lies outside it. So ``groups`` has the same columns, as far as they apply,
    for whole groups of parameters put in together: ``group`` is ``projections`` (the matrices of the map),
    ``attention`` (these with biases and norms of heads), ``mlp``, ``embeddings``, ``norms``, or ``all``.
    """
    ranks = ranks_for(settings.device)
    if ranks is not None and settings.accuracy:
        raise NotSupported("Over ranks nothing is generated: leave --accuracy out, or run it without torchrun.")
    lineage = Lineage.open(settings.rlvr, sft=settings.sft)
    before, after = lineage.increments["rlvr"]
    computing = settings.computing(before, after)
    chosen = after.projections if settings.where is None else after.matrices(settings.where)
    grader = find_grader(settings.grader) if settings.accuracy else None
    asking = settings.asking
    recorded = {
        "dtype": computing.dtype,
        "where": settings.where,
        "heads": settings.heads,
        "both_directions": settings.both_directions,
        "accuracy": settings.accuracy,
        "limit": settings.limit,
        "seed": settings.seed,
        **asking.record(),
        **({} if grader is None else {"max_new_tokens": settings.max_new_tokens, **recorded_grader(grader)}),
    }

    def compute() -> CausalMap:
        found = {
            direction: _measure(
                *pair,
                files={"forget": settings.forget, "retain": settings.retain},
                patches=patches_of(chosen, heads=settings.heads) if direction in wanted else [],
                grader=grader if direction in wanted else None,
                max_new_tokens=settings.max_new_tokens,
                limit=settings.limit,
                batch_size=settings.batch_size,
                chat_template=asking,
                computing=computing,
                progress=direction if settings.progress else None,
                ranks=ranks,
            )
            for direction, pair in {"restore": (after, before), "insert": (before, after)}.items()
        }
        tables = [
            _table(direction, found[direction], opposite)
            for direction, opposite in (("restore", found["insert"]), ("insert", found["restore"]))
            if direction in wanted
        ]
        groups = [
            _groups(direction, found[direction], opposite)
            for direction, opposite in (("restore", found["insert"]), ("insert", found["restore"]))
            if direction in wanted
        ]
        return CausalMap(pd.concat(tables, ignore_index=True), pd.concat(groups, ignore_index=True), recorded)

    def write(result: CausalMap, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        write_table(folder / GROUPS, result.groups)

    wanted = DIRECTIONS if settings.both_directions else DIRECTIONS[:1]
    with ahead(ranks):
        fingerprints = lineage.fingerprints
    return remembered(
        ranks,
        settings.out,
        "causal-map",
        outputs=[FILE, GROUPS],
        lineage=fingerprints,
        behaviour=lineage.behaviour(),
        inputs=hash_inputs({"forget": settings.forget, "retain": settings.retain}),
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=lambda folder: CausalMap(read_table(folder / FILE), read_table(folder / GROUPS), recorded),
    )


@dataclass(frozen=True)
class _Measured:
    """What was measured on one model: per side the readings, per patch sizes and predictions."""

    patches: Sequence[Patch]
    readings: Mapping[str, Readings]
    predictions: Mapping[str, pd.DataFrame]
    correct: Mapping[str, np.ndarray]  # one row a patch, after that of the unpatched model
    groups: Mapping[str, Mapping[str, Readings]]  # group, side; as the unpatched ones of a model of its own


def _measure(
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
) -> _Measured:
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
                predictions[side] = _first_order_over_ranks(model, patches, spread, old, taken, ranks)
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
    return _Measured(patches, readings, predictions, correct, groups)


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


def first_order(
    patches: Sequence[Patch],
    gradients: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
) -> pd.DataFrame:
    """Return each patch's effect on the mean log-probability as the gradient predicts it, in float64.

    Args:
        patches: What is taken from the other model.
        gradients: Name of stored tensor to the gradient of the mean negative log-likelihood.
        own: Name to stored tensor of the patched model.
        other: Name to stored tensor of the other one.

    Returns:
        One row a patch: ``first_order``, ``null_sd`` (of a change of that size in a random direction), ``delta_norm``.
    """
    rows = []
    for patch in patches:
        name = patch.projection.stored
        slope, old, new = (patch.part(tensors[name].cpu()) for tensors in (gradients, own, other))
        # The increment in float32, as everywhere; sums over it in float64.
        change = (new.float() - old.float()).double()
        size, steepness = (float(torch.linalg.vector_norm(t.double())) for t in (change, slope))
        rows.append(
            {
                "first_order": -float((slope.double() * change).sum()),
                "null_sd": size * steepness / change.numel() ** 0.5,
                "delta_norm": size,
            }
        )
    return pd.DataFrame(rows)


def _first_order_over_ranks(
    model: "PreTrainedModel",
    patches: Sequence[Patch],
    gradients: Mapping[str, Spread],
    own: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    ranks: Ranks,
) -> pd.DataFrame:
    """Return what ``first_order`` does: each rank with its rows, and one sum over all."""
    here = weight_rows(model, own)
    sums = np.zeros((len(patches), 4))
    for row, patch in enumerate(patches):
        name = patch.projection.stored
        part = local_part(here[name], Place(name), patch.layout)
        tensors = (gradients[name].stored, own[name], other[name])
        slope, old, new = (part.read(tensor).cpu() for tensor in tensors)
        change = (new.float() - old.float()).double()
        sums[row] = (
            (slope.double() * change).sum(),
            change.square().sum(),
            slope.double().square().sum(),
            change.numel(),
        )
    inner, size, steepness, entries = ranks.summed(sums).T
    return pd.DataFrame(
        {"first_order": -inner, "null_sd": (size * steepness / entries) ** 0.5, "delta_norm": size**0.5}
    )


def _table(direction: str, measured: _Measured, opposite: _Measured) -> pd.DataFrame:
    first = next(iter(measured.predictions.values()))
    table = pd.DataFrame(
        {
            "direction": direction,
            "layer": [patch.projection.layer for patch in measured.patches],
            "projection": [patch.projection.projection for patch in measured.patches],
            "name": [patch.projection.name for patch in measured.patches],
            "head": [patch.head for patch in measured.patches],
            "delta_norm": first["delta_norm"],
        }
    )
    for side, readings in measured.readings.items():
        columns = _effects(side, readings)
        prediction = {f"{side}_{column}": measured.predictions[side][column] for column in ("first_order", "null_sd")}
        table = table.assign(**columns, **prediction, **_baseline(side, readings, opposite))
        if side in measured.correct:
            changes = measured.correct[side][1:] - measured.correct[side][0]
            low, high = ratio_intervals(changes, np.ones(changes.shape[1]))
            table[f"{side}_accuracy_change"] = changes.mean(axis=1)
            table[f"{side}_accuracy_change_low"], table[f"{side}_accuracy_change_high"] = low, high
    return table


def _groups(direction: str, measured: _Measured, opposite: _Measured) -> pd.DataFrame:
    table = pd.DataFrame({"direction": direction, "group": [*measured.groups, "all"]})
    for side, alone in measured.readings.items():
        with_group = [*(found[side] for found in measured.groups.values()), opposite.readings[side]]
        readings = Readings(
            unpatched=alone.unpatched,
            patched=np.stack([found.unpatched for found in with_group]),
            exact=alone.exact,
            patched_exact=np.stack([found.exact for found in with_group]),
            counts=alone.counts,
        )
        columns = _effects(side, readings)
        table = table.assign(**columns, **_baseline(side, alone, opposite))
    return table


def _effects(side: str, readings: Readings) -> dict[str, np.ndarray]:
    low, high = ratio_intervals(readings.differences, readings.counts)
    return {
        f"{side}_effect": readings.differences.sum(axis=1) / readings.counts.sum(),
        f"{side}_effect_low": low,
        f"{side}_effect_high": high,
        f"{side}_exact_change": (readings.patched_exact - readings.exact).mean(axis=1),
    }


def _baseline(side: str, readings: Readings, opposite: _Measured) -> dict[str, float]:
    tokens = readings.counts.sum()
    return {
        f"{side}_unpatched": float(readings.unpatched.sum() / tokens),
        f"{side}_total": float((opposite.readings[side].unpatched - readings.unpatched).sum() / tokens),
    }


def _chosen(table: pd.DataFrame, direction: str, part: str) -> pd.DataFrame:
    whole = table["head"] == WHOLE
    return table[(table["direction"] == direction) & (whole if part == "projection" else ~whole)]


def rank_agreement(
    causal: pd.DataFrame,
    scores: "pd.DataFrame | Mapping[str, float]",
    *,
    direction: str = "restore",
    effect: str = "forget_effect",
    absolute: bool = True,
    seed: int = 0,
) -> dict[str, int | float]:
    """Return how far a score puts the projections in the order of their measured effects.

    Args:
        causal: ``causal_map.parquet``; its rows of whole projections are used.
        scores: Name to score; or a table with ``name`` and ``score``, such as ``ranking.parquet``.
        direction: ``restore`` or ``insert``.
        effect: The column to compare with.
        absolute: Whether the size of the effect counts and not its sign; a score says how much, not which way.
        seed: Of the permutations.

    Returns:
        ``n``, ``spearman`` and its two-sided permutation ``p_value``.

    Raises:
        MastlensError: If a score is missing, or the column or direction is not there.
    """
    if direction not in DIRECTIONS:
        raise unknown("direction", direction, DIRECTIONS)
    if effect not in causal:
        raise unknown("column in the causal map", effect, [str(column) for column in causal.columns])
    if isinstance(scores, pd.DataFrame):
        scores = dict(zip(scores["name"], scores["score"], strict=True))
    rows = _chosen(causal, direction, "projection")
    if rows.empty:
        raise NotFound(f"The causal map has no rows of the direction '{direction}'.")
    if missing := [name for name in rows["name"] if name not in scores]:
        raise NotTogether(
            f"There is no score for {missing[0]} ({len(missing)} of {len(rows)} are missing). Causal map and "
            "scores must be about the same model."
        )
    effects = rows[effect].to_numpy()
    return spearman(np.abs(effects) if absolute else effects, np.array([scores[n] for n in rows["name"]]), seed=seed)
