"""Inside vLLM's processes: a checkpoint's weights with others in their places, and a look at what came of them.

An edit goes in while the weights are loaded, on the way that every weight takes (vLLM lets loaders be registered). So
it passes through whatever vLLM does to weights (fusing q, k and v, shares of several GPUs, packing for a CPU), and
nothing is compiled or captured before it is there. vLLM's update of a running model is another way to the same end: it
takes whole fused layers only, and has run with the old weights where something was captured.

Only vLLM's processes import this module, by its name; so its imports of vLLM stand at its top.
"""

import copy
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mastlens.decoding.serving import FILE, FORMAT

_ROWS = 512  # of an identity matrix at a time

_loaders: Any = importlib.import_module("vllm.model_executor.model_loader")


@_loaders.register_model_loader(FORMAT)
class ChangedLoader(_loaders.DefaultModelLoader):
    """vLLM's own loader, with some tensors taken from another file."""

    def __init__(self, load_config: Any):
        plain = copy.copy(load_config)
        plain.load_format, plain.model_loader_extra_config = "auto", dict(load_config.model_loader_extra_config)
        self._changes = plain.model_loader_extra_config.pop(FILE)
        super().__init__(plain)

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight of the checkpoint, changed ones as they are to be.

        Raises:
            ValueError: If vLLM does not read one of them.
        """
        with safe_open(self._changes, framework="pt") as stream:
            waiting = set(stream.keys())
            for name, value in super().get_all_weights(model_config, model):
                yield name, stream.get_tensor(name) if name in waiting else value
                waiting.discard(name)
        if waiting:
            raise ValueError(f"vLLM reads no tensor {min(waiting)} of this checkpoint, so it cannot be changed.")


class ReadBack:
    """What vLLM's workers can do beside their own: say whether they hold what a file says."""

    model_runner: Any

    def held_otherwise(self, file: str) -> list[str]:
        """Return the names in a file whose tensors this worker does not hold, or holds where they are not found.

        Of several GPUs each holds a block of a tensor's rows or columns, which must stand in the file as a block.
        """
        model = self.model_runner.get_model()
        with safe_open(file, framework="pt") as stream, torch.inference_mode():
            return [name for name in stream.keys() if not _holds(model, name, stream.get_tensor(name))]  # noqa: SIM118


def _holds(model: Any, name: str, whole: Tensor) -> bool:
    held = _held(model, name)
    if held is None:
        return False
    held, whole = held.cpu(), whole.to(held.dtype)
    if held.dim() != whole.dim():
        return False
    if held.shape == whole.shape:
        return torch.equal(held, whole)
    # Vocabularies are padded, and their last share of several may be padding in part.
    for axis in range(whole.dim()):
        size, blocks = held.shape[axis], -(-whole.shape[axis] // held.shape[axis])
        for block in range(blocks):
            part = whole.narrow(axis, block * size, min(size, whole.shape[axis] - block * size))
            mine = held.narrow(axis, 0, part.shape[axis])
            if mine.shape == part.shape and torch.equal(mine, part):
                return True
    return False


def _held(model: Any, name: str) -> Tensor | None:
    """Return what a model holds of a checkpoint's tensor, of a fused layer its part; None where it is not found."""
    path, _, kind = name.rpartition(".")
    parent, _, last = path.rpartition(".")
    try:
        return _whole(model.get_submodule(path), kind)
    except AttributeError:
        pass
    for fused, parts in getattr(model, "packed_modules_mapping", {}).items():
        if last not in parts:
            continue
        try:
            layer = model.get_submodule(f"{parent}.{fused}")
        except AttributeError:
            continue
        sizes: list[int] = list(getattr(layer, "output_partition_sizes", ()))
        value = _whole(layer, kind)
        if value is None or len(sizes) != len(parts):
            return None
        place = parts.index(last)
        return value.narrow(0, sum(sizes[:place]), sizes[place])
    return None


def _whole(layer: Any, kind: str) -> Tensor | None:
    """Return a layer's tensor; of a weight that was packed away, what the layer makes of an identity matrix."""
    value = getattr(layer, kind, None)
    if not isinstance(value, Tensor):
        return None
    if value.numel():
        return value
    size, method = getattr(layer, "input_size_per_partition", None), getattr(layer, "quant_method", None)
    if kind != "weight" or size is None or method is None:
        return None
    unit = torch.eye(size, dtype=layer.params_dtype)
    # A row of it times the weight is a column of the weight, exactly: all other products are 0.
    return torch.cat([method.apply(layer, unit[start : start + _ROWS], None) for start in range(0, size, _ROWS)]).T
