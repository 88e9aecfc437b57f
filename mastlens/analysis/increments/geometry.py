"""Geometry of increments: the pipeline from checkpoints to tables, one tensor at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from tqdm.auto import tqdm

from mastlens.analysis.increments.measures import Options, measure_projection, resolve_rank
from mastlens.analysis.increments.ranks import RankRule
from mastlens.analysis.increments.settings import GeometrySettings
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.digests import tensor_digest
from mastlens.checkpoints.lineage import Lineage
from mastlens.errors import BadSetting, NotFound, NotTogether
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.devices import device_of
from mastlens.runs.executors import Threads, Work, find_executor
from mastlens.runs.files import sha256_json, write_table, write_text
from mastlens.runs.ledger import Ledger
from mastlens.runs.reading import LARGEST_TEXT, read_lines, read_table
from mastlens.runs.stages import remembered

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "geometry.parquet"
HEADS = "geometry_heads.parquet"
SPECTRA = "spectra.parquet"
SHARD = "geometry.shard.jsonl"
SHARDED = "geometry-shard"
"""The stage that makes it."""
INCREMENTS = ("sft", "rlvr")
_PARTIAL = ".geometry.partial.jsonl"
T = TypeVar("T")


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

    An interrupted run goes on where it stopped. With ``shard`` only a part of the matrices is measured and kept for
    ``merge``; the result holds that part.

    Raises:
        MastlensError: If the checkpoints are not one lineage, or the rank does not fit.
    """
    lineage = Lineage.open(settings.rlvr, sft=settings.sft, base=settings.base)
    rule, chosen = RankRule.parse(settings.rank), _chosen(lineage, settings.where)
    if not rule.needs_spectrum:
        for projection in chosen:  # before hours of work, not after them
            resolve_rank(rule, projection)
    mine = chosen if settings.shard is None else shard_of(chosen, settings.shard)
    parts = {part: getattr(settings, part) for part in ("full", "masks", "spectra", "heads", "seed")}
    options = Options(rank=str(rule), device=device_of(settings.device, float64=True), **parts)
    recorded = {k: v for k, v in asdict(options).items() if k != "device"} | {"where": settings.where}
    recorded |= {} if settings.shard is None else {"shard": settings.shard}

    def measure() -> list[dict[str, Any]]:
        partial = None if settings.out is None else Path(settings.out) / _PARTIAL
        key = "" if settings.out is None else sha256_json([recorded, lineage.fingerprints])
        with Ledger(partial, key) as ledger:
            return _measure_all(lineage, mine, options, ledger, settings)

    if settings.shard is None:
        if settings.out is None:
            return _assembled(measure(), recorded)
        return record_geometry(
            settings, measure, lineage=lineage.fingerprints, recorded=recorded, device=options.device
        )
    if settings.out is None:
        raise BadSetting("A shard (--shard) is kept in a folder, from which mastlens merge takes it: give --out.")

    def write(found: list[dict[str, Any]], folder: Path) -> None:
        names = [projection.name for projection in chosen]
        measured = {projection.name: each for projection, each in zip(mine, found, strict=True)}
        lines = [{"names": names}, *({"name": name, "measured": each} for name, each in measured.items())]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        if len(text) > LARGEST_TEXT:  # else it could not be read again
            raise BadSetting(f"This shard is {len(text):,} bytes long, more than {LARGEST_TEXT:,}: take more shards.")
        write_text(folder / SHARD, text)

    found = remembered(
        settings.out,
        SHARDED,
        partial=_PARTIAL,
        outputs=[SHARD],
        lineage=lineage.fingerprints,
        settings=recorded,
        command=settings,
        device=options.device,
        overwrite=settings.overwrite,
        compute=measure,
        write=write,
        read=lambda folder: list(read_shard(folder)[1].values()),
    )
    return _assembled(found, recorded)


def record_geometry(
    command: GeometrySettings,
    measure: Callable[[], list[dict[str, Any]]],
    *,
    lineage: Mapping[str, str],
    recorded: dict[str, Any],
    device: str,
) -> Geometry:
    """Return a geometry from its folder, or measure it and write it there.

    Args:
        command: What was asked for; its ``out`` is the folder.
        measure: Returns the results of all matrices, in order.
        lineage: Fingerprints.
        recorded: All that decides the result.
        device: Where it was measured.
    """

    def write(result: Geometry, folder: Path) -> None:
        for file, table in ((FILE, result.table), (HEADS, result.heads), (SPECTRA, result.spectra)):
            if table is not None:
                write_table(folder / file, table)

    def read(folder: Path) -> Geometry:
        more = (read_table(folder / file) if asked else None for file, asked in parts.items())
        return Geometry(read_table(folder / FILE), recorded, *more)

    parts = {HEADS: command.heads, SPECTRA: command.spectra}
    return remembered(
        command.out,
        "geometry",
        partial=_PARTIAL,
        outputs=[FILE, *(file for file, asked in parts.items() if asked)],
        lineage=lineage,
        settings=recorded,
        command=command,
        device=device,
        overwrite=command.overwrite,
        compute=lambda: _assembled(measure(), recorded),
        write=write,
        read=read,
    )


def shard_of(items: Sequence[T], shard: str) -> list[T]:
    """Return the part of some items that a shard ``I/N`` has: every N-th, from the I-th on.

    Raises:
        MastlensError: If it is no shard, or there are fewer items than shards.
    """
    place, slash, count = shard.partition("/")
    if not (slash and place.isdecimal() and count.isdecimal() and 1 <= int(place) <= int(count)):
        raise BadSetting(f"A shard (--shard) is I/N, e.g. 1/8 to 8/8, not {shard!r}.")
    if int(count) > len(items):
        raise BadSetting(f"There are {len(items)} matrices: no more than so many shards, not {count}.")
    return list(items[int(place) - 1 :: int(count)])


def read_shard(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the names of all matrices of a geometry, and name to what was measured of those of a shard.

    Raises:
        MastlensError: If it is no file of JSON lines.
        KeyError: If a line says something else.
    """
    first, *others = (value for _, _, value in read_lines(folder / SHARD, "a shard of a geometry"))
    return list(first["names"]), {line["name"]: line["measured"] for line in others}


def _chosen(lineage: Lineage, where: str | None) -> tuple[Projection, ...]:
    assert lineage.base is not None
    return lineage.base.projections if where is None else lineage.base.matrices(where)


@dataclass(frozen=True)
class _Measuring(Work):
    """The measurement of a lineage's matrices, one a part.

    Attributes:
        lineage: The checkpoints; of folders that are the same where the parts run.
        options: What is measured.
        digests: Role to name to digest of each tensor, where parts run elsewhere: files may be others there.
    """

    lineage: Lineage
    options: Options
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def projections(self) -> dict[str, Projection]:
        """Every matrix by its name."""
        return {matrix.name: matrix for matrix in (*self.lineage.rlvr.matrices(), *self.lineage.rlvr.projections)}

    def do(self, part: str) -> dict[str, list[dict[str, Any]]]:
        projection = self.projections[part]
        for role, known in self.digests.items():
            checkpoint = self.lineage.stages[role]
            if tensor_digest(checkpoint.tensor(projection.stored)) != known[projection.stored]:
                raise NotTogether(
                    f"{projection.stored} of {checkpoint.folder} is another tensor here than where the command "
                    "was given: the folder is not shared, or a copy is old."
                )
        return measure_projection(self.lineage, projection, self.options)

    def check_here(self) -> None:
        for role, checkpoint in self.lineage.stages.items():
            for file in checkpoint.files:
                if not file.is_file() and not checkpoint.remote:
                    raise NotFound(
                        f"There is no {file} ({role}). Every worker reads the checkpoints itself: put them where "
                        "all see the same path."
                    )


def _measure_all(
    lineage: Lineage, chosen: Sequence[Projection], options: Options, ledger: Ledger, settings: GeometrySettings
):
    """Measure what the ledger does not hold yet; return the results in order."""
    executor = find_executor(settings.executor, workers=settings.workers, gpus=str(options.device).startswith("cuda"))
    waiting = [projection for projection in chosen if projection.name not in ledger]
    work = _Measuring(lineage, options)
    if not isinstance(executor, Threads):
        stored = dict.fromkeys(projection.stored for projection in waiting)
        digests = {role: {name: one.digest(name) for name in stored} for role, one in lineage.stages.items()}
        work = _Measuring(lineage, options, digests)
    with tqdm(
        total=len(chosen),
        initial=len(chosen) - len(waiting),
        desc="geometry",
        unit="tensor",
        disable=not settings.progress,
    ) as bar:
        for name, measured in executor.run(work, [projection.name for projection in waiting]) if waiting else ():
            ledger.add(name, measured)
            bar.update()
    return [ledger[projection.name] for projection in chosen]


def _assembled(measured: Sequence[dict[str, Any]], recorded: dict[str, Any]) -> Geometry:
    """Return the tables of results in the order of matrices: increments one after the other, as a lineage has them."""

    def table(part: str) -> pd.DataFrame:
        rows = [row for result in measured for row in result[part]]
        return pd.DataFrame([row for increment in INCREMENTS for row in rows if row["increment"] == increment])

    return Geometry(
        table("rows"),
        recorded,
        table("heads") if recorded["heads"] else None,
        table("spectra") if recorded["spectra"] else None,
    )
