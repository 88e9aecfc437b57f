"""The edit: selected tensors changed in place, undone bit for bit, and kept as a patch file."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mastlens.architectures import locate_parameters
from mastlens.errors import MastlensError, unknown
from mastlens.files import atomic_path, sha256_tensor, write_json, write_tensors
from mastlens.lineage import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "edit.safetensors"
FORMAT = 1
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Edit:
    """Whole tensors before and after, in the source's dtype, with where they belong.

    Attributes:
        before: Name to tensor in the source checkpoint.
        after: Name to tensor in the edited one; same names.
        source: Fingerprint of the checkpoint that the edit belongs to.
        settings: How it was made: selection, objective, seed, ...
    """

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    source: str
    settings: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """Names of the edited tensors."""
        return list(self.after)

    @property
    def table(self) -> pd.DataFrame:
        """One row an edited tensor: shape, dtype, norms of tensor and change, share of entries changed."""
        rows = []
        for name in self.names:
            a, b = self.before[name].double(), self.after[name].double()
            norm = float(torch.linalg.vector_norm(a))
            change = float(torch.linalg.vector_norm(b - a))
            rows.append(
                {
                    "name": name,
                    "shape": " x ".join(map(str, a.shape)),
                    "dtype": str(self.before[name].dtype).removeprefix("torch."),
                    "change_norm": change,
                    "relative_norm": change / norm if norm else float("inf"),
                    "changed_fraction": float((a != b).double().mean()),
                }
            )
        return pd.DataFrame(rows)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the patch file; equal edits give equal bytes."""
        path = Path(path)
        tensors = {f"before/{name}": tensor for name, tensor in self.before.items()}
        tensors |= {f"after/{name}": tensor for name, tensor in self.after.items()}
        metadata = {
            "format": FORMAT,
            "source": self.source,
            "settings": dict(self.settings),
            "sha256": {name: sha256_tensor(tensor) for name, tensor in tensors.items()},
        }
        write_tensors(path, tensors, metadata)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Edit":
        """Read a patch file and check every tensor against its hash.

        Raises:
            MastlensError: If the file is missing, truncated, not an edit, or was tampered with.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE
        if not path.is_file():
            raise MastlensError(f"There is no edit file {path}. mastlens unlearn writes one.")
        try:
            with safe_open(path, framework="pt", backend="pread") as stream:
                metadata = json.loads((stream.metadata() or {})["mastlens"])
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            hashes, source, settings = metadata["sha256"], metadata["source"], metadata["settings"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise MastlensError(f"{path} is not an edit, or it is truncated ({error!r}).") from error
        if set(hashes) != set(tensors):
            raise MastlensError(f"{path} was tampered with: its tensors are not those that it lists.")
        for name, tensor in tensors.items():
            if sha256_tensor(tensor) != hashes[name]:
                raise MastlensError(f"{path} was tampered with: {name} does not match its SHA-256.")
        sides = {
            side: {n.removeprefix(f"{side}/"): t for n, t in tensors.items() if n.startswith(f"{side}/")}
            for side in ("before", "after")
        }
        if set(sides["before"]) != set(sides["after"]):
            raise MastlensError(f"{path} is damaged: before and after do not hold the same tensors.")
        return cls(sides["before"], sides["after"], source, settings)

    def check_source(self, checkpoint: Checkpoint) -> None:
        """Raise unless ``checkpoint`` is, bit for bit, the one that the edit was made for."""
        self._check(checkpoint, self.before, "apply it to")
        if checkpoint.fingerprint != self.source:
            raise MastlensError(
                f"The edit was made for another checkpoint ({self.source[:12]}) than {checkpoint.spec} "
                f"({checkpoint.fingerprint[:12]}): the edited tensors agree, others do not."
            )

    def check_edited(self, checkpoint: Checkpoint) -> None:
        """Raise unless the edited tensors of ``checkpoint`` are, bit for bit, those that the edit left."""
        self._check(checkpoint, self.after, "revert it from")

    def _check(self, checkpoint: Checkpoint, expected: Mapping[str, Tensor], what: str) -> None:
        absent = [name for name in expected if name not in checkpoint.tensors]
        if absent:
            raise MastlensError(f"Cannot {what} {checkpoint.spec}: it has no tensor {absent[0]}.")
        differing = [name for name, tensor in expected.items() if not _same_bits(checkpoint.tensor(name), tensor)]
        if differing:
            raise MastlensError(
                f"Cannot {what} {checkpoint.spec}: {len(differing)} of {len(expected)} edited tensors are not "
                f"what the edit expects, first {differing[0]}. The edit belongs to the checkpoint with "
                f"fingerprint {self.source[:12]}."
            )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    # By bytes, not by value: 0.0 equals -0.0, and they are not the same bits.
    return a.dtype == b.dtype and a.shape == b.shape and sha256_tensor(a) == sha256_tensor(b)


def named_weights(model: "PreTrainedModel", names: list[str]) -> dict[str, torch.nn.Parameter]:
    """Return the parameters of a model by their names in its checkpoint, in the order of ``names``.

    Raises:
        MastlensError: For a name that the model does not have.
    """
    parameters = dict(model.named_parameters())
    where = locate_parameters(names, parameters)
    for name in names:
        if name not in where:
            raise unknown("parameter in the model", name, parameters)
    return {name: parameters[where[name]] for name in names}


@contextmanager
def swapped(model: "PreTrainedModel", tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put ``tensors`` into the model's parameters in place; on leaving, restore the old ones bit for bit.

    The old values come back from a copy, never by subtraction, and also after an exception.
    """
    parameters = named_weights(model, list(tensors))
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            raise MastlensError(
                f"{name} is {tuple(parameters[name].shape)} in the model and {tuple(tensor.shape)} in the edit."
            )
    kept = snapshot(model, list(tensors))
    try:
        write_weights(model, tensors)
        yield
    finally:
        write_weights(model, kept)


def snapshot(model: "PreTrainedModel", names: list[str]) -> dict[str, Tensor]:
    """Return copies of the named parameters."""
    return {name: parameter.detach().clone() for name, parameter in named_weights(model, names).items()}


@torch.no_grad()
def write_weights(model: "PreTrainedModel", tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors`` into the model's parameters in place."""
    for name, parameter in named_weights(model, list(tensors)).items():
        parameter.copy_(tensors[name])


def apply_edit(
    edit: "Edit | str | os.PathLike[str]",
    *,
    to: "str | os.PathLike[str] | Checkpoint",
    out: str | os.PathLike[str],
    overwrite: bool = False,
) -> Path:
    """Write a complete Hugging Face folder: the checkpoint with the edit in it.

    Raises:
        MastlensError: If the checkpoint is not the one that the edit was made for, or ``out`` exists.
    """
    edit, checkpoint = _as_edit(edit), Checkpoint(to)
    edit.check_source(checkpoint)
    return export(checkpoint, edit.after, out, overwrite=overwrite)


def revert_edit(
    edit: "Edit | str | os.PathLike[str]",
    *,
    source: "str | os.PathLike[str] | Checkpoint",
    out: str | os.PathLike[str],
    overwrite: bool = False,
) -> Path:
    """Write a complete Hugging Face folder: the edited checkpoint ``source`` with the edit taken out.

    Raises:
        MastlensError: If the checkpoint does not hold the edit, or ``out`` exists.
    """
    edit, checkpoint = _as_edit(edit), Checkpoint(source)
    edit.check_edited(checkpoint)
    return export(checkpoint, edit.before, out, overwrite=overwrite)


def _as_edit(edit: "Edit | str | os.PathLike[str]") -> Edit:
    return edit if isinstance(edit, Edit) else Edit.load(edit)


def export(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Write ``checkpoint`` with ``tensors`` in place of its own to the folder ``out``, one shard in memory.

    Everything else of the folder (configuration, tokenizer, generation settings) is copied. Pickled shards are
    written as safetensors; an adapter comes out merged into its base.
    """
    out = Path(out)
    if out.exists() and any(out.resolve() == folder.resolve() for folder in checkpoint.folders):
        raise MastlensError(f"{out} is the source checkpoint, which is never written to. Choose another --out.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise MastlensError(f"{out} exists and is not empty. Choose another --out, or pass --overwrite.")
    shards, pickled = _exported_shards(checkpoint)
    added = checkpoint.added  # an adapter's tensors are not those of its base's files
    with atomic_path(out) as temporary:
        temporary.mkdir()
        for name, file in checkpoint.companions.items():
            shutil.copyfile(file, temporary / name)
        for name, (shard, names) in shards.items():
            if pickled or any(n in tensors or n in added for n in names):
                write_tensors(
                    temporary / name,
                    {n: tensors[n] if n in tensors else checkpoint.tensor(n) for n in names},
                )
            else:
                shutil.copyfile(shard, temporary / name)
        if pickled and len(shards) > 1:
            weight_map = {n: name for name, (_, names) in shards.items() for n in names}
            size = sum((temporary / name).stat().st_size for name in shards)
            write_json(
                temporary / _INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
            )
    return out


def exported_files(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the files that ``export`` writes for a checkpoint."""
    shards, pickled = _exported_shards(checkpoint)
    index = [_INDEX] if pickled and len(shards) > 1 else []
    return sorted({*checkpoint.companions, *shards, *index})


def _exported_shards(checkpoint: Checkpoint) -> tuple[dict[str, tuple[Path, list[str]]], bool]:
    """Return new file name to source shard and its tensors, and whether the source's are pickled."""
    shards: dict[Path, list[str]] = {}
    for stored in checkpoint.tensors.values():
        shards.setdefault(stored.file, []).append(stored.name)
    pickled = any(shard.suffix == ".bin" for shard in shards)
    named = enumerate(sorted(shards.items()), start=1)
    return {
        _shard_name(number, len(shards)) if pickled else shard.name: (shard, names) for number, (shard, names) in named
    }, pickled


def _shard_name(number: int, of: int) -> str:
    return "model.safetensors" if of == 1 else f"model-{number:05d}-of-{of:05d}.safetensors"
