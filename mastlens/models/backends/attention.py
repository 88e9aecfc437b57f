"""Look inside the attention function: what enters the scores, the scores, the pattern.

transformers lets a model choose its attention function by name (``AttentionInterface``). Here a name is registered
beside each one in use whose function calls the original and lets the watched tensors pass by; only models that are
being watched have that name in their configuration, and only while they are.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mastlens.models.backends import placements
from mastlens.models.backends.sites import attention_function

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFIX = "mastlens:"
Tap = Callable[[str, Tensor, placements.Placement], Tensor]
"""Activation's name, the tensor that holds it, how it lies there -> the tensor to go on with."""

_taps: WeakKeyDictionary[nn.Module, list[tuple[frozenset[str], Tap]]] = WeakKeyDictionary()


@contextmanager
def tapped(model: "PreTrainedModel", taps: Mapping[str, tuple[frozenset[str], Tap]]) -> Iterator[None]:
    """Let activations inside attention functions pass by.

    Scores and pattern exist only in the eager function, so the model runs that one while any of them is watched;
    else it keeps the function that it has.

    Args:
        model: The model.
        taps: Path of an attention module to the names that are wanted there and where they pass by.
    """
    eager = any(names & {"scores", "pattern"} for names, _ in taps.values())
    modules = [(model.get_submodule(path), tap) for path, tap in taps.items()]
    configs = _configs(model, taps)
    before = [config._attn_implementation_internal for config in configs]
    try:
        for module, tap in modules:
            _taps.setdefault(module, []).append(tap)
        for config, implementation in zip(configs, before, strict=True):
            plain = str(implementation).removeprefix(_PREFIX)
            config._attn_implementation_internal = _register("eager" if eager else plain)
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation
        for module, tap in modules:
            if tap in _taps.get(module, []):
                _taps[module].remove(tap)


def _configs(model: "PreTrainedModel", paths: Mapping[str, Any]) -> list[Any]:
    """Return the configurations that a mask or an attention function on the way to ``paths`` is chosen from."""
    found = {}
    for path in paths:
        parts = path.split(".")
        for end in range(len(parts) + 1):
            config = getattr(model.get_submodule(".".join(parts[:end])), "config", None)
            if hasattr(config, "_attn_implementation_internal"):
                found[id(config)] = config
    return list(found.values())


def _register(implementation: str) -> str:
    from transformers import AttentionInterface, AttentionMaskInterface

    name = _PREFIX + implementation
    if name not in AttentionInterface._global_mapping:
        AttentionInterface.register(name, _beside(implementation))
        if implementation in AttentionMaskInterface._global_mapping:
            AttentionMaskInterface.register(name, AttentionMaskInterface._global_mapping[implementation])
    return name


def _beside(implementation: str) -> Callable:
    def attention(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        functions, eager = attention_function(module) or (None, None)
        assert functions is not None, "only a module that chooses its attention function by name comes here"
        original = functions.get_interface(implementation, eager)
        taps = _taps.get(module, [])
        for names, tap in taps:
            if "q_rot" in names:
                query = tap("q_rot", query, placements.TRANSPOSED)
            if "k_rot" in names:
                key = tap("k_rot", key, placements.TRANSPOSED)
        if not any(names & {"scores", "pattern"} for names, _ in taps):
            return original(module, query, key, *args, **kwargs)
        with _Softmax(taps, key.shape[-2]):
            return original(module, query, key, *args, **kwargs)

    return attention


class _Softmax(TorchFunctionMode):
    """The first softmax inside: what it sees are the scores, what it gives is the pattern."""

    def __init__(self, taps: list[tuple[frozenset[str], Tap]], count: int):
        super().__init__()
        self.taps, self.placement, self.done = taps, placements.keys(count), False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.done or func not in (nn.functional.softmax, torch.softmax, Tensor.softmax):
            return func(*args, **kwargs)
        self.done = True
        pattern = func(self._pass("scores", args[0]), *args[1:], **kwargs)
        return self._pass("pattern", pattern)

    def _pass(self, name: str, value: Tensor) -> Tensor:
        for names, tap in self.taps:
            if name in names:
                value = tap(name, value, self.placement)
        return value
