"""LoRA adapters in PEFT's format, added to the base tensor by tensor when a tensor is read."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mastlens.checkpoints.shards import StoredTensor, read_header
from mastlens.errors import BadFile, MastlensError, NotFound, NotSupported, NotTogether, unknown

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_PREFIX = "base_model.model."
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_embedding_A|lora_embedding_B|lora_A\.weight|lora_B\.weight|lora_B\.bias"
    r"|lora_magnitude_vector(?:\.weight)?)"
)
# What changes the meaning of A and B, or adds parts that are no sum of base and product.
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_ROWS = 1024  # rows that are in float64 at a time


@dataclass
class _Change:
    """What an adapter does to one tensor: its own tensors by role, and the scale of the product."""

    parts: dict[str, StoredTensor] = field(default_factory=dict)
    scale: float = 1.0
    transposed: bool = False


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, bound to the tensors of a base checkpoint.

    Supported: ranks and alphas by pattern, rank-stabilised scale, transposed storage (``fan_in_fan_out``), fused
    and embedding modules, ``modules_to_save``, trained biases, DoRA (Liu et al., arXiv:2402.09353) on linear layers.

    Attributes:
        folder: Where it lies.
        changes: Name of each base tensor that it changes, to how.
    """

    folder: Path
    changes: Mapping[str, _Change]

    @classmethod
    def open(cls, folder: Path, base: Mapping[str, StoredTensor]) -> "Adapter":
        """Read an adapter's configuration and headers and find the base tensor behind every one of its tensors.

        Args:
            folder: A folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
            base: The base checkpoint's tensors.

        Raises:
            MastlensError: For a kind of adapter that is not base + scale * B A, or one of another base.
        """
        config = read_adapter_config(folder)
        _check_kind(folder, config)
        weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if weights is None:
            raise NotFound(f"{folder} has {CONFIG} but no {WEIGHTS[0]}. Download the adapter again.")
        changes: dict[str, _Change] = {}
        for stored in read_header(weights):
            key = stored.name.removeprefix(_PREFIX).replace(".base_layer.", ".")
            match = _KEY.fullmatch(key)
            if match is None:  # modules_to_save, trained biases: whole tensors
                name, part = key, "whole"
            else:
                part = match["part"].removesuffix(".weight").replace("lora_embedding_", "embedding_")
                name = match["module"] + (".bias" if part == "lora_B.bias" else ".weight")
            found = _stored_name(name, base)
            if found is None and part == "whole" and name == "lm_head.weight":
                if _is_input_embedding(stored, base):
                    continue  # PEFT saves both ends of a tied embedding
                raise NotSupported(
                    f"The adapter {folder} trained an output embedding of its own, but its base ties the output to "
                    "the input embedding. Merge it with PEFT first, which unties them."
                )
            if found is None:
                raise NotTogether(
                    f"{stored.name} of the adapter {folder} has no counterpart in the base checkpoint: "
                    f"{unknown('tensor', name, base)} Is it the base that the adapter was trained on?"
                )
            changes.setdefault(found, _Change()).parts[part] = stored
        for name, change in changes.items():
            _complete(folder, config, name, change, base[name])
        if not changes:
            raise BadFile(f"{weights} holds no tensors, so the adapter changes nothing.")
        return cls(folder, changes)

    def result_dtype(self, name: str, base: torch.dtype) -> torch.dtype:
        """Return the dtype of a tensor with the adapter in it: that of the sum, at least float32.

        A tensor saved whole keeps its own dtype. Merging in place, as PEFT does, rounds to the base's dtype and
        would swallow most of a small update in bfloat16.
        """
        if name not in self.changes:
            return base
        parts = self.changes[name].parts
        start = parts["whole"].dtype if "whole" in parts else base
        return start if set(parts) == {"whole"} else torch.promote_types(start, torch.float32)

    def apply(self, name: str, value: Tensor) -> Tensor:
        """Return the base tensor with the adapter in it: base + scale * B A, summed in float64, rounded once."""
        change = self.changes[name]
        parts = {part: stored.read().double() for part, stored in change.parts.items() if part != "whole"}
        if "whole" in change.parts:
            value = change.parts["whole"].read()
        if not parts:
            return value
        result = value.to(self.result_dtype(name, value.dtype))
        if "lora_B.bias" in parts:
            return (result.double() + change.scale * parts["lora_B.bias"]).to(result.dtype)
        if "embedding_A" in parts:  # rows are tokens: (B A)' = A' B'
            left, right = parts["embedding_A"].T, parts["embedding_B"].T
        elif change.transposed:
            left, right = parts["lora_A"].T, parts["lora_B"].T
        else:
            left, right = parts["lora_B"], parts["lora_A"]
        right = change.scale * right
        for start in range(0, len(result), _ROWS):
            rows = slice(start, start + _ROWS)
            result[rows] = (result[rows].double() + left[rows] @ right).to(result.dtype)
        if "lora_magnitude_vector" in parts:
            wide = result.double()
            output = 0 if change.transposed else 1  # the axis of the inputs, over which each output's norm runs
            norm = torch.linalg.vector_norm(wide, dim=output, keepdim=True)
            magnitude = parts["lora_magnitude_vector"].reshape(norm.shape)
            result = (wide * (magnitude / norm)).to(result.dtype)
        return result


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return the parsed ``adapter_config.json``."""
    path = folder / CONFIG
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} cannot be read as an adapter's configuration: {error}.") from error


def base_of(folder: Path) -> str:
    """Return what an adapter says its base is: an existing path, or else a hub id with its revision.

    A relative path is looked for from the working folder, then from the adapter's own.

    Raises:
        MastlensError: If it names none.
    """
    config = read_adapter_config(folder)
    named = config.get("base_model_name_or_path")
    if not named:
        raise MastlensError(f"The adapter {folder} does not say what its base is. Name it: BASE+{folder}.")
    if Path(named).is_dir() or str(named).startswith("organism:"):
        return str(named)
    if (folder / named).is_dir():
        return str(folder / named)
    return f"{named}@{config['revision']}" if config.get("revision") else str(named)


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise NotSupported(f"The adapter {folder} is of type {kind}; LORA is supported. Merge it with PEFT first.")
    if used := [key for key in _UNSUPPORTED if config.get(key)]:
        raise NotSupported(
            f"The adapter {folder} uses {', '.join(used)}, which is not base + scale * B A. Merge it with PEFT first."
        )
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise MastlensError(
            f"The adapter {folder} was initialised by {start!r}, which changed the base weights too. Convert it to "
            "plain LoRA when saving (PEFT's path_initial_model_for_weight_conversion), or merge it first."
        )


def _stored_name(name: str, base: Mapping[str, StoredTensor]) -> str | None:
    # Some checkpoints are stored without the prefix of the headless model ("transformer.", "model.").
    return next((candidate for candidate in (name, name.partition(".")[2]) if candidate in base), None)


def _is_input_embedding(stored: StoredTensor, base: Mapping[str, StoredTensor]) -> bool:
    same_shape = [b for name, b in base.items() if "embed" in name and b.shape == stored.shape]
    return any(torch.equal(stored.read().float(), candidate.read().float()) for candidate in same_shape)


def _complete(folder: Path, config: Mapping[str, Any], name: str, change: _Change, base: StoredTensor) -> None:
    """Check that an adapter's tensors fit together and to the base tensor, and set scale and orientation."""
    if "whole" in change.parts and change.parts["whole"].shape != base.shape:
        whole = change.parts["whole"].shape
        raise NotTogether(f"{name} is {whole} in the adapter {folder}, {base.shape} in its base.")
    parts = {part: stored for part, stored in change.parts.items() if part != "whole"}
    if not parts:
        return
    module = name.rpartition(".")[0]
    rank = int(_by_pattern(config.get("rank_pattern"), module, config.get("r", 8)))
    alpha = float(_by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    change.scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if set(parts) == {"lora_B.bias"}:
        shape, ranks = parts["lora_B.bias"].shape, {rank}
    elif set(parts) == {"embedding_A", "embedding_B"}:
        shape = (parts["embedding_A"].shape[1], parts["embedding_B"].shape[0])
        ranks = {parts["embedding_A"].shape[0], parts["embedding_B"].shape[1]}
    elif set(parts) in ({"lora_A", "lora_B"}, {"lora_A", "lora_B", "lora_magnitude_vector"}) and all(
        len(parts[part].shape) == 2 for part in ("lora_A", "lora_B")
    ):
        shape = (parts["lora_B"].shape[0], parts["lora_A"].shape[1])
        ranks = {parts["lora_A"].shape[0], parts["lora_B"].shape[1]}
        change.transposed = bool(config.get("fan_in_fan_out"))
        if shape != base.shape and shape[::-1] == base.shape:
            change.transposed = True
        shape = shape[::-1] if change.transposed else shape
    else:
        raise NotSupported(
            f"The adapter {folder} holds {', '.join(sorted(parts))} for {name}: not the A and B of a linear layer or "
            "an embedding. Merge it with PEFT first."
        )
    if tuple(shape) != base.shape or ranks != {rank}:
        raise NotTogether(
            f"The adapter {folder} gives {name} a change of {tuple(shape)} and rank {sorted(ranks)}; its base has "
            f"{base.shape} and its {CONFIG} says rank {rank}. Is it the base that the adapter was trained on?"
        )


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
