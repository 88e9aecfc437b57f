"""Coupling: how the forget (and retain) gradient at the RLVR weights lies to the increment RLVR - SFT."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from mastlens.analysis.coupling.alignment import above_chance
from mastlens.analysis.coupling.contractions import contract, with_chance
from mastlens.analysis.coupling.settings import CoupleSettings
from mastlens.analysis.coupling.spectral import coupling_by_direction
from mastlens.analysis.increments.precision import PrecisionFloor, precision_floor, rounding_variance
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.checkpoints.lineage import Lineage, paired, spacings
from mastlens.errors import BadSetting, NotFound
from mastlens.models.gradients import Gradients, measure_gradients
from mastlens.models.sharding import Spread, load_sharded
from mastlens.plots.cards.carded import Carded
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import check_tokenizer, context_length, encode_problems
from mastlens.problems.reading import read_problems
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table
from mastlens.runs.ranks import Ranks, ahead, ranks_for, remembered
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "coupling.parquet"
HEADS = "coupling_heads.parquet"
SPECTRUM = "coupling_spectrum.parquet"


@dataclass(frozen=True, repr=False)
class Coupling(Carded):
    """The coupling of gradients and increment.

    Attributes:
        table: One row a projection; the columns are described at ``couple``.
        heads: One row a head of a projection; the same columns, taken over the head's block, and ``head``. Matrices
            without heads are not in it.
        spectrum: One row a side and singular direction of the increment, see ``coupling_by_direction``, with
            ``layer``, ``projection``, ``name`` and ``above_chance``; None where it was not asked for.
        settings: What made it.
    """

    table: pd.DataFrame
    heads: pd.DataFrame
    spectrum: pd.DataFrame | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import coupling_card

        return coupling_card(self.table, self.settings)

    def plot(self) -> "go.Figure":
        """Draw the cosines by layer and projection, signed, around 0."""
        from mastlens.plots.coupling import plot_coupling

        return plot_coupling(self.table)

    def plot_heads(self, side: str = "forget") -> "go.Figure":
        """Draw one side's cosines by layer and head, signed, around 0."""
        from mastlens.plots.coupling import plot_coupling_heads

        return plot_coupling_heads(self.heads, side=side)

    def plot_spectrum(self, side: str = "forget") -> "go.Figure":
        """Draw which singular directions of the increment couple to one side's gradient.

        Raises:
            MastlensError: If the spectrum was not asked for.
        """
        from mastlens.plots.coupling_spectrum import plot_coupling_spectrum

        if self.spectrum is None:
            raise NotFound("This coupling has no spectrum. Measure it with couple(..., spectrum=True).")
        return plot_coupling_spectrum(self.spectrum, side=side)


@takes(CoupleSettings)
def couple(settings: CoupleSettings) -> Coupling:
    """Measure how the loss gradient at the RLVR weights couples to the increment, per attention projection.

    The loss is the negative log-likelihood of the solution tokens at the RLVR weights in evaluation mode, summed over
    the whole set and divided by their count; sums are float32 whatever the model is in. Columns, D the increment, W the
    RLVR weights and G a side's gradient:

    - ``layer``, ``projection``, ``name``, ``rows``, ``cols``, ``delta_norm``: |D| (Frobenius);
    - ``precision_floor``: the norm that rounding to the stored dtypes alone would give, and ``note``: ``zero
      increment``, ``below the precision floor`` (nothing is beyond chance then, and p is NaN), or nothing;
    - ``cosine_null``: mean |cosine| of random directions of that many entries;
    - ``forget_grad_norm``: |G| (Frobenius);
    - ``forget_grad_abs_mean``: mean of |G| over the entries, absolute after summation (SalUn, arXiv:2310.12508; the
      mean that MemFlex, arXiv:2407.01920, has a threshold on);
    - ``forget_inner``: <G, D>, signed: what the loss changes by, to first order, if D is added once more;
    - ``forget_inner_normalised``: <G, D> / sqrt(rows * cols), so that large tensors do not win by size;
    - ``forget_cosine``: <G, D> / (|G| |D|), signed; MAST (arXiv:2606.19222) takes its absolute value;
    - ``forget_cosine_z``: over its standard deviation where D keeps its singular values and is turned at random, and
      ``forget_cosine_z_stored``: where D keeps its entries' magnitudes and places, and the signs of its rows and
      columns are redrawn (see ``alignment``);
    - ``forget_cosine_p``: two-sided, the larger of both, and ``forget_cosine_judged_by``, whose it is (``rotated`` or
      ``signs``);
    - ``forget_above_chance``: that p is at most 0.05 / rows of the table (Bonferroni): beyond both;
    - ``forget_weight_inner``: <G, W>, signed; minus it is what the loss changes by, to first order, if the matrix is
      taken out (SNIP, arXiv:1810.02340, has the absolute value, entry by entry);
    - with ``fisher``, ``forget_fisher``: the sum over entries of the mean over problems of the squared gradient of
      -log p(solution | prompt), which is the trace of the empirical Fisher information (SSD, arXiv:2308.07707);
    - with ``retain`` the same with ``retain_``, and ``forget_retain_cosine``, the cosine of the two gradients,
      ``inner_minus_retain``: <G_forget - G_retain, D>, what adding D costs the forget set beyond the retain set, and
      ``cosine_minus_retain``: |forget_cosine| - |retain_cosine|, coupling to forget alone, and ``forget_wagle``: the
      sum over entries of |(W - G_retain / mu) G_forget| with mu = 1e-6 (WAGLE, arXiv:2410.17509, as its code has it:
      with so small a mu the retain gradient decides, and the weights hardly count).

    Raises:
        MastlensError: If the checkpoints are not one lineage, or a file or setting does not fit.
    """
    if settings.directions < 1:
        raise BadSetting(
            f"{settings.directions} singular directions make no spectrum; take at least 1, or spectrum=False."
        )
    ranks = ranks_for(settings.device)
    lineage = Lineage.open(settings.rlvr, sft=settings.sft)
    chosen = lineage.rlvr.projections if settings.where is None else lineage.rlvr.matrices(settings.where)
    computing = settings.computing(lineage.rlvr)
    asking = settings.asking
    recorded = {
        **asking.record(),
        "dtype": computing.dtype,
        "limit": settings.limit,
        "fisher": settings.fisher,
        "directions": settings.directions if settings.spectrum else 0,
        "where": settings.where,
    }

    def compute() -> Coupling:
        files = {"forget": settings.forget, "retain": settings.retain}
        progress = settings.progress and (ranks is None or ranks.first)
        found = _gradients(
            lineage.rlvr,
            chosen,
            files,
            fisher=settings.fisher,
            batch_size=settings.batch_size,
            computing=computing,
            limit=settings.limit,
            chat_template=asking,
            progress=progress,
            ranks=ranks,
        )
        return _couple(lineage, chosen, found, recorded, progress, ranks)

    def write(result: Coupling, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        write_table(folder / HEADS, result.heads)
        if result.spectrum is not None:
            write_table(folder / SPECTRUM, result.spectrum)

    def read(folder: Path) -> Coupling:
        table, heads = (read_table(folder / file) for file in (FILE, HEADS))
        return Coupling(table, heads, read_table(folder / SPECTRUM) if settings.spectrum else None, recorded)

    with ahead(ranks):
        fingerprints = lineage.fingerprints
    return remembered(
        ranks,
        settings.out,
        "couple",
        outputs=[FILE, HEADS, *([SPECTRUM] if settings.spectrum else [])],
        lineage=fingerprints,
        behaviour=lineage.behaviour("rlvr"),
        inputs=hash_inputs({"forget": settings.forget, "retain": settings.retain}),
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=read,
    )


def _gradients(
    checkpoint: Checkpoint,
    chosen: Sequence[Projection],
    files: Mapping[str, str | os.PathLike[str] | None],
    *,
    fisher: bool,
    batch_size: int | str,
    computing: Computing,
    limit: int | None,
    chat_template: Asked,
    progress: bool,
    ranks: Ranks | None,
) -> dict[str, dict[str, Tensor | Spread]]:
    """Return side, and side with ``_fisher``, to stored tensor's name to what was measured of it."""
    stored = list(dict.fromkeys(projection.stored for projection in chosen))
    model = computing.load(checkpoint) if ranks is None else load_sharded(checkpoint, computing, ranks, stored)
    tokenizer = checkpoint.load_tokenizer()
    found: dict[str, dict[str, Tensor | Spread]] = {}
    for side, path in files.items():
        if path is None:
            continue
        problems = read_problems(path, limit)
        check_tokenizer(tokenizer, problems, checkpoint.spec)
        encoded = encode_problems(
            problems, tokenizer, context=context_length(model.config), chat_template=chat_template, source=str(path)
        )
        measured: Gradients = measure_gradients(
            model,
            encoded,
            stored,
            fisher=fisher,
            batch_size=batch_size,
            progress=f"{side} gradient" if progress else None,
        )
        for kind, tensors in ((side, measured.mean), (f"{side}_fisher", measured.fisher)):
            if tensors is not None:
                found[kind] = dict(tensors)
    return found


def _couple(
    lineage: Lineage,
    chosen: Sequence[Projection],
    found: Mapping[str, Mapping[str, Tensor | Spread]],
    settings: dict[str, Any],
    progress: bool,
    ranks: Ranks | None,
) -> Coupling:
    measured: list[_Measured] = []
    groups = [(name, list(parts)) for name, parts in groupby(chosen, attrgetter("stored"))]
    bar = tqdm(groups, desc="coupling", unit="tensor", disable=not progress)
    for number, (stored, projections) in enumerate(bar):
        owner = number % (1 if ranks is None else ranks.size)
        gradients: dict[str, Tensor] = {}
        for kind, tensors in found.items():
            held = tensors[stored]
            whole = held.whole(owner) if isinstance(held, Spread) else held
            if whole is not None:
                gradients[kind] = whole
        if ranks is None or ranks.rank == owner:
            measured += [_measure(lineage, projection, gradients, settings["directions"]) for projection in projections]
    if ranks is not None:  # only rows of tables travel: each matrix was measured whole, on the rank that owns it
        order = {projection.name: number for number, projection in enumerate(chosen)}
        measured = sorted(chain.from_iterable(ranks.all_of(measured)), key=lambda one: order[one.row["name"]])
    table = with_chance([one.row for one in measured])
    head_rows = [row for one in measured for row in one.heads]
    heads = with_chance(head_rows) if head_rows else table.iloc[:0].assign(head=0)
    if not settings["directions"]:
        return Coupling(table, heads, None, settings)
    pieces = pd.DataFrame([row for one in measured for row in one.spectrum])
    pieces["above_chance"] = above_chance(pieces["p"].to_numpy())
    return Coupling(table, heads, pieces, settings)


@dataclass(frozen=True)
class _Measured:
    """The rows of one projection: its own, those of its heads, and those of its spectrum."""

    row: dict[str, Any]
    heads: list[dict[str, Any]]
    spectrum: list[dict[str, Any]]


def _measure(lineage: Lineage, projection: Projection, gradients: Mapping[str, Tensor], directions: int) -> _Measured:
    """Contract the gradients of a stored tensor with the increment of a projection in it."""
    stored = paired(*lineage.increments["rlvr"], projection)
    before, after = (matrix.float() for matrix in stored)
    matrices = {"delta": (after - before).double(), "weight": after.double()}
    for kind, gradient in gradients.items():
        # A padded vocabulary has more rows in one checkpoint: those that both have are compared.
        matrices[kind] = projection.read(gradient)[: after.shape[0]].double().cpu()
    keys = {"layer": projection.layer, "projection": projection.projection, "name": projection.name}
    codes = spacings(*lineage.increments["rlvr"], projection)
    row = contract(matrices, _floor(stored, codes))
    heads = []
    for head, span in enumerate(_heads(projection)):
        block = {name: matrix.narrow(*span) for name, matrix in matrices.items()}
        floor = _floor(
            [matrix.narrow(*span) for matrix in stored],
            [None if spacing is None else spacing.narrow(*span) for spacing in codes],
        )
        heads.append({**keys, "head": head, **contract(block, floor)})
    spectrum = []
    if directions:
        sides = {side: matrices[side] for side in ("forget", "retain") if side in matrices}
        pieces = coupling_by_direction(
            matrices["delta"], sides, directions=directions, told=not row["note"], name=projection.name
        )
        spectrum = [{**keys, **piece} for piece in pieces]
    return _Measured({**keys, **row}, heads, spectrum)


def _floor(stored: Sequence[Tensor], codes: Sequence[Tensor | None]) -> PrecisionFloor:
    """Return what rounding alone makes of the increment of two stored matrices; ``codes`` as ``spacings`` has them."""
    variance = sum(rounding_variance(matrix, spacing) for matrix, spacing in zip(stored, codes, strict=True))
    return precision_floor(variance, *map(int, stored[0].shape))


def _heads(projection: Projection) -> Iterator[tuple[int, int, int]]:
    """Yield axis, start and length of the block of each head: columns of o, else rows."""
    axis = 1 if projection.projection == "o" else 0
    for head in range(projection.heads):
        yield axis, head * projection.head_dim, projection.head_dim
