"""Every weight matrix of a checkpoint, attention or not: what a regular expression over names selects from."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mastlens.architectures.catalogue import ORDER, Contents, find_architecture, find_prefix
from mastlens.architectures.configuration import complete_config, read_size
from mastlens.architectures.projections import Layout, Projection, find_projections, match_names

# The last part of a module's path -> what its weight is called in tables.
_LABELS = {
    **dict.fromkeys(("gate_proj", "w1"), "mlp_gate"),
    **dict.fromkeys(("up_proj", "w3", "c_fc", "dense_h_to_4h", "fc1"), "mlp_up"),
    **dict.fromkeys(("down_proj", "w2", "dense_4h_to_h", "fc2"), "mlp_down"),
    **dict.fromkeys(("embed_tokens", "wte", "embed_in"), "embed"),
    **dict.fromkeys(("lm_head", "embed_out"), "lm_head"),
    **dict.fromkeys(("gate", "router"), "router"),
    **dict.fromkeys(("wpe", "embed_positions"), "position"),
    "gate_up_proj": "mlp_gate_up",
}


def find_matrices(
    pattern: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Projection, ...]:
    """Return every weight matrix whose name matches, attention or not; ``.`` for all.

    Attention projections are slices as ``find_projections`` gives them (``#q`` can be matched). Of a stack of experts,
    each is a matrix of its own, ``...#3``, in the layout of the file. Of an architecture without a map,
    tensors are taken as they are stored.

    Args:
        pattern: A regular expression, found anywhere in the name.
        config: The parsed ``config.json``.
        shapes: Name to shape of every tensor that counts; leave out those of integers.

    Returns:
        In layer order, those in no layer (-1) first, then as ``ORDER``, then by name. ``projection`` of the others is
        mlp_gate, mlp_up, mlp_down, router, embed, position, lm_head or the module's own name; their ``heads`` are 0.

    Raises:
        MastlensError: If the pattern is not a regular expression or matches nothing.
    """
    completed = complete_config(config)
    architecture = find_architecture(completed, shapes)
    found = [] if architecture is None else list(find_projections(config, shapes))
    attention = {p.stored for p in found}
    others: dict[str, Contents] = {}
    if architecture is not None:
        prefix = find_prefix(architecture, shapes)
        layers = range(read_size(completed, "num_hidden_layers"))
        for name, text in architecture.others.items():
            others |= {f"{prefix}{name.format(layer=layer)}": Contents.parse(text) for layer in layers}
    for name, shape in shapes.items():
        if name not in attention:
            found += _other_matrices(name, tuple(shape), others.get(name))
    by_name = {matrix.name: matrix for matrix in sorted(found)}
    return tuple(by_name[name] for name in match_names(pattern, by_name))


def _other_matrices(name: str, shape: tuple[int, ...], contents: Contents | None) -> Iterator[Projection]:
    if len(shape) == 3 and "expert" in name:
        layouts = {f"#{expert}": Layout(expert=expert) for expert in range(shape[0])}
        labels = dict.fromkeys(layouts, _label(name))
        rows, cols = shape[1:]
    elif len(shape) == 2:
        contents = contents or Contents((_label(name),))
        rows, cols = shape[::-1] if contents.transposed else shape
        rows //= len(contents.parts)
        suffixes = [f"#{label}" for label in contents.parts] if len(contents.parts) > 1 else [""]
        labels = dict(zip(suffixes, contents.parts, strict=True))
        size = rows if len(suffixes) > 1 else None  # alone it is all there is, also where a vocabulary is padded
        layouts = {s: Layout(1, i * rows, size, contents.transposed) for i, s in enumerate(suffixes)}
    else:
        return
    layer = re.search(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.", name)
    for suffix, layout in layouts.items():
        yield Projection(
            layer=int(layer[1]) if layer else -1,
            order=len(ORDER),
            projection=labels[suffix],
            name=name + suffix,
            rows=rows,
            cols=cols,
            heads=0,
            head_dim=0,
            layout=layout,
        )


def _label(name: str) -> str:
    own = name.removesuffix(".weight").rpartition(".")[2]
    return _LABELS.get(own, own)
