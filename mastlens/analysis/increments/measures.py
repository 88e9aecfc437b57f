"""Everything that is measured of one tensor's increments, beside what chance and storage precision give."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from mastlens.analysis.increments import masks as m
from mastlens.analysis.increments.angles import angle_nulls
from mastlens.analysis.increments.energy import (
    energy_nulls,
    head_readings,
    off_mask_energy,
)
from mastlens.analysis.increments.krylov import leading_singular_value
from mastlens.analysis.increments.nulls import READINGS, Null, judged
from mastlens.analysis.increments.placement import Rounding, placed_head_nulls, placed_null
from mastlens.analysis.increments.precision import neighbour_fraction, precision_floor
from mastlens.analysis.increments.ranks import RankRule
from mastlens.analysis.increments.reference import Options, Reference, Stage, off_principal_error
from mastlens.analysis.increments.signs import sign_nulls
from mastlens.analysis.increments.singular_values import (
    SHIFT_TOLERANCE,
    gram_spectrum,
    spectral_shift,
)
from mastlens.analysis.increments.spectra import (
    entry_nulls,
    estimate_participation,
    fixed_spectrum_null,
    isotropic_ratio,
    shift_null,
    spectrum_nulls,
    spectrum_readings,
    stable_rank_null,
)
from mastlens.analysis.increments.subspaces import (
    principal_angles,
)
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.lineage import Lineage, paired, spacings
from mastlens.errors import MastlensError


@dataclass(frozen=True)
class Blocks:
    """Where the heads of a matrix lie.

    Attributes:
        heads: How many; 0 for none.
        side: ``rows`` for q, k and v, ``cols`` for o.
    """

    heads: int = 0
    side: Literal["rows", "cols"] = "rows"

    @classmethod
    def of(cls, projection: Projection) -> "Blocks":
        """Return the heads of a projection."""
        return cls(projection.heads, "cols" if projection.projection == "o" else "rows")


def measure_projection(lineage: Lineage, projection: Projection, options: Options) -> dict[str, list[dict[str, Any]]]:
    """Measure every increment of one matrix; at most two of its stages are in memory at a time.

    Returns:
        ``rows``: one an increment; ``heads`` and ``spectra``: their rows, where asked for.
    """
    assert lineage.base is not None
    around = [spacings(before, after, projection) for before, after in lineage.increments.values()]
    stage = Stage(lineage.base.matrix(projection, mapped=True), options, spacing=around[0][0])
    rule = RankRule.parse(options.rank)
    stage.rank = rank = resolve_rank(rule, projection, stage.spectrum.values if rule.needs_spectrum else None)
    reference = Reference(stage, options)
    result: dict[str, list[dict[str, Any]]] = {"rows": [], "heads": [], "spectra": []}
    for (increment, (before, after)), (old, new) in zip(lineage.increments.items(), around, strict=True):
        matrix = None
        if before.tensors[projection.stored].shape != after.tensors[projection.stored].shape:
            trimmed, matrix = paired(before, after, projection)
            stage = Stage(trimmed, options, rank, old)
        following = Stage(after.matrix(projection, mapped=True) if matrix is None else matrix, options, rank, new)
        about = {
            "increment": increment,
            "layer": projection.layer,
            "projection": projection.projection,
            "name": projection.name,
        }
        pair = _Pair(stage, following, reference, Blocks.of(projection), f"{increment}/{projection.name}", options)
        for part, rows in pair.all_rows().items():
            result[part] += [about | row for row in rows]
        stage = following
        del pair  # its increment makes room for the next one
    return result


def measure_matrices(
    before: Tensor, after: Tensor, options: Options, *, blocks: "Blocks | None" = None, label: str = ""
) -> dict[str, list[dict[str, Any]]]:
    """Measure one increment that is held against the matrix that it was added to; what ``geometry`` does of each.

    Args:
        before: A stored matrix, in its dtype.
        after: The matrix after training, in its.
        options: What to measure; ``rank`` a number.
        blocks: Where its heads lie; None where it has none.
        label: Names the random draws, with the seed.

    Returns:
        ``rows`` (one), ``heads`` and ``spectra``.
    """
    rows, cols = map(int, before.shape)
    rank = RankRule.parse(options.rank).resolve(rows, cols)
    first, second = (Stage(matrix, options, rank) for matrix in (before, after))
    return _Pair(first, second, Reference(first, options), blocks or Blocks(), label, options).all_rows()


def resolve_rank(rule: RankRule, projection: Projection, values: Tensor | None = None) -> int:
    """Return k for a projection, or raise with its name."""
    try:
        return rule.resolve(projection.rows, projection.cols, values)
    except MastlensError as error:
        raise type(error)(f"{projection.name}: {error}") from error


class _Pair:
    """One increment of one matrix. What needs both stages comes first; then they make room for the increment."""

    def __init__(
        self,
        before: Stage,
        after: Stage,
        reference: Reference,
        blocks: Blocks,
        label: str,
        options: Options,
    ):
        self.before, self.after, self.reference, self.options = before, after, reference, options
        self.blocks, self.label = blocks, label
        self.rows, self.cols = map(int, before.matrix.shape)
        self.delta = torch.empty(self.rows, self.cols, device=before.matrix.device)

        def fill(rows: slice) -> None:
            torch.sub(after.matrix[rows].float(), before.matrix[rows].float(), out=self.delta[rows])
            before.count(rows)
            after.count(rows)

        self.products, self.readings = reference.products(self.delta, fill)
        self.floor = precision_floor(before.variance + after.variance, self.rows, self.cols)
        self.weight_norm = before.energy**0.5
        self._values: Tensor | None = None
        self.participation = estimate_participation(
            self.delta, self.products.row_energy, seed=options.seed, name=self.label
        )
        self.signs = sign_nulls(
            self.delta,
            reference.subspaces.left[: self.rows],
            reference.subspaces.right,
            full=options.full,
            heads=blocks.heads if options.heads else 0,
            side=blocks.side,
            seed=options.seed,
            name=self.label,
        )

    def all_rows(self) -> dict[str, list[dict[str, Any]]]:
        """Return the row of the increment, and those of its heads and singular values where they were asked for."""
        return {
            "rows": [self.row()],
            "heads": self.head_rows() if self.options.heads and self.blocks.heads else [],
            "spectra": self.spectrum_rows() if self.options.spectra else [],
        }

    @property
    def values(self) -> Tensor:
        """All singular values of the increment."""
        if self._values is None:
            self._values = gram_spectrum(self.delta).values.cpu()
        return self._values

    @property
    def zero(self) -> bool:
        return self.readings.norm == 0.0

    @property
    def note(self) -> str:
        """Why nothing can be told of this increment: it is zero, or not larger than rounding; else empty."""
        return self.floor.note(self.readings.norm)

    def row(self) -> dict[str, Any]:
        norm = self.readings.norm
        row: dict[str, Any] = {
            "rows": self.rows,
            "cols": self.cols,
            "delta_norm": norm,
            "delta_rms": norm / (self.rows * self.cols) ** 0.5,
            "relative_norm": norm / self.weight_norm if self.weight_norm else float("inf"),
            "precision_floor": self.floor.norm,
            "note": self.note,
            **self._energy(),
        }
        if self.options.full:
            row |= self._shift() | self._angles() | self._changes() | self._stable_rank()
        if self.options.masks:
            row |= self._masks()
        if self.options.spectra:
            row |= self._ranks()
        return row

    def _energy(self) -> dict[str, Any]:
        subspaces = self.reference.subspaces
        row: dict[str, Any] = {"rank": subspaces.rank}
        rotated = energy_nulls(self.rows, self.cols, subspaces.rank, participation=self.participation or None)
        for reading in READINGS if self.options.full else READINGS[:1]:
            column = "off_principal" if reading == "joint" else f"off_principal_{reading}"
            nulls = [rotated[reading], *([self.signs.whole[reading]] if not self.zero else [])]
            row |= self._beside(column, getattr(self.readings, reading), *nulls)
        return row | {
            "off_principal_error": off_principal_error(self.readings, subspaces.error),
            "subspace_error": subspaces.error,
            "subspace_gap": subspaces.gap,
        }

    def _beside(self, column: str, value: float, *nulls: Null) -> dict[str, Any]:
        """Return a value beside its nulls; of a zero increment, and of one below the floor, nothing can be told."""
        row = judged(column, value, nulls, told=not self.note)
        return row | {f"{column}_z": float("nan")} if self.zero else row

    def _shift(self) -> dict[str, Any]:
        shift, error = spectral_shift(self.before.spectrum, self.after.spectrum)
        if error > SHIFT_TOLERANCE:
            shift, error = spectral_shift(self.before.exact, self.after.exact)
        scale = float(torch.linalg.vector_norm(self.before.spectrum.values))
        distance = shift * scale
        norm = self.readings.norm
        expected = fixed_spectrum_null(self.rows, self.cols)
        if not self.zero:
            spectrum = self.before.spectrum.values
            expected = shift_null(
                self.before.matrix,
                self.before.basis,
                spectrum,
                self.delta,
                self.participation,
                seed=self.options.seed,
                name=self.label,
            )
        found = self._beside("squared", (distance / norm) ** 2 if norm else 0.0, expected)
        return {
            "spectral_shift": shift,
            "spectral_shift_error": error,
            "spectral_shift_null": norm * expected.mean**0.5 / scale if scale else float("nan"),
            **{f"spectral_shift_{end}": found[f"squared_{end}"] for end in ("z", "p", "judged_by", "distinguishable")},
            "spectral_shift_floor": self.floor.spectral_shift / scale if scale else float("nan"),
            "fixed_spectrum_distance": distance,
            "isotropic_ratio": isotropic_ratio(distance, norm, self.rows, self.cols),
            "isotropic_ratio_null": expected.mean * max(self.rows, self.cols),
        }

    def _angles(self) -> dict[str, Any]:
        old, new = self.before.subspaces(), self.after.subspaces()
        row: dict[str, Any] = {}
        none = Null(0.0, 0.0, "lognormal", "signs")
        nulls: dict[str, Null] = {}
        if not self.zero:
            nulls = angle_nulls(
                self.before.matrix, self.before.basis, old, self.delta, seed=self.options.seed, name=self.label
            )
        for side in ("left", "right"):
            degrees = torch.rad2deg(principal_angles(getattr(old, side), getattr(new, side)))
            for which, value in (("max", float(degrees[-1])), ("mean", float(degrees.mean()))):
                column = f"angle_{side}_{which}_deg"
                row |= self._beside(column, value, nulls.get(column, none))
        return row | {"angle_error_deg": float(torch.rad2deg(torch.tensor(old.error + new.error)))}

    def _changes(self) -> dict[str, Any]:
        before, after = self.before.matrix.cpu(), self.after.matrix.cpu()
        return {
            "changed_fraction_bf16": m.changed_fraction(m.update_mask(before, after)),
            "changed_fraction_native": m.changed_fraction(m.update_mask(before, after, view="native")),
            "neighbour_fraction_bf16": neighbour_fraction(before, after, torch.bfloat16),
        }

    def _stable_rank(self) -> dict[str, Any]:
        expected = stable_rank_null(self.rows, self.cols)
        if self.zero:
            return self._beside("stable_rank", 0.0, expected)
        if self.options.spectra:  # the largest is among all of them, and so are those of the draws
            return self._beside("stable_rank", self._ratio(float(self.values[0])), expected, self.drawn["stable_rank"])
        drawn = entry_nulls(
            self.delta,
            lambda d: {"stable_rank": self._ratio(leading_singular_value(d))},
            seed=self.options.seed,
            name=self.label,
        )
        return self._beside(
            "stable_rank", self._ratio(leading_singular_value(self.delta)), expected, drawn["stable_rank"]
        )

    def _ratio(self, largest: float) -> float:
        return (self.readings.norm / largest) ** 2

    @cached_property
    def drawn(self) -> dict[str, Null]:
        """What increments with the signs of all entries redrawn give for each reading of a spectrum."""
        return entry_nulls(
            self.delta,
            lambda d: asdict(spectrum_readings(gram_spectrum(d).values.cpu())),
            seed=self.options.seed,
            name=self.label,
        )

    def _masks(self) -> dict[str, Any]:
        principal, low = self.reference.principal[: self.rows], self.reference.low[: self.rows]
        before = self.before.matrix.cpu()
        update = m.update_mask(before, self.after.matrix.cpu())
        row: dict[str, Any] = {}
        compared = {"principal": principal, "low_magnitude": low, "principal_not_low": principal & ~low}
        for name, mask in compared.items():
            found = m.mask_overlap(update, mask)
            row |= self._beside(f"{name}_overlap", found.overlap, placed_null(update, mask, self.rounding))
            row[f"{name}_lift"] = found.lift
        delta = self.delta.cpu()
        value, _ = off_mask_energy(delta, principal)
        squares = delta.square()
        nulls = [placed_null(squares, principal, s, off=True) for s in (None, self.rounding)]
        return row | self._beside("off_principal_mask", value, *nulls)

    @cached_property
    def rounding(self) -> Rounding:
        """Which entries rounding treats alike."""
        return Rounding.of(self.before.matrix.cpu(), self.after.matrix.dtype)

    def _ranks(self) -> dict[str, Any]:
        readings = spectrum_readings(self.values)
        isotropic = spectrum_nulls(self.rows, self.cols, seed=self.options.seed)
        row: dict[str, Any] = {}
        for measure in ("effective_rank", "energy_rank_99", "participation"):
            drawn = [] if self.zero else [self.drawn[measure]]
            row |= self._beside(measure, getattr(readings, measure), isotropic[measure], *drawn)
        return row

    def head_rows(self) -> list[dict[str, Any]]:
        subspaces, blocks = self.reference.subspaces, self.blocks
        found = head_readings(
            self.delta,
            self.products,
            subspaces.left[: self.rows],
            subspaces.right,
            heads=blocks.heads,
            side=blocks.side,
        )
        squares = self.delta.cpu().square()
        laid = [placed_head_nulls(squares, blocks.heads, blocks.side, s) for s in (None, self.rounding)]

        def nulls(first: Null, stored: Sequence[Null], head: int) -> list[Null]:
            return [first, stored[head]] if stored else [first]

        return [
            {
                "head": head,
                "delta_norm": float(found.norm[head]),
                **self._beside("energy_share", float(found.share[head]), *(law[head] for law in laid)),
                **self._beside(
                    "off_principal",
                    float(found.off_principal[head]),
                    *nulls(found.off_principal_nulls[head], self.signs.heads, head),
                ),
                **self._beside(
                    "off_principal_shared",
                    float(found.off_principal_shared[head]),
                    *nulls(found.off_principal_shared_nulls[head], self.signs.heads_shared, head),
                ),
            }
            for head in range(blocks.heads)
        ]

    def spectrum_rows(self) -> list[dict[str, Any]]:
        return [
            {"index": index, "singular_value": value, "precision_floor": self.floor.largest}
            for index, value in enumerate(self.values.tolist(), start=1)
        ]
