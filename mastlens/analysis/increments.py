"""Geometry of the increments SFT - base and RLVR - SFT, per attention projection."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from mastlens.analysis.subspaces import (
    PrincipalSubspaces,
    changed_fraction_bf16,
    largest_angle,
    off_principal,
    off_principal_null,
    principal_subspaces,
    spectral_shift,
    stable_rank,
)
from mastlens.files import write_table
from mastlens.lineage import Checkpoint, Lineage
from mastlens.projections import Projection
from mastlens.runs import remembered

if TYPE_CHECKING:
    import plotly.graph_objects as go

FILE = "geometry.parquet"
SPECTRA = "spectra.parquet"


@dataclass(frozen=True)
class Geometry:
    """The geometry of a lineage's increments.

    Attributes:
        table: One row an increment and projection; the columns are described at ``geometry``.
        settings: What made it.
        spectra: Singular values of the increments, see ``increment_spectra``; None unless measured in full.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    spectra: pd.DataFrame | None = None

    def plot(self, increment: str = "rlvr") -> "go.Figure":
        """Draw off-principal energy by layer and projection, beside its null."""
        from mastlens.plots import plot_off_principal

        return plot_off_principal(self.table, increment=increment)


def geometry(
    *,
    rlvr: "str | os.PathLike[str] | Checkpoint",
    base: "str | os.PathLike[str] | Checkpoint",
    sft: "str | os.PathLike[str] | Checkpoint | None" = None,
    rank: int = 16,
    full: bool = False,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Geometry:
    """Measure every attention projection's increments against the base weight's principal subspaces.

    Columns: ``increment`` (``sft`` = SFT - base, ``rlvr`` = RLVR - SFT, or RLVR - base without ``sft``),
    ``layer``, ``projection``, ``name``, ``rows``, ``cols``, ``delta_norm`` (Frobenius), ``delta_rms``,
    ``relative_norm`` (to the tensor it was added to), ``rank`` (k), ``off_principal``
    (1 - |U_k' D V_k|^2 / |D|^2, base weight's top-k subspaces; MAST, arXiv:2606.19222),
    ``off_principal_null`` (what a random increment gives). With ``full`` also ``spectral_shift`` (NSS),
    ``angle_left_max_deg`` and ``angle_right_max_deg`` (of the top-k subspaces, before and after),
    ``stable_rank`` (of the increment), ``changed_fraction_bf16`` (arXiv:2511.08567).

    Args:
        rlvr: The checkpoint after RLVR: a folder, a hub id, or ``organism:NAME/STAGE``.
        base: The pre-trained checkpoint.
        sft: The checkpoint that RLVR started from; without it, RLVR is taken to start from the base.
        rank: k of the principal subspaces.
        full: Also what needs the whole spectrum.
        out: Folder for ``geometry.parquet`` (and ``spectra.parquet`` with ``full``); None to write nothing.
        overwrite: Replace a table made from other inputs.
        progress: Show a progress bar.

    Raises:
        MastlensError: If the checkpoints are not one lineage, or the rank does not fit.
    """
    lineage = Lineage.open(rlvr, sft=sft, base=base)
    settings = {"rank": rank, "full": full}

    def compute() -> Geometry:
        table = _measure(lineage, rank=rank, full=full, progress=progress)
        return Geometry(table, settings, increment_spectra(lineage) if full else None)

    def write(result: Geometry, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        if result.spectra is not None:
            write_table(folder / SPECTRA, result.spectra)

    def read(folder: Path) -> Geometry:
        spectra = pd.read_parquet(folder / SPECTRA) if full else None
        return Geometry(pd.read_parquet(folder / FILE), settings, spectra)

    return remembered(
        out,
        "geometry",
        outputs=[FILE, SPECTRA] if full else [FILE],
        lineage=lineage.fingerprints,
        settings=settings,
        overwrite=overwrite,
        compute=compute,
        write=write,
        read=read,
    )


def _measure(lineage: Lineage, *, rank: int, full: bool, progress: bool) -> pd.DataFrame:
    assert lineage.base is not None
    rows: dict[str, list[dict[str, Any]]] = {increment: [] for increment in lineage.increments}
    for projection in tqdm(lineage.base.projections, desc="geometry", unit="tensor", disable=not progress):
        # The base weight is decomposed once for all increments; one projection of each stage is in memory.
        subspaces = principal_subspaces(lineage.base.matrix(projection), rank)
        for increment, (before, after) in lineage.increments.items():
            rows[increment].append(
                {
                    "increment": increment,
                    **_describe(projection),
                    **_measure_one(before.matrix(projection), after.matrix(projection), subspaces, full=full),
                }
            )
    return pd.DataFrame([row for increment in rows.values() for row in increment])


def _describe(projection: Projection) -> dict[str, Any]:
    return {
        "layer": projection.layer,
        "projection": projection.projection,
        "name": projection.name,
        "rows": projection.rows,
        "cols": projection.cols,
    }


def _measure_one(
    before: torch.Tensor, after: torch.Tensor, subspaces: PrincipalSubspaces, *, full: bool
) -> dict[str, Any]:
    delta = after.float() - before.float()
    norm = float(torch.linalg.vector_norm(delta.double()))
    weight = float(torch.linalg.vector_norm(before.double()))
    measures: dict[str, Any] = {
        "delta_norm": norm,
        "delta_rms": norm / delta.numel() ** 0.5,
        "relative_norm": norm / weight if weight else float("inf"),
        "rank": subspaces.rank,
        "off_principal": off_principal(delta, subspaces),
        "off_principal_null": off_principal_null(delta.shape[0], delta.shape[1], subspaces.rank),
    }
    if full:
        old = principal_subspaces(before, subspaces.rank)
        new = principal_subspaces(after, subspaces.rank)
        measures |= {
            "spectral_shift": spectral_shift(old.singular_values, new.singular_values),
            "angle_left_max_deg": largest_angle(old.left, new.left) * 180 / torch.pi,
            "angle_right_max_deg": largest_angle(old.right, new.right) * 180 / torch.pi,
            "stable_rank": stable_rank(delta),
            "changed_fraction_bf16": changed_fraction_bf16(before, after),
        }
    return measures


def increment_spectra(lineage: Lineage) -> pd.DataFrame:
    """Return the singular values of every increment, beside what storage precision alone would produce.

    Columns: ``increment``, ``layer``, ``projection``, ``name``, ``index`` (from 1), ``singular_value``,
    ``precision_floor``: the expected largest singular value of a matrix of independent rounding errors, each
    half a unit in the last place of its entry in the coarser of the two stored dtypes, uniformly distributed:
    rms(error) * (sqrt(rows) + sqrt(cols)).
    """
    rows = []
    for increment, (before, after) in lineage.increments.items():
        for projection in before.projections:
            a, b = before.matrix(projection), after.matrix(projection)
            values = torch.linalg.svdvals(b.double() - a.double())
            # Both are rounded, so their errors add in square; a uniform error of width u has rms u / sqrt(12).
            unit = [_unit_in_last_place(t) for t in (a, b)]
            rms = float(((unit[0] ** 2 + unit[1] ** 2) / 12).mean().sqrt())
            floor = rms * (projection.rows**0.5 + projection.cols**0.5)
            rows.extend(
                {
                    "increment": increment,
                    "layer": projection.layer,
                    "projection": projection.projection,
                    "name": projection.name,
                    "index": index,
                    "singular_value": value,
                    "precision_floor": floor,
                }
                for index, value in enumerate(values.tolist(), start=1)
            )
    return pd.DataFrame(rows)


def _unit_in_last_place(stored: torch.Tensor) -> torch.Tensor:
    """Return the spacing of the stored dtype at each entry, in float64."""
    info = torch.finfo(stored.dtype)
    magnitude = stored.double().abs().clamp_min(info.tiny)
    return torch.exp2(torch.floor(torch.log2(magnitude))) * info.eps
