"""Weight files: which of a folder's are the model, what their headers say, and one tensor read at a time."""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mastlens.errors import BadFile, NotFound, NotSupported
from mastlens.runs.reading import is_plain_file, read_object

SAFETENSORS_DTYPES = {
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
# In the order in which transformers looks for them: a single file goes before shards, safetensors before pickles.
_SINGLE_AND_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_SHARD = re.compile(r"(?P<stem>model|pytorch_model)-(?P<number>\d+)-of-(?P<of>\d+)\.(safetensors|bin)")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor of a checkpoint lies: its file, dtype and shape, read from the header alone.

    Attributes:
        name: Its name in the file.
        file: The file.
        dtype: What it is read as.
        shape: Its shape.
    """

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of entries."""
        return torch.Size(self.shape).numel()

    @property
    def as_stored(self) -> bool:
        """Whether its file holds these very values, so that the file can be copied."""
        return True

    @property
    def local(self) -> bool:
        """Whether its file is on this machine."""
        return True

    @property
    def reads(self) -> "tuple[StoredTensor, ...]":
        """The stored tensors that it is read from."""
        return (self,)

    @property
    def coded(self) -> str:
        """What stands in its place where it was stored as codes, e.g. ``GGUF Q4_1``; empty where it was not."""
        return ""

    def spacing(self) -> torch.Tensor | None:
        """Return how far apart the numbers are that storage can hold, at each entry; None where its dtype says it."""
        return None

    def read(self, start: int = 0, stop: int | None = None, *, mapped: bool = False) -> torch.Tensor:
        """Read the tensor, or the rows ``start`` to ``stop`` of it, in its stored dtype, as memory of its own.

        ``mapped`` gives a view of the mapped file where it can: fast, and never to be changed in place.
        """
        if self.file.suffix != ".safetensors":
            value = load_bin(self.file)[self.name]
            return (value[start:stop] if self.shape else value).clone()
        # pread gives private memory; a mapped view, changed in place, would corrupt later reads.
        with safe_open(self.file, framework="pt", backend="mmap" if mapped else "pread") as stream:
            if not self.shape or (start == 0 and (stop is None or stop >= self.shape[0])):
                return stream.get_tensor(self.name)
            return stream.get_slice(self.name)[start : self.shape[0] if stop is None else min(stop, self.shape[0])]


def index_weights(folder: Path, config: Mapping[str, Any] | None = None) -> dict[str, StoredTensor]:
    """Return every tensor of the model in a folder by name, from the headers of the files that transformers loads.

    Args:
        folder: The folder.
        config: Its parsed ``config.json``, which may name the file.

    Raises:
        MastlensError: If there are no weight files, one is missing, truncated or left over from another save, or it
            cannot be told which of them are the model.
    """
    shards, index = _model_files(folder, (config or {}).get("transformers_weights"))
    found: dict[str, StoredTensor] = {}
    for shard in shards:
        for stored in read_header(shard):
            if stored.name in found:
                raise BadFile(
                    f"{stored.name} stands in {found[stored.name].file.name} and in {shard.name} of {folder}. Which "
                    "one the model has cannot be told: remove the file that is left over from another save."
                )
            found[stored.name] = stored
    for name, file in index.items():
        if name not in found or found[name].file.name != file:
            where = f"is in {found[name].file.name}" if name in found else "is in none of them"
            raise BadFile(
                f"The shard index of {folder} promises {name} in {file}, and it {where}. Index and shards are of two "
                "saves: download the checkpoint again, or save it anew."
            )
    return found


def weight_files(folder: Path) -> list[str]:
    """Return the names of the files of a folder that may be a model's weights, whether or not they can be loaded."""
    singles = [name for pair in _SINGLE_AND_INDEX for name in pair if (folder / name).is_file()]
    return singles + sorted(file.name for file in folder.iterdir() if _SHARD.fullmatch(file.name))


def _model_files(folder: Path, named: Any) -> tuple[list[Path], dict[str, str]]:
    """Return the files that transformers loads, and tensor to file as their index says; no index for a single file."""
    if named is not None:
        if not isinstance(named, str) or Path(named).name != named or not is_plain_file(folder / named):
            raise NotFound(f"config.json of {folder} names {named!r} as its weights; there is no such file in it.")
        if named.endswith(".safetensors"):
            return [folder / named], {}
        if named.endswith(".safetensors.index.json"):
            return _of_index(folder / named)
        raise BadFile(f"config.json of {folder} names {named} as its weights, which is no safetensors file.")
    for single, index in _SINGLE_AND_INDEX:
        if (folder / single).is_file():
            return [folder / single], {}
        if (folder / index).is_file():
            return _of_index(folder / index)
    matches = [match for file in sorted(folder.iterdir()) if (match := _SHARD.fullmatch(file.name))]
    wholes = {(m["stem"], m[4], m["of"]) for m in matches}
    if len(wholes) == 1 and sorted(int(m["number"]) for m in matches) == list(range(1, int(matches[0]["of"]) + 1)):
        return [folder / match[0] for match in matches], {}  # one complete set: there is no other way to read it
    if matches:
        raise BadFile(
            f"{folder} has {len(matches)} shards of {len(wholes)} saves, first {matches[0][0]}, and neither an index "
            "nor a complete set: which of them are the model cannot be told. Download the checkpoint again."
        )
    others = [file.name for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".bin", ".gguf", ".pt")]
    also = f" (It has {', '.join(others[:3])}, which transformers does not load as one.)" if others else ""
    raise NotFound(
        f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin, whole or in shards with an "
        f"index, nor a PEFT adapter.{also}"
    )


def _of_index(index: Path) -> tuple[list[Path], dict[str, str]]:
    weight_map = read_object(index, "a shard index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise BadFile(f"{index} is not a shard index: its weight_map does not lead from tensors to files.")
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if Path(name).name != name or "\0" in name]:
        raise NotFound(f"{index} points outside its folder, to {outside[0]}. A shard lies beside its index.")
    missing = [name for name in names if not is_plain_file(index.parent / name)]
    if missing:
        raise NotFound(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:5])}. "
            "Download the checkpoint again."
        )
    return [index.parent / name for name in names], weight_map


def read_header(shard: Path) -> Iterator[StoredTensor]:
    """Yield what one weight file holds; of a safetensors file only the header is read."""
    if shard.suffix == ".bin":
        for name, value in load_bin(shard).items():
            yield StoredTensor(name, shard, value.dtype, tuple(value.shape))
        return
    if not shard.is_file():  # a pipe would be waited for
        raise BadFile(f"{shard} is not a regular file.")
    from mastlens.checkpoints.remote import address_of, remote_header  # it makes tensors of this module's kind

    if (address := address_of(shard.parent)) is not None:
        yield from remote_header(shard, address)
        return
    try:
        with safe_open(shard, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - not a mapping
                part = stream.get_slice(name)
                dtype = part.get_dtype()
                if dtype not in SAFETENSORS_DTYPES:
                    raise NotSupported(f"{name} in {shard} has dtype {dtype}, which torch cannot compute with.")
                yield StoredTensor(name, shard, SAFETENSORS_DTYPES[dtype], tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise BadFile(
            f"{shard} is truncated or damaged ({error}). It has {shard.stat().st_size} bytes; download it again."
        ) from error


def load_bin(shard: Path) -> dict[str, torch.Tensor]:
    """Map a pickled weight file into memory; objects other than tensors are never executed.

    Raises:
        MastlensError: If it cannot be read so, or holds anything but tensors by name.
    """
    if not shard.is_file():
        raise BadFile(f"{shard} is not a regular file.")
    with shard.open("rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04"
    try:
        # torch's format from before 1.6 cannot be mapped: the last such file stays in memory.
        value = torch.load(shard, map_location="cpu", weights_only=True, mmap=True) if zipped else _legacy(shard)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for one and the same
        raise BadFile(
            f"{shard} cannot be read as plain weights ({str(error).splitlines()[0] if str(error) else error!r}). "
            "It is truncated, or it holds objects other than tensors, which are never executed."
        ) from error
    if not isinstance(value, dict):
        raise BadFile(f"{shard} holds a {type(value).__name__}, where tensors by name belong.")
    for name, tensor in value.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
        if not plain or not isinstance(name, str):
            what = type(tensor).__name__ if not isinstance(tensor, torch.Tensor) else "tensor of another layout"
            raise BadFile(
                f"{shard} holds a {what} under {str(name)[:80]!r}, where tensors by name belong. A training state is "
                "no checkpoint: save the model itself with save_pretrained."
            )
    return value


def _legacy(shard: Path) -> Any:
    status = shard.stat()
    return _load_legacy(shard, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _load_legacy(shard: Path, size: int, changed: int) -> Any:
    return torch.load(shard, map_location="cpu", weights_only=True)
