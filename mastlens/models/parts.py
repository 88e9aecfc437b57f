"""Matrices that are parts of a tensor that lies over ranks: of each, what this rank has."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mastlens.architectures.placement import Place
from mastlens.architectures.projections import Layout
from mastlens.models.sharding import Rows


@dataclass(frozen=True)
class LocalPart:
    """This rank's part of a matrix: some rows and columns of its rows of the stored tensor.

    Attributes:
        span: Which rows of the stored tensor are here.
        stack: Which matrix of a stored stack it is, counted from the first that is here; None where it is no stack.
        entries: Which rows and columns of what is here belong to the matrix; None for all.
    """

    span: slice
    stack: int | None = None
    entries: tuple[Tensor, Tensor] | None = None

    @property
    def here(self) -> bool:
        """Whether this rank has any of it."""
        return self.span.stop > self.span.start and (self.entries is None or all(map(len, self.entries)))

    def read(self, rows: Tensor) -> Tensor:
        """Return the part out of this rank's rows of the stored tensor: those themselves where it is all of them."""
        if not self.here:
            return rows.new_empty(0)
        return self._matrix(rows) if self.entries is None else self._matrix(rows)[self._grid]

    def write(self, rows: Tensor, value: Tensor) -> None:
        """Put the part into this rank's rows of the stored tensor, rounded; nothing else of them changes."""
        if self.here and self.entries is None:
            self._matrix(rows).copy_(value)
        elif self.here:
            self._matrix(rows)[self._grid] = value.to(rows.dtype)

    def _matrix(self, rows: Tensor) -> Tensor:
        return rows if self.stack is None else rows[self.stack]

    @property
    def _grid(self) -> tuple[Tensor, Tensor]:
        assert self.entries is not None
        return self.entries[0][:, None], self.entries[1][None]


def local_part(weight: Rows, place: Place, layout: Layout | None) -> LocalPart:
    """Return this rank's part of a matrix.

    Args:
        weight: This rank's rows of the parameter.
        place: The stored tensor's place in it.
        layout: How the matrix lies in the stored tensor; None for all of it.
    """
    nothing = slice(0, 0)
    span, shape = slice(weight.start, weight.start + weight.count), (weight.total, *weight.local.shape[1:])
    if place.expert is not None:
        there = span.start <= place.expert < span.stop
        shape = (shape[1] if place.half is None else shape[1] // 2, *shape[2:])
        span = slice(0, shape[0]) if there else nothing
    if layout is None:
        return LocalPart(span)
    stack = None
    if layout.expert is not None:
        there = span.start <= layout.expert < span.stop
        stack, shape = layout.expert - span.start, shape[1:]
        whole = span if there else nothing
        first, last = 0, shape[0]
    else:
        whole, (first, last) = span, (span.start, span.stop)
    axis = 1 if layout.transposed else 0
    numbers = torch.arange(shape[axis])[:, None]
    lies = replace(layout, transposed=False, expert=None, columns=None)
    outputs = lies.view(numbers).flatten()
    inputs = torch.arange(shape[1 - axis])
    inputs = inputs if layout.columns is None else inputs.narrow(0, *layout.columns)
    if all(torch.equal(one, torch.arange(shape[end])) for one, end in ((outputs, axis), (inputs, 1 - axis))):
        return LocalPart(whole, stack)
    rows, columns = (inputs, outputs) if layout.transposed else (outputs, inputs)
    rows = rows[(rows >= first) & (rows < last)] - first
    device = weight.local.device
    return LocalPart(whole, stack, (rows.to(device), columns.to(device)))
