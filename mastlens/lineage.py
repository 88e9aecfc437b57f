"""Checkpoints and the lineage base -> SFT -> RLVR: opened by path or hub id, read one tensor at a time."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from mastlens.errors import MastlensError
from mastlens.files import sha256_tensor
from mastlens.projections import Projection, find_projections

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}

# Fine-tunes of one model keep a cosine near 1 with it; separately initialised models have one near 0.
RELATED_COSINE = 0.5


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor of a checkpoint lies: its file, dtype and shape, read from the header alone."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]


def resolve_folder(spec: str | os.PathLike[str]) -> Path:
    """Return the local folder that PATH names.

    Args:
        spec: A local folder, a hub id with an optional ``@revision``, or ``organism:NAME/STAGE``.

    Raises:
        MastlensError: If it names nothing that can be reached.
    """
    text = os.fspath(spec)
    if text.startswith("organism:"):
        from mastlens.organism import stage_folder

        return stage_folder(text.removeprefix("organism:"))
    if Path(text).is_dir():
        return Path(text)
    if Path(text).exists():
        raise MastlensError(f"{text} is a file. A checkpoint is a folder with config.json and its weights.")
    repository, _, revision = text.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository) or text.startswith((".", "/", "~")):
        raise MastlensError(f"There is no folder {text}. Give a local folder, a hub id, or organism:NAME/STAGE.")
    return _from_hub(repository, revision or None)


def _from_hub(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):  # pickled weights are fetched only where nothing else exists
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=["*.bin", "*.json"]))
    except Exception as error:  # the hub client raises a dozen classes; to the user they are one thing
        at = f" at revision {revision}" if revision else ""
        raise MastlensError(
            f"There is no local folder {repository!r}, and the hub did not give it{at}: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}. "
            "Check the spelling and the network, or give a local folder."
        ) from error
    return folder


class Checkpoint:
    """A Hugging Face checkpoint whose tensors are read from disk one at a time.

    Opening reads ``config.json`` and the headers of the weight files, nothing else. The folder is never opened
    for writing.

    Args:
        spec: A local folder, a hub id with an optional ``@revision``, or ``organism:NAME/STAGE``.

    Attributes:
        spec: What was asked for, as it was written.
        folder: The local folder that it resolved to.
        config: The parsed ``config.json``.
        tensors: Every stored tensor by its checkpoint name, in name order.

    Raises:
        MastlensError: For a missing folder, configuration, shard, or a truncated file.
    """

    def __init__(self, spec: "str | os.PathLike[str] | Checkpoint"):
        if isinstance(spec, Checkpoint):
            self.__dict__.update(spec.__dict__)  # what was read and hashed once is not read again
            return
        self.spec = os.fspath(spec)
        self.folder = resolve_folder(spec)
        self.config: dict[str, Any] = _read_config(self.folder)
        self.tensors: Mapping[str, StoredTensor] = dict(sorted(_index(self.folder).items()))

    def __repr__(self) -> str:
        return f"Checkpoint({self.spec!r}, {self.model_type}, {len(self.tensors)} tensors)"

    @property
    def model_type(self) -> str:
        """The architecture's name in ``config.json``, e.g. ``qwen2``."""
        return str(self.config.get("model_type", ""))

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        """Every attention projection, by layer, then q < k < v < o."""
        return find_projections(self.config, {name: stored.shape for name, stored in self.tensors.items()})

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes stored, e.g. ``("bfloat16", "float32")`` for a mixed checkpoint."""
        return tuple(sorted({str(stored.dtype).removeprefix("torch.") for stored in self.tensors.values()}))

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor, in its stored dtype, as memory of its own.

        Raises:
            MastlensError: If the checkpoint has no such tensor, or it holds NaN or infinity.
        """
        from mastlens.errors import unknown

        if name not in self.tensors:
            raise unknown(f"tensor in {self.spec}", name, self.tensors)
        stored = self.tensors[name]
        if stored.file.suffix == ".safetensors":
            # pread gives private memory; a mapped view, changed in place, would corrupt later reads.
            with safe_open(stored.file, framework="pt", backend="pread") as stream:
                value = stream.get_tensor(name)
        else:
            value = _load_bin(stored.file)[name].clone()
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            bad = int((~torch.isfinite(value.float())).sum())
            raise MastlensError(
                f"{name} of {self.spec} holds {bad} NaN or infinite entries of {value.numel()}. "
                "The checkpoint is damaged or its training diverged; use an earlier one."
            )
        return value

    def matrix(self, projection: Projection) -> torch.Tensor:
        """Read one projection's matrix (rows, cols), in its stored dtype; of a fused tensor, its own slice."""
        return projection.read(self.tensor(projection.stored))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names, dtypes, shapes and bytes of all tensors, however they are sharded."""
        digest = hashlib.sha256()
        for name in self.tensors:
            value = self.tensor(name)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} {sha256_tensor(value)}\n".encode())
        return digest.hexdigest()

    def load_model(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = torch.float32,
        trust_remote_code: bool = False,
    ) -> "PreTrainedModel":
        """Load the model with transformers, in evaluation mode, every gradient off.

        Args:
            device: A torch device.
            dtype: The dtype to compute in; None keeps the stored one.
            trust_remote_code: Whether code inside the checkpoint may run.
        """
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        for name in self.tensors:
            if self.tensors[name].dtype.is_floating_point:
                self.tensor(name)  # names a damaged tensor before transformers loads it without a word
        bars = logging.is_progress_bar_enabled()
        verbosity = logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.folder,
                dtype=dtype or "auto",
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise MastlensError(f"transformers cannot load {self.spec}: {error}") from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise MastlensError(
                f"{self.spec} lacks {len(missing)} tensors that a {self.model_type} model needs, first "
                f"{missing[0]}. They would be random numbers. Complete the checkpoint."
            )
        return model.to(device).eval().requires_grad_(False)

    def load_tokenizer(self, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
        """Load the tokenizer with transformers.

        Raises:
            MastlensError: If the folder has none.
        """
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError) as error:
            raise MastlensError(
                f"{self.spec} has no tokenizer that transformers can load: {error}. Copy tokenizer.json and "
                "tokenizer_config.json of the base model into the folder."
            ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise MastlensError(f"{folder} has no config.json, so it is not a Hugging Face checkpoint folder.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MastlensError(f"{path} is not valid JSON: {error}.") from error


def _index(folder: Path) -> dict[str, StoredTensor]:
    for pattern, index in (
        ("*.safetensors", "model.safetensors.index.json"),
        ("*.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / index).is_file():
            shards = _shards_of(folder / index)
        elif pattern == "*.bin":
            shards = sorted(folder.glob("pytorch_model*.bin"))
        else:
            shards = sorted(folder.glob("model*.safetensors"))
        if shards:
            return {stored.name: stored for shard in shards for stored in _header(shard)}
    raise MastlensError(
        f"{folder} holds no weights: neither model*.safetensors nor pytorch_model*.bin. "
        "For an adapter, merge it into its base model first."
    )


def _shards_of(index: Path) -> list[Path]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise MastlensError(f"{index} is not a shard index: {error!r}.") from error
    if outside := [name for name in sorted(set(weight_map.values())) if Path(name).name != name]:
        raise MastlensError(f"{index} points outside its folder, to {outside[0]}. A shard lies beside its index.")
    shards = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise MastlensError(
            f"{index.parent} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing[:5])}. "
            "Download the checkpoint again."
        )
    return shards


def _header(shard: Path) -> Iterator[StoredTensor]:
    if shard.suffix == ".bin":
        for name, value in _load_bin(shard).items():
            yield StoredTensor(name, shard, value.dtype, tuple(value.shape))
        return
    try:
        with safe_open(shard, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - not a mapping
                part = stream.get_slice(name)
                dtype = part.get_dtype()
                if dtype not in _SAFETENSORS_DTYPES:
                    raise MastlensError(f"{name} in {shard} has dtype {dtype}, which torch cannot compute with.")
                yield StoredTensor(name, shard, _SAFETENSORS_DTYPES[dtype], tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise MastlensError(
            f"{shard} is truncated or damaged ({error}). It has {shard.stat().st_size} bytes; download it again."
        ) from error


def _load_bin(shard: Path) -> dict[str, torch.Tensor]:
    try:
        return torch.load(shard, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for one and the same
        raise MastlensError(
            f"{shard} cannot be read as plain weights ({str(error).splitlines()[0] if str(error) else error!r}). "
            "It is truncated, or it holds objects other than tensors, which are never executed."
        ) from error


@dataclass(frozen=True)
class Lineage:
    """Checkpoints of one line of training, checked to belong together.

    Attributes:
        rlvr: The checkpoint after RLVR.
        sft: The checkpoint that RLVR started from; None where RLVR started from the base.
        base: The pre-trained checkpoint; None where an analysis needs no base.
    """

    rlvr: Checkpoint
    sft: Checkpoint | None = None
    base: Checkpoint | None = None

    @classmethod
    def open(
        cls,
        rlvr: "str | os.PathLike[str] | Checkpoint",
        *,
        sft: "str | os.PathLike[str] | Checkpoint | None" = None,
        base: "str | os.PathLike[str] | Checkpoint | None" = None,
    ) -> "Lineage":
        """Open the checkpoints and check that they are one line of training.

        Raises:
            MastlensError: If they differ in architecture or shape, are the same, or are not related.
        """
        lineage = cls(
            rlvr=Checkpoint(rlvr),
            sft=None if sft is None else Checkpoint(sft),
            base=None if base is None else Checkpoint(base),
        )
        stages = list(lineage.stages.items())
        for (role, before), (after_role, after) in pairwise(stages):
            _check_shapes(role, before, after_role, after)
            _check_related(role, before, after_role, after)
        return lineage

    @property
    def stages(self) -> dict[str, Checkpoint]:
        """The checkpoints that are there, by role, oldest first."""
        roles = {"base": self.base, "sft": self.sft, "rlvr": self.rlvr}
        return {role: checkpoint for role, checkpoint in roles.items() if checkpoint is not None}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Role to fingerprint, for the run record."""
        return {role: checkpoint.fingerprint for role, checkpoint in self.stages.items()}

    @property
    def increments(self) -> dict[str, tuple[Checkpoint, Checkpoint]]:
        """Increment to (before, after): ``sft`` = SFT - base and ``rlvr`` = RLVR - SFT, or RLVR - base."""
        pairs: dict[str, tuple[Checkpoint, Checkpoint]] = {}
        if self.sft is not None:
            if self.base is not None:
                pairs["sft"] = (self.base, self.sft)
            pairs["rlvr"] = (self.sft, self.rlvr)
        elif self.base is not None:
            pairs["rlvr"] = (self.base, self.rlvr)
        return pairs


def _check_shapes(role: str, before: Checkpoint, after_role: str, after: Checkpoint) -> None:
    if before.model_type != after.model_type:
        raise MastlensError(
            f"The {role} checkpoint {before.spec} is a {before.model_type} model, the {after_role} checkpoint "
            f"{after.spec} a {after.model_type} model. A lineage has one architecture."
        )
    old, new = {p.name: p for p in before.projections}, {p.name: p for p in after.projections}
    if alone := sorted(set(old) ^ set(new)):
        where = role if alone[0] in old else after_role
        raise MastlensError(f"{alone[0]} stands in the {where} checkpoint only ({len(alone)} such tensors).")
    for name, projection in old.items():
        if (projection.rows, projection.cols) != (new[name].rows, new[name].cols):
            raise MastlensError(
                f"{name} is {projection.rows} x {projection.cols} in the {role} checkpoint and "
                f"{new[name].rows} x {new[name].cols} in the {after_role} checkpoint. These are two models."
            )


def _check_related(role: str, before: Checkpoint, after_role: str, after: Checkpoint) -> None:
    if before.fingerprint == after.fingerprint:
        raise MastlensError(
            f"The {role} checkpoint {before.spec} and the {after_role} checkpoint {after.spec} are the same, "
            "tensor for tensor: there is no increment to look at."
        )
    inner = squares_before = squares_after = 0.0
    for projection in before.projections:
        a, b = before.matrix(projection).double(), after.matrix(projection).double()
        inner += float((a * b).sum())
        squares_before += float((a * a).sum())
        squares_after += float((b * b).sum())
    cosine = inner / max((squares_before * squares_after) ** 0.5, 1e-300)
    if cosine < RELATED_COSINE:
        raise MastlensError(
            f"The {role} checkpoint {before.spec} and the {after_role} checkpoint {after.spec} are not related: "
            f"the cosine between their attention weights is {cosine:.3f}, where a fine-tune of the same model "
            f"has one near 1. Their difference would say nothing. Check which base the model was trained from."
        )
