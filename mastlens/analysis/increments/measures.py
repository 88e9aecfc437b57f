"""Everything that is measured of one tensor's increments, beside what chance and storage precision give."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from mastlens.analysis.increments import masks as m
from mastlens.analysis.increments.angles import angle_nulls
from mastlens.analysis.increments.energy import (
    EnergyReadings,
    PrincipalProducts,
    energy_nulls,
    energy_readings,
    frobenius_norm,
    head_readings,
    off_mask_energy,
    principal_products,
    right_reading,
)
from mastlens.analysis.increments.krylov import leading_singular_value
from mastlens.analysis.increments.nulls import READINGS, Null
from mastlens.analysis.increments.precision import BELOW, ZERO, neighbour_fraction, precision_floor, rounding_variance
from mastlens.analysis.increments.ranks import RankRule
from mastlens.analysis.increments.singular_values import (
    SHIFT_TOLERANCE,
    Spectrum,
    exact_spectrum,
    gram_spectrum,
    spectral_shift,
)
from mastlens.analysis.increments.spectra import (
    estimate_participation,
    fixed_spectrum_null,
    isotropic_ratio,
    spectrum_nulls,
    spectrum_readings,
    stable_rank_null,
)
from mastlens.analysis.increments.subspaces import (
    TOLERANCE,
    PrincipalSubspaces,
    principal_angles,
    principal_subspaces,
    refined_subspaces,
    within,
)
from mastlens.architectures.projections import Projection
from mastlens.checkpoints.lineage import Lineage, paired
from mastlens.errors import MastlensError

ERROR = 1e-7
"""Accepted bound on the error of ``off_principal``; where rough subspaces do not meet it, they are refined."""

_ROUGH = 1e-3  # sine of the angle to the true subspaces, to begin with; ``off_principal_error`` says how far it carries


@dataclass(frozen=True)
class Options:
    """What to measure; see ``geometry`` for the columns.

    Attributes:
        rank: A rule for k, as ``RankRule.parse`` reads it.
        full: Compare whole spectra and subspaces before and after.
        masks: Compare update masks with principal and low-magnitude entries.
        spectra: All singular values of the increments.
        heads: Readings head by head.
        seed: Of random starts and sampled nulls.
        device: Where the matrices are decomposed and multiplied.
    """

    rank: str = "16"
    full: bool = False
    masks: bool = False
    spectra: bool = False
    heads: bool = False
    seed: int = 0
    device: str = "cpu"


def measure_projection(lineage: Lineage, projection: Projection, options: Options) -> dict[str, list[dict[str, Any]]]:
    """Measure every increment of one matrix; at most two of its stages are in memory at a time.

    Returns:
        ``rows``: one an increment; ``heads`` and ``spectra``: their rows, where asked for.
    """
    assert lineage.base is not None
    stage = _Stage(lineage.base.matrix(projection, mapped=True), options)
    rule = RankRule.parse(options.rank)
    stage.rank = rank = resolve_rank(rule, projection, stage.spectrum.values if rule.needs_spectrum else None)
    reference = _Reference(stage, options)
    result: dict[str, list[dict[str, Any]]] = {"rows": [], "heads": [], "spectra": []}
    for increment, (before, after) in lineage.increments.items():
        matrix = None
        if before.tensors[projection.stored].shape != after.tensors[projection.stored].shape:
            trimmed, matrix = paired(before, after, projection)
            stage = _Stage(trimmed, options, rank)
        following = _Stage(after.matrix(projection, mapped=True) if matrix is None else matrix, options, rank)
        about = {
            "increment": increment,
            "layer": projection.layer,
            "projection": projection.projection,
            "name": projection.name,
        }
        pair = _Pair(stage, following, reference, projection, increment, options)
        result["rows"].append(about | pair.row())
        if options.heads and projection.heads:
            result["heads"] += [about | row for row in pair.head_rows()]
        if options.spectra:
            result["spectra"] += [about | row for row in pair.spectrum_rows()]
        stage = following
        del pair  # its increment makes room for the next one
    return result


def resolve_rank(rule: RankRule, projection: Projection, values: Tensor | None = None) -> int:
    """Return k for a projection, or raise with its name."""
    try:
        return rule.resolve(projection.rows, projection.cols, values)
    except MastlensError as error:
        raise type(error)(f"{projection.name}: {error}") from error


def off_principal_error(readings: EnergyReadings, subspace_error: float) -> float:
    """Bound what an error of the subspaces does to the joint reading.

    With e the sine of the largest angle to the true subspaces, these are U cos + X sin and V cos + Y sin with X and Y
    orthogonal to U and V, so that |U'DV| changes by no more than h = e (|U'DY| + |X'DV|) + e^2 (|U'DV| + |X'DY|) and
    its square by no more than h (2 |U'DV| + h). |U'DY|^2 is at most |U'D|^2 - |U'DV|^2, and |X'DV|^2 at most
    |DV|^2 - |U'DV|^2, or what lies outside of U altogether where |DV| is not known.

    Args:
        readings: Of the increment.
        subspace_error: e.
    """
    right = 0.0 if math.isnan(readings.right) else readings.right
    inside, outside = (1 - readings.joint) ** 0.5, readings.left**0.5
    across = max(readings.joint - readings.left, 0.0) ** 0.5
    along = min(max(readings.joint - right, 0.0) ** 0.5, outside)
    h = subspace_error * (across + along) + subspace_error**2 * (inside + outside)
    return min(1.0, h * (2 * inside + h))


class _Stage:
    """One checkpoint's matrix, with what is computed of it at most once."""

    def __init__(self, matrix: Tensor, options: Options, rank: int = 0):
        self.matrix = matrix.to(options.device)
        self.options = options
        self.rank = rank
        self._spectrum: Spectrum | None = None
        self._exact: Spectrum | None = None
        self._search: Iterator[PrincipalSubspaces] | None = None
        self._found: PrincipalSubspaces | None = None
        self.variance = 0.0  # that rounding to the stored dtype leaves in the rows counted
        self.energy = 0.0  # squared norm of the rows counted
        self._counted = 0

    def subspaces(self, tolerance: float = TOLERANCE) -> PrincipalSubspaces:
        if self._search is None:
            self._search = refined_subspaces(self.matrix, self.rank, seed=self.options.seed)
        if self._found is None or self._found.error > tolerance:
            self._found = within(itertools.chain([self._found] if self._found else [], self._search), tolerance)
        return self._found

    def count(self, rows: slice) -> None:
        """Count the rounding and the energy of these rows, where they are the next that were not counted yet."""
        if rows.start == self._counted:
            part = self.matrix[rows]
            self.variance += rounding_variance(part.cpu())
            self.energy += frobenius_norm(part) ** 2
            self._counted = rows.stop

    @property
    def spectrum(self) -> Spectrum:
        if self._spectrum is None:
            self._spectrum = gram_spectrum(self.matrix)
        return self._spectrum

    @property
    def exact(self) -> Spectrum:
        if self._exact is None:
            self._exact = exact_spectrum(self.matrix)
        return self._exact


class _Reference:
    """What increments are held against: the base weight's subspaces and masks."""

    def __init__(self, base: _Stage, options: Options):
        self.base, self.options = base, options
        self.subspaces = base.subspaces(TOLERANCE if options.full or options.heads else _ROUGH)
        if options.masks:
            wide = min(m.PRINCIPAL_RANK, *base.matrix.shape)
            found = principal_subspaces(base.matrix, wide, seed=options.seed)
            self.principal = m.principal_mask(found.left.cpu(), found.singular_values.cpu(), found.right.cpu())
            self.low = m.smallest_entries(base.matrix.cpu())

    def products(self, delta: Tensor, fill: Callable[[slice], None]) -> tuple[PrincipalProducts, EnergyReadings]:
        """Fill an increment and multiply it with the subspaces, found as well as ``off_principal`` needs them."""
        both = self.options.full or self.options.heads
        products = principal_products(delta, *self._bases(delta), both=both, fill=fill)
        while True:
            readings = energy_readings(products)
            if self._good_enough(readings):
                return products, readings
            if math.isnan(readings.right):
                readings = replace(readings, right=right_reading(delta, self.subspaces.right, readings.norm))
                if self._good_enough(readings):
                    return products, readings
            error = self.subspaces.error
            self.subspaces = self.base.subspaces(max(TOLERANCE, error * ERROR / off_principal_error(readings, error)))
            products = principal_products(delta, *self._bases(delta), both=both)

    def _bases(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        return self.subspaces.left[: len(delta)], self.subspaces.right

    def _good_enough(self, readings: EnergyReadings) -> bool:
        found = self.subspaces
        return found.error <= TOLERANCE or found.method == "svd" or off_principal_error(readings, found.error) <= ERROR


class _Pair:
    """One increment of one matrix. What needs both stages comes first; then they make room for the increment."""

    def __init__(
        self,
        before: _Stage,
        after: _Stage,
        reference: _Reference,
        projection: Projection,
        increment: str,
        options: Options,
    ):
        self.before, self.after, self.reference, self.options = before, after, reference, options
        self.projection = projection
        self.label = f"{increment}/{projection.name}"
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
        return ZERO if self.zero else BELOW if self.floor.below(self.readings.norm) else ""

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
        spread = estimate_participation(self.delta, self.products.row_energy, seed=self.options.seed, name=self.label)
        nulls = energy_nulls(self.rows, self.cols, subspaces.rank, participation=spread or None)
        for reading in READINGS if self.options.full else READINGS[:1]:
            null = nulls[reading]
            column = "off_principal" if reading == "joint" else f"off_principal_{reading}"
            row |= self._beside(column, getattr(self.readings, reading), null)
        return row | {
            "off_principal_error": off_principal_error(self.readings, subspaces.error),
            "subspace_error": subspaces.error,
            "subspace_gap": subspaces.gap,
        }

    def _beside(self, column: str, value: float, null: Null) -> dict[str, Any]:
        """Return a value beside its null; of a zero increment, and of one below the floor, nothing can be told."""
        return {
            column: value,
            f"{column}_null": null.mean,
            f"{column}_z": float("nan") if self.zero else null.z(value),
            f"{column}_distinguishable": not self.note and null.distinguishable(value),
        }

    def _shift(self) -> dict[str, Any]:
        shift, error = spectral_shift(self.before.spectrum, self.after.spectrum)
        if error > SHIFT_TOLERANCE:
            shift, error = spectral_shift(self.before.exact, self.after.exact)
        scale = float(torch.linalg.vector_norm(self.before.spectrum.values))
        distance = shift * scale
        norm = self.readings.norm
        expected = fixed_spectrum_null(self.rows, self.cols)
        squared = (distance / norm) ** 2 if norm else 0.0
        return {
            "spectral_shift": shift,
            "spectral_shift_error": error,
            "spectral_shift_null": norm * expected.mean**0.5 / scale if scale else float("nan"),
            "spectral_shift_z": float("nan") if self.zero else expected.z(squared),
            "spectral_shift_distinguishable": not self.note and expected.distinguishable(squared),
            "spectral_shift_floor": self.floor.spectral_shift / scale if scale else float("nan"),
            "fixed_spectrum_distance": distance,
            "isotropic_ratio": isotropic_ratio(distance, norm, self.rows, self.cols),
        }

    def _angles(self) -> dict[str, Any]:
        old, new = self.before.subspaces(), self.after.subspaces()
        row: dict[str, Any] = {}
        rms = self.readings.norm / (self.rows * self.cols) ** 0.5
        nulls = angle_nulls(
            self.before.spectrum.values, self.rows, self.cols, old.rank, rms, seed=self.options.seed, name=self.label
        )
        for side in ("left", "right"):
            degrees = torch.rad2deg(principal_angles(getattr(old, side), getattr(new, side)))
            for which, value in (("max", float(degrees[-1])), ("mean", float(degrees.mean()))):
                column = f"angle_{side}_{which}_deg"
                row |= self._beside(column, value, nulls[column])
        return row | {"angle_error_deg": float(torch.rad2deg(torch.tensor(old.error + new.error)))}

    def _changes(self) -> dict[str, Any]:
        before, after = self.before.matrix.cpu(), self.after.matrix.cpu()
        return {
            "changed_fraction_bf16": m.changed_fraction(m.update_mask(before, after)),
            "changed_fraction_native": m.changed_fraction(m.update_mask(before, after, view="native")),
            "neighbour_fraction_bf16": neighbour_fraction(before, after, torch.bfloat16),
        }

    def _stable_rank(self) -> dict[str, Any]:
        if self.zero:
            stable = 0.0
        else:
            largest = float(self.values[0]) if self.options.spectra else leading_singular_value(self.delta)
            stable = (self.readings.norm / largest) ** 2
        return self._beside("stable_rank", stable, stable_rank_null(self.rows, self.cols))

    def _masks(self) -> dict[str, Any]:
        principal, low = self.reference.principal[: self.rows], self.reference.low[: self.rows]
        before = self.before.matrix.cpu()
        update = m.update_mask(before, self.after.matrix.cpu())
        strata = m.binades(before)
        row: dict[str, Any] = {}
        compared = {"principal": principal, "low_magnitude": low, "principal_not_low": principal & ~low}
        for name, mask in compared.items():
            found = m.mask_overlap(update, mask, strata)
            row |= self._beside(f"{name}_overlap", found.overlap, cast(Null, found.matched_null))
            row[f"{name}_lift"] = found.lift
        value, null = off_mask_energy(self.delta.cpu(), principal)
        return row | self._beside("off_principal_mask", value, null)

    def _ranks(self) -> dict[str, Any]:
        readings = spectrum_readings(self.values)
        nulls = spectrum_nulls(self.rows, self.cols, seed=self.options.seed)
        row: dict[str, Any] = {}
        for measure in ("effective_rank", "energy_rank_99", "participation"):
            row |= self._beside(measure, getattr(readings, measure), nulls[measure])
        return row

    def head_rows(self) -> list[dict[str, Any]]:
        subspaces, heads = self.reference.subspaces, self.projection.heads
        found = head_readings(
            self.delta,
            self.products,
            subspaces.left[: self.rows],
            subspaces.right,
            heads=heads,
            side="cols" if self.projection.projection == "o" else "rows",
        )
        return [
            {
                "head": head,
                "delta_norm": float(found.norm[head]),
                **self._beside("energy_share", float(found.share[head]), found.share_null),
                **self._beside("off_principal", float(found.off_principal[head]), found.off_principal_nulls[head]),
                **self._beside(
                    "off_principal_shared", float(found.off_principal_shared[head]), found.off_principal_shared_null
                ),
            }
            for head in range(heads)
        ]

    def spectrum_rows(self) -> list[dict[str, Any]]:
        return [
            {"index": index, "singular_value": value, "precision_floor": self.floor.largest}
            for index, value in enumerate(self.values.tolist(), start=1)
        ]
