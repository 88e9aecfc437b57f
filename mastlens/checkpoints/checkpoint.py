"""Checkpoints: opened by path or hub id, with or without an adapter, read one tensor at a time."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mastlens.architectures.matrices import find_matrices
from mastlens.architectures.placement import same_names
from mastlens.architectures.projections import Projection, find_projections
from mastlens.checkpoints import loading
from mastlens.checkpoints.adapter_settings import CONFIG as ADAPTER_CONFIG
from mastlens.checkpoints.adapter_settings import base_of
from mastlens.checkpoints.adapters import WEIGHTS as ADAPTER_WEIGHTS
from mastlens.checkpoints.adapters import Adapter
from mastlens.checkpoints.behaviour import MODEL, TOKENIZER, adapter_part, behaviour_parts, digest_of
from mastlens.checkpoints.digests import fingerprint_of, remembered_digests
from mastlens.checkpoints.folders import check_sizes, companion_files, read_config, resolve_folder, tokenizer_files
from mastlens.checkpoints.gguf import as_gridded
from mastlens.checkpoints.quantised import as_weights
from mastlens.checkpoints.shards import StoredTensor, index_weights, weight_files
from mastlens.errors import BadFile, MastlensError, NotFound, NotSupported, unknown
from mastlens.runs.devices import device_of
from mastlens.runs.reading import is_there

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Checkpoint:
    """A Hugging Face checkpoint whose tensors are read from disk one at a time.

    Opening reads ``config.json`` and the headers of the weight files, nothing else. The folder is never opened
    for writing.

    A LoRA adapter in PEFT's format counts as a checkpoint: its tensors are those of its base with
    ``scale * B A`` added to each when it is read, so no merged model is ever in memory. Tensors that it changes
    are at least float32, whatever the base is stored in: PEFT's merge rounds to the base's dtype instead.

    Args:
        spec: A local folder, a GGUF file, a hub id with an optional ``@revision``, ``organism:NAME/STAGE``, an address
            such as ``s3://bucket/folder``, or ``BASE+ADAPTER`` of two of these.
        base: Of an adapter, the checkpoint to add it to; by default what its configuration names.

    Attributes:
        spec: What was asked for, as it was written.
        folder: The local folder that it resolved to; of an adapter, that of its base's configuration.
        config: The parsed ``config.json``.
        tensors: Every tensor by its checkpoint name, in name order.
        base: Of an adapter, the checkpoint that it is added to.

    Raises:
        MastlensError: For a missing folder, configuration, shard, or a truncated file.
    """

    def __init__(
        self,
        spec: "str | os.PathLike[str] | Checkpoint",
        *,
        base: "str | os.PathLike[str] | Checkpoint | None" = None,
        _through: tuple[Path, ...] = (),
    ):
        if isinstance(spec, Checkpoint):
            self.__dict__.update(spec.__dict__)  # what was read and hashed once is not read again
            return
        self.spec = os.fspath(spec)
        self.base: Checkpoint | None = None
        self._adapter: Adapter | None = None
        self._original: Checkpoint | None = None
        self._own_names: dict[str, str] = {}
        named: str = self.spec
        if "+" in named and not is_there(named):
            left, _, named = named.rpartition("+")
            base = base or left
        folder = resolve_folder(named)
        if _is_adapter(folder, told=base is not None):
            self._open_adapter(folder, base, _through)
            return
        if base is not None:
            raise NotSupported(f"{folder} is no PEFT adapter (it has no {ADAPTER_CONFIG}), so it takes no base.")
        self.folder = folder
        self.config: dict[str, Any] = read_config(folder)
        stored = index_weights(folder, self.config)
        check_sizes(folder, self.config, {name: one.shape for name, one in stored.items()})
        weights = as_weights(folder, self.config, dict(sorted(stored.items())))
        self.tensors: Mapping[str, StoredTensor] = as_gridded(folder, weights)

    def _open_adapter(
        self, folder: Path, base: "str | os.PathLike[str] | Checkpoint | None", through: tuple[Path, ...]
    ) -> None:
        through = (*through, folder.resolve())
        try:
            found = base if base is not None else base_of(folder)
            if not isinstance(found, Checkpoint) and is_there(found) and Path(found).resolve() in through:
                itself = "it names itself" if len(through) == 1 else "its bases name each other in a circle"
                raise BadFile(f"{itself}.")
            self.base = Checkpoint(found, _through=through)
        except MastlensError as error:
            raise NotFound(
                f"The base of the adapter {self.spec} cannot be opened: {error} Name another: BASE+{folder}."
            ) from error
        self.folder, self.config = self.base.folder, self.base.config
        self._adapter = Adapter.open(folder, self.base)
        self.tensors = {
            name: replace(stored, dtype=self._adapter.result_dtype(name, stored.dtype))
            for name, stored in self.base.tensors.items()
        }

    def named_as(self, other: "Checkpoint") -> "Checkpoint":
        """Return this checkpoint with the names of another one's tensors, where only a prefix differs.

        The hub's GPT-2 has ``h.0...`` where what transformers saves has ``transformer.h.0...``: they are one lineage.
        Fingerprint and digests are those of the files. Itself, where nothing has to be renamed.
        """
        names = same_names((name for name in self.tensors if name not in other.tensors), other.tensors)
        names = {name: new for name, new in names.items() if new not in self.tensors}
        if not names or len(set(names.values())) < len(names):
            return self
        renamed = Checkpoint(self)
        for name, value in vars(Checkpoint).items():
            if isinstance(value, cached_property):  # of other names
                renamed.__dict__.pop(name, None)
        renamed._original = self
        renamed._own_names = {names.get(name, name): name for name in self.tensors}
        renamed.tensors = {name: self.tensors[own] for name, own in sorted(renamed._own_names.items())}
        return renamed

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

    def matrices(self, where: str = ".") -> tuple[Projection, ...]:
        """Return every weight matrix whose name matches, attention or not (see ``find_matrices``); by default all.

        Args:
            where: A regular expression, found anywhere in the name; tensors of whole numbers are left out.

        Raises:
            MastlensError: If it is not a regular expression or matches nothing.
        """
        shapes = {name: stored.shape for name, stored in self.tensors.items() if stored.dtype.is_floating_point}
        return find_matrices(where, self.config, shapes)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes stored, e.g. ``("bfloat16", "float32")`` for a mixed checkpoint."""
        return tuple(sorted({str(stored.dtype).removeprefix("torch.") for stored in self.tensors.values()}))

    @cached_property
    def added(self) -> frozenset[str]:
        """Names of the tensors that no file here has as they are: an adapter's, codes', those at an address."""
        if self._original is not None:
            own = {name: new for new, name in self._own_names.items()}
            return frozenset(own[name] for name in self._original.added)
        changed = frozenset(self._adapter.changes) if self._adapter is not None else frozenset()
        return changed | (self.base.added if self.base is not None else self.dequantised | self.remote)

    @cached_property
    def dequantised(self) -> frozenset[str]:
        """Names of the tensors that lie in their file as codes with scales, and are read as the weights they mean."""
        return frozenset(name for name, stored in self.tensors.items() if not stored.as_stored)

    @property
    def coded(self) -> dict[str, int]:
        """What stands in the files in place of weights, e.g. ``FP8`` or ``GGUF Q4_1``, to in how many tensors."""
        kinds = [stored.coded for stored in self.tensors.values() if stored.coded]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def spacing(self, projection: Projection) -> torch.Tensor | None:
        """Return how far apart the numbers are that storage can hold, at each entry of a matrix.

        None where the matrix's dtype says it: it was stored as it is, or an adapter was added in float32.
        """
        if self._adapter is not None:
            return None
        spacing = self.tensors[projection.stored].spacing()
        return None if spacing is None else projection.read(spacing)

    @cached_property
    def remote(self) -> frozenset[str]:
        """Names of the tensors that lie at an address, and are read from there."""
        return frozenset(name for name, stored in self.tensors.items() if not all(part.local for part in stored.reads))

    @property
    def companions(self) -> dict[str, Path]:
        """File name to path of everything beside the weights: configuration, tokenizer, generation settings."""
        if self._adapter is None or self.base is None:
            return companion_files(self.folder)
        return self.base.companions | tokenizer_files(self._adapter.folder)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that its tensors are read from; with those that say how."""
        files = {part.file for stored in self.tensors.values() for part in stored.reads}
        if self.dequantised:
            files.add(self.folder / "config.json")
        if self._adapter is not None and self.base is not None:
            files |= {*self._adapter.files, *self.base.files}
        return tuple(sorted(files))

    @cached_property
    def behaviour(self) -> dict[str, str]:
        """What decides beside the weights how the model behaves: each file, and the chat template, to its SHA-256.

        Configuration, generation settings, the tokenizer that ``load_tokenizer`` takes, an adapter's settings, and code
        in the folder. Whoever runs the model depends on it as on the ``fingerprint``.
        """
        if self._adapter is None or self.base is None:
            return behaviour_parts(self.folder, MODEL + TOKENIZER)
        own = self._adapter.folder
        found = dict(self.base.behaviour)
        if tokenizer_files(own):
            model = behaviour_parts(self.base.folder, MODEL)
            found = {name: part for name, part in found.items() if name in model or name.startswith(ADAPTER_CONFIG)}
            found |= behaviour_parts(own, TOKENIZER)
        depth = sum(name.startswith(ADAPTER_CONFIG) for name in found)
        return found | {f"{ADAPTER_CONFIG}{f' {depth + 1}' if depth else ''}": adapter_part(self._adapter.config)}

    @cached_property
    def behaviour_digest(self) -> str:
        """SHA-256 over weights and behaviour: two checkpoints that share it say the same."""
        return digest_of({"weights": self.fingerprint, **self.behaviour})

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that it is read from: one, and of an adapter also its base's."""
        own = () if self._adapter is None else (self._adapter.folder,)
        return (*own, *(self.base.folders if self.base is not None else (self.folder,)))

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor, in its stored dtype, as memory of its own.

        Raises:
            MastlensError: If the checkpoint has no such tensor, or it holds NaN or infinity.
        """
        return self.rows(name, 0, None)

    def rows(self, name: str, start: int, stop: int | None, *, mapped: bool = False) -> torch.Tensor:
        """Read the rows ``start`` to ``stop`` of one tensor, without the rest where the file allows it.

        ``mapped`` gives a view of the mapped file where it can: fast, and never to be changed in place.
        """
        if name not in self.tensors:
            raise unknown(f"tensor in {self.spec}", name, self.tensors)
        if self._original is not None:
            return self._original.rows(self._own_names[name], start, stop, mapped=mapped)
        if self._adapter is not None and self.base is not None:
            if name not in self._adapter.changes:
                return self.base.rows(name, start, stop, mapped=mapped)
            value = self._adapter.apply(name, self.base.tensor(name))
            value = value[start:stop] if value.dim() else value
        else:
            value = self.tensors[name].read(start, stop, mapped=mapped)
        if value.is_floating_point() and not _all_finite(value):
            bad = int((~torch.isfinite(value.float())).sum())
            raise BadFile(
                f"{name} of {self.spec} holds {bad} NaN or infinite entries of {value.numel()}. "
                "The checkpoint is damaged or its training diverged; use an earlier one."
            )
        return value

    def matrix(self, projection: Projection, *, mapped: bool = False) -> torch.Tensor:
        """Read one projection's matrix (rows, cols), in its stored dtype; of a fused tensor, its own slice.

        ``mapped`` as in ``rows``.
        """
        return projection.read(self.rows(projection.stored, 0, None, mapped=mapped))

    @cached_property
    def digests(self) -> dict[str, str]:
        """Name to dtype, shape and SHA-256 of every tensor, by the names of the files.

        Reads the whole checkpoint, a few tensors at once, unless it was hashed before and no file was written since.
        """
        return remembered_digests(self) if self._original is None else self._original.digests

    def digest(self, name: str) -> str:
        """Return dtype, shape and SHA-256 of one tensor, by the name that it has here (see ``digests``)."""
        return self.digests[self._own_names.get(name, name)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names, dtypes, shapes and bytes of all tensors, however they are sharded."""
        return fingerprint_of(self.digests)

    def verify(self) -> None:
        """Read and hash every tensor, whatever is remembered of the files.

        Raises:
            MastlensError: If the files are not what they were when they were hashed before.
        """
        remembered_digests(self if self._original is None else self._original, verify=True)

    @property
    def plain_dtype(self) -> torch.dtype:
        """The dtype of what is stored as it is: that in which codes beside it are computed with."""
        plain = [s.dtype for s in self.tensors.values() if s.as_stored and s.dtype.is_floating_point]
        return max(plain, key=plain.count, default=torch.float32)

    def load_model(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = torch.float32,
        trust_remote_code: bool = False,
    ) -> "PreTrainedModel":
        """Load the model with transformers, in evaluation mode, every gradient off.

        Args:
            device: A torch device; ``auto`` for the best that there is.
            dtype: The dtype to compute in; None keeps the stored one (of an adapter, its base's).
            trust_remote_code: Whether code inside the checkpoint may run.

        Raises:
            MastlensError: If transformers cannot load it, or would run with other weights than are read here.
        """
        return loading.load_model(self, device=device_of(device), dtype=dtype, trust_remote_code=trust_remote_code)

    def load_tokenizer(self, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
        """Load the tokenizer with transformers; an adapter's own where it has one.

        Raises:
            MastlensError: If the folder has none.
        """
        from transformers import AutoTokenizer

        if self.base is not None and not tokenizer_files(self.folders[0]):
            return self.base.load_tokenizer(trust_remote_code=trust_remote_code)
        try:
            return AutoTokenizer.from_pretrained(self.folders[0], trust_remote_code=trust_remote_code)
        except Exception as error:  # tokenizers raises plain exceptions
            raise NotFound(
                f"{self.spec} has no tokenizer that transformers can load: {error}. Copy tokenizer.json and "
                "tokenizer_config.json of the base model into the folder."
            ) from error


def _is_adapter(folder: Path, *, told: bool) -> bool:
    """Return whether a folder is to be opened as an adapter.

    Args:
        folder: The folder.
        told: Whether it was named as one, with its base.

    Raises:
        MastlensError: If it may be both an adapter and a model.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    adapter, model = any((folder / name).is_file() for name in ADAPTER_WEIGHTS), weight_files(folder)
    if told or not model:
        return True
    if adapter:
        raise BadFile(
            f"{folder} holds both a model ({model[0]}) and an adapter ({ADAPTER_WEIGHTS[0]}); which of them is meant "
            f"cannot be told. For the adapter, name its base: BASE+{folder}. For the model, move the adapter's files "
            "away."
        )
    raise BadFile(
        f"{folder} holds a model ({model[0]}) and an {ADAPTER_CONFIG} without an adapter's weights; transformers would "
        f"look for them. If the adapter was merged into the model, remove {ADAPTER_CONFIG}."
    )


def _all_finite(value: torch.Tensor) -> bool:
    """Return whether no entry is NaN or infinite, without a second copy in memory: both reach the extremes."""
    if not value.numel():
        return True
    if value.dtype == torch.float32 and value.is_contiguous():  # the common case at twice the speed
        flat = value.reshape(-1)
        if bool(torch.isfinite(torch.dot(flat, flat))):  # else it may be no more than a square that overflows
            return True
    if value.element_size() == 1:  # float8 has no extremes in torch
        value = value.float()
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(value))
