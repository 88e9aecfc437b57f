"""Every attention projection of a checkpoint: its name, its heads, and how it lies in the stored tensor."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mastlens.architectures.catalogue import ORDER, Architecture, Contents, find_architecture, find_prefix, not_known
from mastlens.architectures.configuration import complete_config, has_attention, read_size
from mastlens.errors import BadFile, BadSetting, NotSupported, NotTogether, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ORDER", "Layout", "Projection", "find_projections", "match_names"]

_NORMS = {
    "q": ("q_norm", "q_layernorm", "query_layernorm"),
    "k": ("k_norm", "k_layernorm", "key_layernorm"),
    "q_a": ("q_a_layernorm",),
    "kv_a": ("kv_a_layernorm",),
}


@dataclass(frozen=True)
class Layout:
    """Which rows of a stored tensor belong to one matrix: of each of ``blocks`` equal blocks, ``size`` from ``start``.

    One block is a plain range of rows; as many blocks as heads is a tensor that alternates by head. A head is narrower:
    its rows lie in one of the blocks, and of o it is a range of columns.

    Attributes:
        blocks: How many equal blocks the rows are cut into.
        start: First row in each block.
        size: Number of rows in each block; None for all to its end.
        transposed: Whether the file has the tensor as (in, out).
        expert: Which matrix of a stack (experts, out, in); None where the tensor is a matrix.
        block: The one block that is taken; None for all of them.
        columns: First column and number of columns; None for all.
    """

    blocks: int = 1
    start: int = 0
    size: int | None = None
    transposed: bool = False
    expert: int | None = None
    block: int | None = None
    columns: tuple[int, int] | None = None

    def view(self, stored: "Tensor") -> "Tensor":
        """Return these rows as a view (blocks, size, in) of the stored tensor; with ``block`` set, of one block."""
        matrix = stored if self.expert is None else stored[self.expert]
        rows = self._cut((matrix.T if self.transposed else matrix).unflatten(0, (self.blocks, -1)), 1)
        return rows if self.columns is None else rows.narrow(-1, *self.columns)

    def view_outputs(self, outputs: "Tensor") -> "Tensor":
        """Return these features as a view (..., blocks, size) of what the module puts out, (..., stored out).

        Columns belong to the input: a range of them leaves all features.
        """
        return self._cut(outputs.unflatten(-1, (self.blocks, -1)), outputs.ndim)

    def _cut(self, blocks: "Tensor", axis: int) -> "Tensor":
        if self.block is not None:
            blocks = blocks.narrow(axis - 1, self.block, 1)
        return blocks.narrow(axis, self.start, blocks.shape[axis] - self.start if self.size is None else self.size)


WHOLE = Layout()
"""A stored tensor that is the matrix itself."""


@dataclass(frozen=True, order=True)
class Projection:
    """One attention projection of one layer, one head of it, or another weight matrix, in checkpoint coordinates.

    Attributes:
        layer: Counted from 0; -1 for a matrix that is in no layer.
        order: Position in ``ORDER``, so that projections sort as ties are broken.
        projection: ``q``, ``k``, ``v`` or ``o``; or one of the rest of ``ORDER``. Of another matrix, its short name.
        name: The parameter's name in the checkpoint, with ``#q`` and so on behind it where it holds several; of a head
            with ``#h3`` behind it, or ``#q.h3``.
        rows: Output size (matrices are taken as (out, in)).
        cols: Input size.
        heads: Query heads for q and o, key-value heads (groups) for k and v; 0 for a matrix that has no heads.
        head_dim: Size of one head; 0 without heads.
        layout: How it lies in the stored tensor.
        bias: Name of its bias, with ``#q`` as in ``name``; None where there is none.
        norm: Name of the norm that its output passes through before it is used; None where there is none.
    """

    layer: int
    order: int
    projection: str
    name: str
    rows: int
    cols: int
    heads: int
    head_dim: int
    layout: Layout = field(default=WHOLE, compare=False)
    bias: str | None = field(default=None, compare=False)
    norm: str | None = field(default=None, compare=False)

    @property
    def numel(self) -> int:
        """Number of entries."""
        return self.rows * self.cols

    @property
    def stored(self) -> str:
        """The name of the stored tensor: ``name`` without the ``#q`` or ``#h3`` of a part of it."""
        return self.name.partition("#")[0]

    @property
    def module(self) -> str:
        """The path of the module whose weight this is, or is part of."""
        return self.stored.removesuffix(".weight")

    @property
    def fused(self) -> bool:
        """Whether the stored tensor holds other matrices, or other heads, too."""
        return self.stored != self.name

    def read(self, stored: "Tensor") -> "Tensor":
        """Return this projection's matrix (rows, cols) out of the stored tensor, head after head.

        It shares the stored tensor's memory where the rows lie together, and is a copy where they do not: to change
        the tensor, use ``write`` or ``heads_of``.
        """
        return self.layout.view(stored).flatten(0, 1)

    def write(self, stored: "Tensor", matrix: "Tensor") -> None:
        """Put ``matrix`` (rows, cols) into the stored tensor in place; nothing else of it changes.

        Values are rounded to the stored dtype. Autograd does not see it.

        Raises:
            MastlensError: If the matrix has another shape.
        """
        if tuple(matrix.shape) != (self.rows, self.cols):
            raise NotTogether(f"{self.name} is {self.rows} x {self.cols}, the matrix given {tuple(matrix.shape)}.")
        if matrix.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr():
            matrix = matrix.clone()  # what read returned may be the very memory that is written
        part = self.layout.view(stored.detach())
        part.copy_(matrix.detach().unflatten(0, part.shape[:2]))

    def head(self, head: int) -> "Projection":
        """Return one head as a matrix of its own: (head_dim, in), or of o (out, head_dim).

        Args:
            head: From 0; of k and v, the key-value group.

        Raises:
            MastlensError: If there is no such head.
        """
        if not 0 <= head < self.heads:
            raise UnknownName(f"{self.name} has {self.heads} heads, counted from 0; there is no head {head}.")
        if self.layout.block is not None or self.layout.columns is not None:
            return self  # a head is its own only head
        suffix = f"{'.' if '#' in self.name else '#'}h{head}"
        name, dim, layout = self.name + suffix, self.head_dim, self.layout
        if self.projection == "o":  # o reads the heads one beside the other; its bias belongs to no head
            layout = replace(layout, columns=(head * dim, dim))
            return replace(self, name=name, cols=dim, heads=1, layout=layout, bias=None)
        block, within = divmod(head, self.heads // layout.blocks)
        layout = replace(layout, block=block, start=layout.start + within * dim, size=dim)
        bias = self.bias and f"{self.bias}{'.' if '#' in self.bias else '#'}h{head}"
        return replace(self, name=name, rows=dim, heads=1, layout=layout, bias=bias)

    def head_of(self, stored: "Tensor", head: int) -> "Tensor":
        """Return one head as a view of the stored tensor: (head_dim, in), or of o (out, head_dim).

        Args:
            stored: The stored tensor.
            head: From 0; of k and v, the key-value group.

        Raises:
            MastlensError: If there is no such head.
        """
        return self.head(head).layout.view(stored)[0]

    def heads_of(self, stored: "Tensor") -> "Tensor":
        """Return all heads as one view of the stored tensor: (heads, head_dim, in), or of o (heads, out, head_dim).

        Raises:
            MastlensError: If it has no heads, or they lie at uneven distances (a q that alternates by group), so that
                no view holds them all; ``head_of`` gives each.
        """
        if not self.heads:
            raise NotSupported(f"{self.name} has no heads.")
        part = self.layout.view(stored)
        if self.projection == "o":
            return part[0].unflatten(1, (self.heads, self.head_dim)).movedim(1, 0)
        try:
            return part.view(self.heads, self.head_dim, self.cols)
        except RuntimeError:
            raise NotSupported(
                f"The heads of {self.name} lie at uneven distances; take them one by one with head_of."
            ) from None

    def outputs_of(self, outputs: "Tensor") -> "Tensor":
        """Return this projection's part (..., rows) of what its module puts out; also of a fused bias."""
        return self.layout.view_outputs(outputs).flatten(-2)

    def write_outputs(self, outputs: "Tensor", part: "Tensor") -> None:
        """Put ``part`` (..., rows) into what the module puts out, in place; the other projections' parts stay."""
        view = self.layout.view_outputs(outputs)
        view.copy_(part.unflatten(-1, view.shape[-2:]))


def find_projections(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[Projection, ...]:
    """Return every attention projection, by layer, then q < k < v < o, then the rest of ``ORDER``.

    Layers for which the configuration promises no attention (linear attention, convolution) have none.

    Args:
        config: The parsed ``config.json``.
        shapes: Name to shape of every stored tensor.

    Raises:
        MastlensError: For an architecture that is not known, or a tensor that is missing or of another shape
            than the configuration says.
    """
    completed = complete_config(config)
    architecture = find_architecture(completed, shapes)
    if architecture is None:
        raise not_known(str(getattr(completed, "model_type", "")), shapes)
    prefix = find_prefix(architecture, shapes)
    if prefix is None:
        first = next(iter(architecture.tensors)).format(layer=0)
        raise NotSupported(
            f"The checkpoint has no tensor {first} nor any like it, which its config.json promises. "
            f"Its tensors look like {', '.join(list(shapes)[:3])}."
        )
    found: list[Projection] = []
    for layer in range(read_size(completed, "num_hidden_layers")):
        here = []
        for name, contents in architecture.contents.items():
            if (stored := prefix + name.format(layer=layer)) in shapes:
                here += _slices(stored, contents, layer, completed, architecture, shapes)
        _check_layer(here, layer, completed, architecture, prefix)
        found += here
    if not found:
        raise NotSupported("The model has no layer with attention, by its config.json.")
    return tuple(sorted(found))


def _check_layer(here: list[Projection], layer: int, config: Any, architecture: Architecture, prefix: str) -> None:
    labels = [p.projection for p in here]
    if not labels and not has_attention(config, layer):
        return
    for wanted in ORDER[:4]:
        holders = [prefix + n.format(layer=layer) for n, c in architecture.contents.items() if wanted in c.parts]
        if wanted not in labels:
            raise NotSupported(f"The checkpoint has no tensor {' or '.join(holders)}, which its config.json promises.")
        if labels.count(wanted) > 1:
            raise BadFile(f"Layer {layer} has {wanted} more than once, in {' and '.join(holders)}.")


def _slices(
    stored: str,
    contents: Contents,
    layer: int,
    config: Any,
    architecture: Architecture,
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[Projection]:
    sizes: dict[str, tuple[int, int]] = {}
    for label in contents.parts:
        heads_key, dim_key = architecture.sizes[label]
        sizes[label] = (read_size(config, heads_key) if heads_key else 0, read_size(config, dim_key))
    widths = {label: max(heads, 1) * head_dim for label, (heads, head_dim) in sizes.items()}
    out, into = sum(widths.values()), read_size(config, contents.inputs)
    if contents.parts == ("o",):
        out, into = into, out
    expected = (into, out) if contents.transposed else (out, into)
    if tuple(shapes[stored]) != expected:
        raise BadFile(
            f"{stored} is {tuple(shapes[stored])}, its config.json says {expected} (for {', '.join(contents.parts)}). "
            "If the architecture stores it in another way, say how with mastlens.register_architecture."
        )
    per = {"head": "num_attention_heads", "group": "num_key_value_heads"}.get(contents.per)
    blocks = read_size(config, per) if per else 1
    if uneven := [label for label, (heads, _) in sizes.items() if (heads or widths[label]) % blocks]:
        raise NotSupported(
            f"{uneven[0]} of {stored} cannot be cut into {blocks} equal blocks, one per {contents.per}. "
            "With grouped queries it is 'per group'."
        )
    fused, start = len(contents.parts) > 1, 0
    parent = stored.removesuffix(".weight").rpartition(".")[0]
    for label, (heads, head_dim) in sizes.items():
        suffix = f"#{label}" if fused else ""
        bias = f"{stored.removesuffix('weight')}bias"
        norms = [f"{parent}.{norm}.weight" for norm in _NORMS.get(label, ())]
        size = out // blocks if contents.parts == ("o",) else widths[label] // blocks
        yield Projection(
            layer=layer,
            order=ORDER.index(label),
            projection=label,
            name=stored + suffix,
            rows=size * blocks,
            cols=into,
            heads=heads,
            head_dim=head_dim if heads else 0,
            layout=Layout(blocks, start, size, contents.transposed) if fused or contents.transposed else WHOLE,
            bias=bias + suffix if bias in shapes else None,
            norm=next((norm for norm in norms if norm in shapes), None),
        )
        start += size


def match_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names in which the regular expression ``pattern`` is found, in their order.

    Raises:
        MastlensError: If the pattern is not a regular expression or matches nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise BadSetting(f"{pattern!r} is not a regular expression: {error}.") from error
    names = list(names)
    if not (matched := [name for name in names if expression.search(name)]):
        raise BadSetting(f"{pattern!r} matches no tensor. Names look like {', '.join(names[:3])}.")
    return matched
