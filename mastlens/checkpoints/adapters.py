"""LoRA adapters in PEFT's format, added to the base tensor by tensor when a tensor is read."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mastlens.architectures.matrices import find_matrices
from mastlens.architectures.placement import locate_tensors
from mastlens.checkpoints.adapter_settings import Settings
from mastlens.checkpoints.shards import StoredTensor, read_header
from mastlens.checkpoints.tying import find_tie
from mastlens.errors import BadFile, MastlensError, NotFound, NotSupported, NotTogether, unknown

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_PREFIX = "base_model.model."
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_embedding_A|lora_embedding_B|lora_A\.weight|lora_B\.weight|lora_B\.bias"
    r"|lora_magnitude_vector(?:\.weight)?)"
)
_HEADS = ("lm_head.weight", "embed_out.weight")
_ROWS = 1024  # rows that are in float64 at a time


@dataclass
class _Change:
    """What an adapter does to one tensor: its name in the model, its own tensors by role, the scale of the product."""

    name: str
    parts: dict[str, StoredTensor] = field(default_factory=dict)
    scale: float = 1.0
    transposed: bool = False


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, bound to the tensors of a base checkpoint.

    Supported: ranks and alphas by pattern, rank-stabilised scale, transposed storage (``fan_in_fan_out``), fused
    and embedding modules, ``modules_to_save``, trained biases, DoRA (Liu et al., arXiv:2402.09353) on linear layers.

    Attributes:
        settings: What its configuration says.
        weights: Its weight file.
        changes: Name of each base tensor that it changes, to how.
    """

    settings: Settings
    weights: Path
    changes: Mapping[str, _Change]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.settings.folder

    @property
    def config(self) -> Mapping[str, Any]:
        """The parsed ``adapter_config.json``."""
        return self.settings.config

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files."""
        return (self.settings.path, self.weights)

    @classmethod
    def open(cls, folder: Path, base: "Checkpoint") -> "Adapter":
        """Read an adapter's configuration and headers and find the base tensor behind every one of its tensors.

        Args:
            folder: A folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
            base: The checkpoint that it is added to.

        Raises:
            MastlensError: For a kind of adapter that is not base + scale * B A, or one of another base.
        """
        settings = Settings.read(folder)
        settings.check_kind()
        weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if weights is None:
            raise NotFound(f"{settings.path} has no {WEIGHTS[0]} beside it. Download the adapter again.")
        collected = _collect(settings, read_header(weights))
        if not collected:
            raise BadFile(f"{weights} holds no tensors, so the adapter changes nothing.")
        stored = _stored_names(collected, base.tensors)
        changes: dict[str, _Change] = {}
        for name, change in collected.items():
            if name in stored:
                changes[stored[name]] = change
            elif name not in _HEADS or find_tie(base) is None:
                first = next(iter(change.parts.values()))
                raise NotTogether(
                    f"{first.name} of the adapter {folder} has no counterpart in the base checkpoint: "
                    f"{unknown('tensor', name, base.tensors)} Is it the base that the adapter was trained on?"
                )
        transposed = stored_transposed(base)
        for name, change in changes.items():
            _complete(settings, name, change, base.tensors[name], transposed=name in transposed)
        head = next((change for name, change in collected.items() if name in _HEADS), None)
        _check_tie(folder, base, changes, head)
        return cls(settings, weights, changes)

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


def _collect(settings: Settings, tensors: Iterable[StoredTensor]) -> dict[str, _Change]:
    """Return the name in the model of each tensor that an adapter changes, to its parts."""
    found: dict[str, _Change] = {}
    for stored in tensors:
        key = stored.name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        match = _KEY.fullmatch(key)
        if match is None:  # modules_to_save, trained biases: whole tensors
            name, part = key, "whole"
        else:
            part = match["part"].removesuffix(".weight").replace("lora_embedding_", "embedding_")
            name = match["module"] + (".bias" if part == "lora_B.bias" else ".weight")
            settings.check_targeted(match["module"])
        if part in (parts := found.setdefault(name, _Change(name)).parts):
            raise BadFile(f"The adapter {settings.folder} holds {parts[part].name} and {stored.name}: {part} twice.")
        parts[part] = stored
    return found


def _stored_names(names: Iterable[str], base: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Return name in the model to name in the base checkpoint: the same, or without or with another prefix."""
    places = locate_tensors(base, dict.fromkeys(names, ()))
    return {place.parameter: name for name, place in places.items()}


def stored_transposed(base: "Checkpoint") -> frozenset[str]:
    """Return the names of the tensors that lie as (in, out) in a checkpoint."""
    shapes = {name: stored.shape for name, stored in base.tensors.items()}
    try:
        return frozenset(m.stored for m in find_matrices(".", base.config, shapes) if m.layout.transposed)
    except MastlensError:  # of an architecture that is not known: then shapes and the adapter's settings decide
        return frozenset()


def _check_tie(folder: Path, base: "Checkpoint", changes: dict[str, _Change], head: _Change | None) -> None:
    """Raise if an adapter changes one end of a tied embedding: PEFT would run with two matrices, the base has one."""
    tie = find_tie(base)
    if tie is None or (head is None and tie not in changes):
        return
    ends = changes.get(tie, _Change(tie)).parts, {} if head is None else head.parts

    def value(parts: Mapping[str, StoredTensor]) -> Tensor:
        return parts["whole"].read() if "whole" in parts else base.tensor(tie)

    rest = [{part: stored.read() for part, stored in parts.items() if part != "whole"} for parts in ends]
    names = {"embedding_A": "lora_B", "embedding_B": "lora_A"}  # rows are tokens: (B A)' = A' B'
    mirrored = {names[part]: tensor.T for part, tensor in rest[0].items() if part in names}
    alike = len(mirrored) == len(rest[0]) and mirrored.keys() == rest[1].keys()
    alike = alike and all(torch.equal(tensor, rest[1][part]) for part, tensor in mirrored.items())
    if not alike or not torch.equal(*(value(parts).float() for parts in ends)):
        raise NotSupported(
            f"The adapter {folder} changes one end of a tied embedding: its base {base.spec} has one matrix, {tie}, "
            "for the input and the output embedding (lm_head), and PEFT would run with two. Untie the base first (save "
            "it with tie_word_embeddings=false and an lm_head of its own), or train with ensure_weight_tying."
        )


def _complete(settings: Settings, name: str, change: _Change, base: StoredTensor, *, transposed: bool) -> None:
    """Check that an adapter's tensors fit together and to the base tensor, and set scale and orientation."""
    folder = settings.folder
    if "whole" in change.parts and change.parts["whole"].shape != base.shape:
        whole = change.parts["whole"].shape
        raise NotTogether(f"{name} is {whole} in the adapter {folder}, {base.shape} in its base.")
    if integers := [part for part, stored in change.parts.items() if not stored.dtype.is_floating_point]:
        raise NotSupported(f"The adapter {folder} holds integers as {integers[0]} of {name}: codes, not weights.")
    parts = {part: stored for part, stored in change.parts.items() if part != "whole"}
    if not parts:
        return
    rank, change.scale = settings.rank_and_scale(change.name.rpartition(".")[0])
    if set(parts) == {"lora_B.bias"}:
        shape, ranks = parts["lora_B.bias"].shape, {rank}
    elif set(parts) == {"embedding_A", "embedding_B"} and all(len(one.shape) == 2 for one in parts.values()):
        shape = (parts["embedding_A"].shape[1], parts["embedding_B"].shape[0])
        ranks = {parts["embedding_A"].shape[0], parts["embedding_B"].shape[1]}
    elif set(parts) in ({"lora_A", "lora_B"}, {"lora_A", "lora_B", "lora_magnitude_vector"}) and all(
        len(parts[part].shape) == 2 for part in ("lora_A", "lora_B")
    ):
        shape = (parts["lora_B"].shape[0], parts["lora_A"].shape[1])
        ranks = {parts["lora_A"].shape[0], parts["lora_B"].shape[1]}
        # PEFT goes by the module, whatever fan_in_fan_out says.
        change.transposed = transposed or (shape != base.shape and shape[::-1] == base.shape)
        outputs = shape[0]
        shape = shape[::-1] if change.transposed else shape
        magnitude = parts.get("lora_magnitude_vector")
        if magnitude is not None and magnitude.numel != outputs:
            raise BadFile(
                f"The adapter {folder} holds {magnitude.numel} magnitudes for {name}, which has {outputs} outputs."
            )
    else:
        raise NotSupported(
            f"The adapter {folder} holds {', '.join(sorted(parts))} for {name}: not the A and B of a linear layer or "
            "an embedding. Merge it with PEFT first."
        )
    if tuple(shape) != base.shape or ranks != {rank}:
        raise NotTogether(
            f"The adapter {folder} gives {name} a change of {tuple(shape)} and rank {sorted(ranks)}; its base has "
            f"{base.shape} and its {settings.path.name} says rank {rank}. Is it the base that the adapter was trained "
            "on?"
        )
