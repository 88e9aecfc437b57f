"""Checkpoints: opened by path or hub id, with or without an adapter, read one tensor at a time."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mastlens.architectures.matrices import find_matrices
from mastlens.architectures.projections import Projection, find_projections
from mastlens.checkpoints.adapters import CONFIG as ADAPTER_CONFIG
from mastlens.checkpoints.adapters import Adapter, base_of
from mastlens.checkpoints.digests import fingerprint_of, tensor_digests
from mastlens.checkpoints.folders import companion_files, read_config, resolve_folder, tokenizer_files
from mastlens.checkpoints.shards import StoredTensor, index_weights
from mastlens.errors import BadFile, MastlensError, NotFound, NotSupported, unknown

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
        spec: A local folder, a hub id with an optional ``@revision``, ``organism:NAME/STAGE``, or ``BASE+ADAPTER``
            of two of these.
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
    ):
        if isinstance(spec, Checkpoint):
            self.__dict__.update(spec.__dict__)  # what was read and hashed once is not read again
            return
        self.spec = os.fspath(spec)
        self.base: Checkpoint | None = None
        self._adapter: Adapter | None = None
        named: str = self.spec
        if "+" in named and not Path(named).exists():
            left, _, named = named.rpartition("+")
            base = base or left
        folder = resolve_folder(named)
        if (folder / ADAPTER_CONFIG).is_file() and (base is not None or not (folder / "config.json").is_file()):
            self._open_adapter(folder, base)
            return
        if base is not None:
            raise NotSupported(f"{folder} is no PEFT adapter (it has no {ADAPTER_CONFIG}), so it takes no base.")
        self.folder = folder
        self.config: dict[str, Any] = read_config(folder)
        self.tensors: Mapping[str, StoredTensor] = dict(sorted(index_weights(folder).items()))

    def _open_adapter(self, folder: Path, base: "str | os.PathLike[str] | Checkpoint | None") -> None:
        found = base if base is not None else base_of(folder)
        try:
            if not isinstance(found, Checkpoint) and Path(found).exists() and Path(found).samefile(folder):
                raise MastlensError("it names itself.")
            self.base = Checkpoint(found)
        except MastlensError as error:
            raise MastlensError(
                f"The base of the adapter {self.spec} cannot be opened: {error} Name another: BASE+{folder}."
            ) from error
        self.folder, self.config = self.base.folder, self.base.config
        self._adapter = Adapter.open(folder, self.base.tensors)
        self.tensors = {
            name: replace(stored, dtype=self._adapter.result_dtype(name, stored.dtype))
            for name, stored in self.base.tensors.items()
        }

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

    @property
    def added(self) -> frozenset[str]:
        """Names of the tensors that are not as they lie in their file, because an adapter changes them."""
        own = frozenset(self._adapter.changes) if self._adapter is not None else frozenset()
        return own | (self.base.added if self.base is not None else frozenset())

    @property
    def companions(self) -> dict[str, Path]:
        """File name to path of everything beside the weights: configuration, tokenizer, generation settings."""
        if self._adapter is None or self.base is None:
            return companion_files(self.folder)
        return self.base.companions | tokenizer_files(self._adapter.folder)

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
        """Name to dtype, shape and SHA-256 of every tensor. Reads the whole checkpoint, a few tensors at once."""
        return tensor_digests(self)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names, dtypes, shapes and bytes of all tensors, however they are sharded."""
        return fingerprint_of(self.digests)

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
            dtype: The dtype to compute in; None keeps the stored one (of an adapter, its base's).
            trust_remote_code: Whether code inside the checkpoint may run.
        """
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        for name in self.tensors:
            if self.tensors[name].dtype.is_floating_point and name not in self.added:
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
            raise NotSupported(f"transformers cannot load {self.spec}: {error}") from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise BadFile(
                f"{self.spec} lacks {len(missing)} tensors that a {self.model_type} model needs, first "
                f"{missing[0]}. They would be random numbers. Complete the checkpoint."
            )
        self._add_to(model)
        return model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def _add_to(self, model: "PreTrainedModel") -> None:
        parameters = dict(model.named_parameters())
        for name in sorted(self.added):
            parameter = parameters.get(name, parameters.get(f"{model.base_model_prefix}.{name}"))
            if parameter is None:
                raise unknown(f"parameter in the model of {self.spec}", name, parameters)
            parameter.copy_(self.tensor(name))

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
        except (OSError, ValueError, KeyError) as error:
            raise NotFound(
                f"{self.spec} has no tokenizer that transformers can load: {error}. Copy tokenizer.json and "
                "tokenizer_config.json of the base model into the folder."
            ) from error


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
