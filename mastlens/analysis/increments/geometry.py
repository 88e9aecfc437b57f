"""Geometry of increments: the pipeline from checkpoints to tables, one tensor at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import torch
from tqdm.auto import tqdm

from mastlens.analysis.increments.measures import Options, measure_projection, resolve_rank
from mastlens.analysis.increments.ranks import RankRule
from mastlens.analysis.increments.settings import GeometrySettings
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.lineage import Lineage
from mastlens.errors import BadSetting
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.devices import device_of
from mastlens.runs.files import sha256_json, write_table
from mastlens.runs.ledger import Ledger
from mastlens.runs.reading import read_table
from mastlens.runs.stages import remembered

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

T = TypeVar("T")

FILE = "geometry.parquet"
HEADS = "geometry_heads.parquet"
SPECTRA = "spectra.parquet"
_PARTIAL = ".geometry.partial.jsonl"


@dataclass(frozen=True, repr=False)
class Geometry(Carded):
    """The geometry of a lineage's increments.

    Attributes:
        table: One row an increment and projection; the columns are described at ``geometry``.
        settings: What made it.
        heads: One row an increment, projection and head; None unless measured.
        spectra: Singular values of the increments; None unless measured.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    heads: pd.DataFrame | None = None
    spectra: pd.DataFrame | None = None

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import geometry_card

        return geometry_card(self.table, self.settings)

    def plot(self, increment: str = "rlvr") -> "go.Figure":
        """Draw off-principal energy by layer and projection, beside its null."""
        from mastlens.plots import plot_off_principal

        return plot_off_principal(self.table, increment=increment)


@takes(GeometrySettings)
def geometry(settings: GeometrySettings) -> Geometry:
    """Measure every attention projection's increments against the base weight's principal subspaces.

    Beside each measure stands what chance gives: ``X_null`` is the expected value under chance, ``X_z`` the distance
    from it in standard deviations, ``X_distinguishable`` whether chance is ruled out (two-sided p < 0.001).

    Always: ``increment`` (``sft`` = SFT - base, ``rlvr`` = RLVR - SFT, or RLVR - base without ``sft``), ``layer``,
    ``projection``, ``name``, ``rows``, ``cols``, ``delta_norm`` (Frobenius), ``delta_rms``, ``relative_norm`` (to the
    tensor it was added to), ``precision_floor`` (the norm that rounding to the stored dtypes alone would give),
    ``note`` (``zero increment``, ``below the precision floor``, or nothing), ``rank`` (k), ``off_principal``
    (1 - |U_k' D V_k|^2 / |D|^2, base weight's top-k subspaces; MAST, arXiv:2606.19222); its null is that of an
    increment with the same singular values, turned at random. ``off_principal_error`` bounds what the subspaces' own
    error (``subspace_error``, the sine of the largest angle to the true ones) can have done to ``off_principal``;
    ``subspace_gap`` is (s_k - s_{k+1}) / s_1: near 0, the subspace is hardly defined.

    With ``full``: the other readings ``off_principal_left``, ``_right`` and ``_diagonal`` (arXiv:2606.13657);
    ``spectral_shift`` (NSS, arXiv:2511.08567) with its relative error, ``fixed_spectrum_distance`` and
    ``isotropic_ratio`` (arXiv:2607.19331), the largest and mean principal angles ``angle_left_max_deg`` ... of the
    top-k subspaces before and after, ``stable_rank``, ``changed_fraction_bf16`` (arXiv:2511.08567),
    ``changed_fraction_native`` and ``neighbour_fraction``.
    With ``masks``: the update mask's overlap with the principal and the low-magnitude mask of the base weight
    (arXiv:2511.08567), beside magnitude-matched chance, and ``off_principal_mask``.
    With ``spectra``: ``effective_rank``, ``energy_rank_99``, ``participation``, and the table of singular values.

    An interrupted run goes on where it stopped.

    Raises:
        MastlensError: If the checkpoints are not one lineage, or the rank does not fit.
    """
    lineage = Lineage.open(settings.rlvr, sft=settings.sft, base=settings.base)
    rule, chosen = RankRule.parse(settings.rank), _chosen(lineage, settings.where)
    if not rule.needs_spectrum:
        for projection in chosen:  # before hours of work, not after them
            resolve_rank(rule, projection)
    parts = {part: getattr(settings, part) for part in ("full", "masks", "spectra", "heads", "seed")}
    options = Options(rank=str(rule), device=device_of(settings.device, float64=True), **parts)
    recorded = {k: v for k, v in asdict(options).items() if k != "device"} | {"where": settings.where}
    files = [FILE, *([HEADS] if settings.heads else []), *([SPECTRA] if settings.spectra else [])]

    def compute() -> Geometry:
        partial = None if settings.out is None else Path(settings.out) / _PARTIAL
        key = "" if settings.out is None else sha256_json([recorded, lineage.fingerprints])
        with Ledger(partial, key) as ledger:
            measured = _measure_all(
                lineage, chosen, options, ledger, workers=settings.workers, progress=settings.progress
            )
        return _assembled(measured, lineage, recorded, options)

    def write(result: Geometry, folder: Path) -> None:
        for file, table in ((FILE, result.table), (HEADS, result.heads), (SPECTRA, result.spectra)):
            if table is not None:
                write_table(folder / file, table)

    def read(folder: Path) -> Geometry:
        return Geometry(
            read_table(folder / FILE),
            recorded,
            read_table(folder / HEADS) if settings.heads else None,
            read_table(folder / SPECTRA) if settings.spectra else None,
        )

    if settings.out is None:
        return compute()
    return remembered(
        settings.out,
        "geometry",
        partial=_PARTIAL,
        outputs=files,
        lineage=lineage.fingerprints,
        settings=recorded,
        command=settings,
        device=options.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=read,
    )


def _chosen(lineage: Lineage, where: str | None) -> tuple[Projection, ...]:
    assert lineage.base is not None
    return lineage.base.projections if where is None else lineage.base.matrices(where)


def _measure_all(
    lineage: Lineage,
    chosen: Sequence[Projection],
    options: Options,
    ledger: Ledger,
    *,
    workers: int | None,
    progress: bool,
) -> list[dict[str, Any]]:
    def measure(projection: Projection) -> dict[str, Any]:
        if projection.name not in ledger:
            ledger.add(projection.name, measure_projection(lineage, projection, options))
        return ledger[projection.name]

    count = workers or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])
    if count < 1:
        raise BadSetting(f"--workers is at least 1, not {workers}.")
    with tqdm(total=len(chosen), desc="geometry", unit="tensor", disable=not progress) as bar:
        return list(_in_order(measure, chosen, count, bar))


def _in_order(function: Callable[[Any], T], items: Sequence[Any], workers: int, bar: tqdm) -> Iterator[T]:
    """Yield ``function`` of every item, in order, computed by threads that use one processor each."""
    with _single_threaded(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in futures:
                yield future.result()
                bar.update()
        finally:
            for future in futures:  # after an error or an interruption nothing new starts
                future.cancel()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Let every linear-algebra library use one thread: workers share the processors, and bits do not depend on them."""
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


def _assembled(
    measured: Sequence[dict[str, Any]], lineage: Lineage, settings: dict[str, Any], options: Options
) -> Geometry:
    def table(part: str) -> pd.DataFrame:
        rows = [row for result in measured for row in result[part]]
        return pd.DataFrame([row for increment in lineage.increments for row in rows if row["increment"] == increment])

    return Geometry(
        table("rows"),
        settings,
        table("heads") if options.heads else None,
        table("spectra") if options.spectra else None,
    )
