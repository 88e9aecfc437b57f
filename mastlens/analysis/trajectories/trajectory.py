"""Trajectories: how one run moves through the weights, how much of it is one direction, and where it would go."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mastlens.analysis.increments.subspaces import check_rank
from mastlens.analysis.trajectories.development import measure_run
from mastlens.analysis.trajectories.predictions import extrapolated, matrix_rank1, reconstructed
from mastlens.analysis.trajectories.relex import Rank1, fit_rank1
from mastlens.analysis.trajectories.settings import TrajectorySettings
from mastlens.analysis.trajectories.steps import Steps, open_steps
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import export, exported_files
from mastlens.errors import BadSetting, UnknownName
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import remembered, stage

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "trajectory.parquet"
STEPS = "trajectory_steps.parquet"


@dataclass(frozen=True, repr=False)
class Trajectory(Carded):
    """A run's temporal rank-1 analysis.

    Attributes:
        table: One row a tensor; the columns are described at ``trajectory``.
        steps: One row a step and attention projection.
        settings: What made it.
        checkpoints: Prediction to the folder that it was written to.
    """

    table: pd.DataFrame
    steps: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    checkpoints: dict[str, Path] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import trajectory_card

        return trajectory_card(self.table, self.steps, self.settings)

    def plot(self) -> "go.Figure":
        """Draw the coefficients over the steps, with fit and extrapolation."""
        from mastlens.plots.trajectories import plot_trajectory

        return plot_trajectory(self.steps)

    def plot_explained(self) -> "go.Figure":
        """Draw what one direction explains of each projection's run, beside what a random walk gives."""
        from mastlens.plots.trajectories import plot_trajectory_explained

        return plot_trajectory_explained(self.table)

    def plot_geometry(self) -> "go.Figure":
        """Draw how the off-principal energy of the update develops."""
        from mastlens.plots.trajectories import plot_trajectory_geometry

        return plot_trajectory_geometry(self.steps)


@takes(TrajectorySettings)
def trajectory(settings: TrajectorySettings) -> Trajectory:
    """Analyse a run by its saved steps: temporal rank 1 (RELEX), matrix rank 1 (AlphaRL), and its geometry.

    Every floating tensor is analysed, so that a whole checkpoint can be predicted. Columns of the table: ``name``,
    ``layer`` (-1 outside of the layers), ``projection`` (empty where it is no attention projection), ``numel``,
    ``steps``, ``fitted`` (the first so many are looked at by fits), ``delta_norm`` and ``relative_norm`` (of
    theta_T - theta_0), ``precision_floor`` and ``note`` (as in ``geometry``), and

    - ``explained_variance``: share of the fitted updates' energy along their first direction v, not centred, with
      ``explained_variance_noise`` (independent noise around theta_0);
    - ``slope``, ``intercept``, ``linearity`` (R^2) of the coefficient's line on the step number;
    - ``last_error``: |delta_T - line(T) v| / |delta_T|, with ``last_error_stay``: of taking the last fitted step for
      the last one;
    - ``increment_cosine``: mean cosine of successive increments, over all steps;
    - for each of these four X what paths without any direction give, ``X_walk`` (a random walk of independent
      increments at the same steps) and ``X_adamw`` (AdamW on gradients that are noise), ``X_p``, ``X_judged_by`` and
      ``X_distinguishable``: beyond both, see ``noise``;
    - ``matrix_rank_1``: share of |theta_T - theta_0|^2 in its first singular triple, with ``matrix_rank_1_null``
      (Gaussian); NaN for what is no matrix.

    Columns of ``steps``: ``name``, ``layer``, ``projection``, ``step``, ``fitted``, ``coefficient`` (c_t), ``line``,
    ``walk`` (a random walk's coefficient that is equal at the last fitted step), ``delta_norm``, ``relative_norm``,
    ``off_principal`` of theta_t - theta_0 against the top ``rank`` subspaces of ``base``, ``off_principal_null``,
    ``rank``. NaN stands for what does not exist, as for a tensor that never moved.

    Sources: RELEX arXiv:2605.21468, AlphaRL arXiv:2510.00553.

    Raises:
        MastlensError: If the checkpoints are not one run, have no step numbers, or there is nowhere to write to.
    """
    run = open_steps(tuple(settings.paths), start=settings.start, numbers=settings.steps, window=settings.window)
    rank, extrapolate, reconstruct = settings.rank, settings.extrapolate, settings.reconstruct
    held = Checkpoint(settings.base) if settings.base is not None else run.start
    for projection in run.last.projections:
        check_rank(rank, (projection.rows, projection.cols))
    if settings.out is None and (extrapolate is not None or reconstruct is not None or settings.matrix_rank_1):
        raise BadSetting("A predicted checkpoint needs a folder to go to: give --out DIR.")
    if reconstruct is not None and reconstruct not in run.numbers:
        raise UnknownName(f"The run has no step {reconstruct}; it has {', '.join(map(str, run.numbers))}.")
    recorded = {"steps": list(run.numbers), "start": run.start_number, "fitted": run.fitted, "rank": rank}
    against = {} if settings.base is None or settings.out is None else {"base": held.fingerprint}
    lineage = {} if settings.out is None else run.fingerprints | against
    grams: dict[str, np.ndarray] = {}

    def compute() -> Trajectory:
        table, developing = measure_run(run, held, rank=rank, progress=settings.progress, grams=grams)
        return Trajectory(table, developing, recorded)

    def write(result: Trajectory, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        write_table(folder / STEPS, result.steps)

    result = remembered(
        settings.out,
        "trajectory",
        outputs=[FILE, STEPS],
        lineage=lineage,
        settings=recorded,
        command=settings,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=lambda folder: Trajectory(read_table(folder / FILE), read_table(folder / STEPS), recorded),
    )
    if settings.out is None:
        return result

    def models() -> dict[str, Rank1]:
        for name in run.names:
            grams[name] = grams[name] if name in grams else run.gram(name)
        return {name: fit_rank1(grams[name], run.numbers, run.fitted) for name in run.names}

    makers: dict[str, Callable[[], Mapping[str, torch.Tensor]]] = {}
    if extrapolate is not None:
        makers[f"extrapolated-{extrapolate}"] = lambda: extrapolated(run, models(), extrapolate)
    if reconstruct is not None:
        makers[f"reconstructed-{reconstruct}"] = lambda: reconstructed(run, models(), reconstruct)
    if settings.matrix_rank_1:
        makers["matrix-rank-1"] = lambda: matrix_rank1(run)
    asked = {"lineage": lineage, "settings": recorded, "command": settings, "overwrite": settings.overwrite}
    for kind, make in makers.items():
        result.checkpoints[kind] = _predict(run, Path(settings.out), kind, make, **asked)
    return result


def _predict(run: Steps, out: Path, kind: str, make: Callable[[], Mapping[str, torch.Tensor]], **asked: Any) -> Path:
    """Write a predicted checkpoint as a stage of its own, unless it is there."""
    files = [f"{kind}/{name}" for name in exported_files(run.last)]
    with stage(out, kind, outputs=files, **asked) as current:
        if not current.done:
            export(run.last, make(), out / kind, overwrite=asked["overwrite"] or current.own)
    return out / kind
