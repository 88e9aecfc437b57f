"""Where a checkpoint's tensors stand in the model that transformers makes of it: mostly under their names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastlens.architectures.catalogue import PREFIXES

if TYPE_CHECKING:
    from torch import Tensor

# Modules that transformers calls otherwise than the files do (Mixtral; GPT-NeoX).
_RENAMED = ((".block_sparse_moe.", ".mlp."), ("embed_out.", "lm_head."))
# transformers stacks experts that are stored one by one, (experts, out, in), and puts gate and up into one stack.
_EXPERT = re.compile(r".+\.experts\.(?P<expert>\d+)\.(?P<part>w1|w2|w3|gate_proj|up_proj|down_proj)\.weight")
_STACK = re.compile(r".+\.experts\.(?P<stack>gate_up_proj|down_proj)")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_HALF = {"w1": 0, "gate_proj": 0, "w3": 1, "up_proj": 1}


@dataclass(frozen=True)
class Place:
    """A stored tensor's place in a model: a parameter, or some rows of one matrix of a stack.

    Attributes:
        parameter: The parameter's (or buffer's) name in the model.
        expert: Which matrix of the stack; None where the parameter is the tensor.
        half: Which half of its rows; None for all.
    """

    parameter: str
    expert: int | None = None
    half: int | None = None

    @property
    def shared(self) -> bool:
        """Whether the parameter holds other stored tensors too."""
        return self.expert is not None

    def of(self, parameter: "Tensor", first: int = 0) -> "Tensor":
        """Return the stored tensor's part of the parameter, or of its gradient, as a view.

        Args:
            parameter: The parameter.
            first: Of a stack that is there in part, its first matrix.
        """
        matrix = parameter if self.expert is None else parameter[self.expert - first]
        return matrix if self.half is None else matrix.chunk(2)[self.half]


def bare_name(name: str) -> str:
    """Return a tensor's name without the prefix that may stand before it."""
    return name.removeprefix(next(prefix for prefix in PREFIXES if name.startswith(prefix)))


def same_names(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return the other name of each name: the same, or the only one that differs in its prefix alone.

    The two mostly agree; but a file may lack the prefix that the model's class puts before its names (GPT-2 on the
    hub), or have another one (Gemma 3 inside the multimodal model).
    """
    others = list(others)
    there, by_bare = set(others), {}
    for other in others:
        by_bare.setdefault(bare_name(other), []).append(other)
    found = {}
    for name in names:
        candidates = [name] if name in there else by_bare.get(bare_name(name), [])
        if len(candidates) == 1:
            found[name] = candidates[0]
    return found


def locate_tensors(names: Iterable[str], parameters: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
    """Return the place in a loaded model of each name of its checkpoint that it has.

    Args:
        names: Of stored tensors.
        parameters: Name to shape of the model's parameters (and buffers).
    """
    names = list(names)
    found = {name: Place(parameter) for name, parameter in same_names(names, parameters).items()}
    renamed = {_renamed(name): name for name in names if name not in found}
    renamed = {other: name for other, name in renamed.items() if other != name}
    found |= {renamed[other]: Place(parameter) for other, parameter in same_names(renamed, parameters).items()}
    stacks: dict[tuple[str, str], list[str]] = {}
    for parameter, shape in parameters.items():
        if (match := _STACK.fullmatch(parameter)) and (layer := _LAYER.search(parameter)) and len(shape) == 3:
            stacks.setdefault((layer[1], match["stack"]), []).append(parameter)
    for name in names:
        match, layer = _EXPERT.fullmatch(name), _LAYER.search(name)
        if name in found or match is None or layer is None:
            continue
        half = _HALF.get(match["part"])
        stack = stacks.get((layer[1], "down_proj" if half is None else "gate_up_proj"), [])
        if len(stack) == 1 and int(match["expert"]) < parameters[stack[0]][0]:
            found[name] = Place(stack[0], int(match["expert"]), half)
    return found


def _renamed(name: str) -> str:
    for stored, model in _RENAMED:
        if stored in name:
            return name.replace(stored, model)
    return name
