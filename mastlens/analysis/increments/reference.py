"""One checkpoint's matrix with what is computed of it at most once, and what increments are held against."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from mastlens.analysis.increments import masks as m
from mastlens.analysis.increments.energy import (
    EnergyReadings,
    PrincipalProducts,
    energy_readings,
    frobenius_norm,
    principal_products,
    right_reading,
)
from mastlens.analysis.increments.precision import rounding_variance
from mastlens.analysis.increments.singular_values import Spectrum, exact_spectrum, gram_spectrum
from mastlens.analysis.increments.subspaces import (
    TOLERANCE,
    PrincipalSubspaces,
    principal_subspaces,
    refined_subspaces,
    within,
)
from mastlens.analysis.increments.weight_basis import WeightBasis, weight_basis

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


class Stage:
    """One checkpoint's matrix, with what is computed of it at most once."""

    def __init__(self, matrix: Tensor, options: Options, rank: int = 0, spacing: Tensor | None = None):
        self.spacing = spacing  # of the numbers that storage can hold, where the matrix's dtype does not say it
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
        """Return the top-k subspaces, found anew where a better one is asked for."""
        if self._search is None:
            self._search = refined_subspaces(self.matrix, self.rank, seed=self.options.seed)
        if self._found is None or self._found.error > tolerance:
            self._found = within(itertools.chain([self._found] if self._found else [], self._search), tolerance)
        return self._found

    def count(self, rows: slice) -> None:
        """Count the rounding and the energy of these rows, where they are the next that were not counted yet."""
        if rows.start == self._counted:
            part = self.matrix[rows]
            self.variance += rounding_variance(part.cpu(), None if self.spacing is None else self.spacing[rows])
            self.energy += frobenius_norm(part) ** 2
            self._counted = rows.stop

    @property
    def spectrum(self) -> Spectrum:
        """All singular values, fast."""
        if self._spectrum is None:
            self._spectrum = gram_spectrum(self.matrix)
        return self._spectrum

    @cached_property
    def basis(self) -> WeightBasis:
        """Singular vectors, as well as a null needs them."""
        return weight_basis(self.matrix)

    @property
    def exact(self) -> Spectrum:
        """All singular values, without squaring."""
        if self._exact is None:
            self._exact = exact_spectrum(self.matrix)
        return self._exact


class Reference:
    """What increments are held against: the base weight's subspaces and masks."""

    def __init__(self, base: Stage, options: Options):
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
