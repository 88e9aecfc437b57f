"""How a run develops: what its updates say of every tensor, and of every attention projection step by step."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mastlens.analysis.increments.energy import energy_nulls, off_principal
from mastlens.analysis.increments.precision import precision_floor, rounding_variance
from mastlens.analysis.increments.spectra import stable_rank_null
from mastlens.analysis.increments.subspaces import principal_subspaces
from mastlens.analysis.trajectories.noise import MEASURES, PathLaw, judge_path, path_laws
from mastlens.analysis.trajectories.relex import combination_error, fit_rank1, increment_cosine
from mastlens.analysis.trajectories.steps import Steps, inner_products
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.checkpoint import Checkpoint

_SHARE_TOLERANCE = 1e-3  # sine of the angle to the first singular vector: the share is right to 1e-6


def measure_run(
    run: Steps, held: Checkpoint, *, rank: int, progress: bool, grams: dict[str, np.ndarray]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of ``trajectory``: one row a tensor, and one row a step and attention projection.

    Args:
        run: The run.
        held: The checkpoint whose principal subspaces the geometry is held against.
        rank: k of these.
        progress: Show a progress bar.
        grams: Filled with the Gram matrix of every tensor, which predictions need again.
    """
    attention: dict[str, list[Projection]] = {}
    for projection in run.last.projections:
        attention.setdefault(projection.stored, []).append(projection)
    laws = path_laws(run.numbers, run.start_number, run.fitted)
    chance: dict[str, float] = {"explained_variance_noise": 1 / run.fitted}
    for law in laws:
        chance |= {
            f"explained_variance_{law.source}": law.expected.explained_variance,
            f"linearity_{law.source}": law.expected.linearity,
            f"last_error_{law.source}": law.expected.prediction_error,
            f"increment_cosine_{law.source}": law.expected.increment_cosine,
        }
    rows: list[dict[str, Any]] = []
    developing: list[dict[str, Any]] = []
    for name in tqdm(run.names, desc="trajectory", unit="tensor", disable=not progress):
        grams[name] = run.gram(name)
        inside = attention.get(name, [])
        if [projection.name for projection in inside] != [name]:  # also of a tensor that holds several projections
            before, update = run.start.tensor(name), None
            if before.dim() == 2:
                update = run.last.tensor(name).float() - before.float()
            described = {"name": name, "layer": _layer(name), "projection": "", "numel": before.numel()}
            after = run.last.tensor(name)
            rows.append({**described, **_describe(run, grams[name], before, after, update, laws), **chance})
        for projection in inside:
            gram = grams[name] if projection.name == name else None
            row, steps = _measure_projection(run, held, projection, gram, laws, rank)
            rows.append({**row, **chance})
            developing += steps
    columns = ["name", "layer", "projection", "numel", "steps", "fitted"]
    columns += ["delta_norm", "relative_norm", "precision_floor", "note"]
    nulls = ("walk", "adamw", "p", "judged_by", "distinguishable")
    beside = {"explained_variance": ("noise", *nulls), "last_error": ("stay", *nulls)}
    for measure in MEASURES:
        columns += ["slope", "intercept"] if measure == "linearity" else []
        columns += [measure, *(f"{measure}_{end}" for end in beside.get(measure, nulls))]
    columns += ["matrix_rank_1", "matrix_rank_1_null"]
    return pd.DataFrame(rows)[columns], pd.DataFrame(developing)


def _measure_projection(
    run: Steps, held: Checkpoint, projection: Projection, gram: np.ndarray | None, laws: Sequence[PathLaw], rank: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    before = run.start.matrix(projection)
    described = {"name": projection.name, "layer": projection.layer, "projection": projection.projection}
    if gram is None:  # a slice of a tensor that holds several projections: its own direction, its own line
        gram = inner_products(torch.stack([update.reshape(-1) for update in _updates(run, projection, before)]))
    subspaces = principal_subspaces(held.matrix(projection), rank)
    off, last = [], before
    for last in _updates(run, projection, before):
        off.append(off_principal(last, subspaces.left, subspaces.right))
    weight = _norm(before)
    model = fit_rank1(gram, run.numbers, run.fitted)
    norms = np.sqrt(np.diagonal(gram))
    steps = [
        {
            **described,
            "step": number,
            "fitted": t < run.fitted,
            "coefficient": float(model.coefficients[t]),
            "line": model.coefficient(number),
            "walk": float(laws[0].expected.coefficients[t] * model.coefficients[run.fitted - 1]),
            "delta_norm": float(norms[t]),
            "relative_norm": float(norms[t]) / weight if weight else float("nan"),
            "off_principal": off[t] if norms[t] else float("nan"),
            "off_principal_null": energy_nulls(projection.rows, projection.cols, rank)["joint"].mean,
            "rank": rank,
        }
        for t, number in enumerate(run.numbers)
    ]
    after = run.last.matrix(projection)
    return {**described, "numel": projection.numel, **_describe(run, gram, before, after, last, laws)}, steps


def _updates(run: Steps, projection: Projection, before: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield theta_t - theta_0 of one projection, float32, one step in memory."""
    for checkpoint in run.checkpoints:
        yield checkpoint.matrix(projection).float() - before.float()


def _describe(
    run: Steps,
    gram: np.ndarray,
    before: torch.Tensor,
    after: torch.Tensor,
    update: torch.Tensor | None,
    laws: Sequence[PathLaw],
) -> dict[str, Any]:
    """Return the columns that do not depend on where the tensor stands."""
    model, last = fit_rank1(gram, run.numbers, run.fitted), len(run.numbers) - 1
    norm, weight = float(np.sqrt(gram[-1, -1])), _norm(before)
    variance = sum(rounding_variance(tensor.reshape(1, -1)) for tensor in (before, after))
    floor = precision_floor(variance, 1, before.numel())
    note = floor.note(norm)
    stay = np.eye(run.fitted)[-1] if run.fitted <= last else np.full(run.fitted, np.nan)
    share, null = float("nan"), float("nan")
    if update is not None:
        null = min(1.0, 1 / stable_rank_null(*update.shape).mean) if min(update.shape) > 1 else 1.0
        if norm > 0:
            top = principal_subspaces(update, 1, tolerance=_SHARE_TOLERANCE).singular_values[0]
            share = min(1.0, float(top) ** 2 / norm**2)
    measured = {
        "explained_variance": model.explained_variance,
        "linearity": model.linearity,
        "last_error": combination_error(gram, model.extrapolation(run.numbers[-1]), last),
        "increment_cosine": increment_cosine(gram),
    }
    row: dict[str, Any] = {
        "steps": len(run.numbers),
        "fitted": run.fitted,
        "delta_norm": norm,
        "relative_norm": norm / weight if weight else float("nan"),
        "precision_floor": floor.norm,
        "note": note,
        "slope": model.slope,
        "intercept": model.intercept,
        **measured,
        "last_error_stay": combination_error(gram, stay, last),
        "matrix_rank_1": share,
        "matrix_rank_1_null": null,
    }
    for measure, found in judge_path(gram, run.numbers, run.fitted, laws, measured).items():
        row[f"{measure}_p"] = float("nan") if note else found.p
        row[f"{measure}_judged_by"] = found.judged_by
        row[f"{measure}_distinguishable"] = found.distinguishable and not note
    return row


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _layer(name: str) -> int:
    match = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
    return int(match[1]) if match else -1
