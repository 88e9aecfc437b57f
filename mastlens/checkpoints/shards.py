"""Weight files: what their headers say, and one tensor, or some of its rows, read at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from mastlens.errors import BadFile, NotFound, NotSupported

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


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor of a checkpoint lies: its file, dtype and shape, read from the header alone."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of entries."""
        return torch.Size(self.shape).numel()

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


def index_weights(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a model folder by name, from the headers of its weight files.

    Raises:
        MastlensError: If there are no weight files, one is missing, or one is truncated.
    """
    for pattern, index in (
        ("model*.safetensors", "model.safetensors.index.json"),
        ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
    ):
        shards = _shards_of(folder / index) if (folder / index).is_file() else sorted(folder.glob(pattern))
        if shards:
            return {stored.name: stored for shard in shards for stored in read_header(shard)}
    raise NotFound(f"{folder} holds no weights: neither model*.safetensors nor pytorch_model*.bin, nor a PEFT adapter.")


def _shards_of(index: Path) -> list[Path]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise BadFile(f"{index} is not a shard index: {error!r}.") from error
    if outside := [name for name in sorted(set(weight_map.values())) if Path(name).name != name]:
        raise BadFile(f"{index} points outside its folder, to {outside[0]}. A shard lies beside its index.")
    shards = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise NotFound(
            f"{index.parent} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing[:5])}. "
            "Download the checkpoint again."
        )
    return shards


def read_header(shard: Path) -> Iterator[StoredTensor]:
    """Yield what one weight file holds; of a safetensors file only the header is read."""
    if shard.suffix == ".bin":
        for name, value in load_bin(shard).items():
            yield StoredTensor(name, shard, value.dtype, tuple(value.shape))
        return
    try:
        with safe_open(shard, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - not a mapping
                part = stream.get_slice(name)
                dtype = part.get_dtype()
                if dtype not in _SAFETENSORS_DTYPES:
                    raise NotSupported(f"{name} in {shard} has dtype {dtype}, which torch cannot compute with.")
                yield StoredTensor(name, shard, _SAFETENSORS_DTYPES[dtype], tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise BadFile(
            f"{shard} is truncated or damaged ({error}). It has {shard.stat().st_size} bytes; download it again."
        ) from error


def load_bin(shard: Path) -> dict[str, torch.Tensor]:
    """Map a pickled weight file into memory; objects other than tensors are never executed."""
    try:
        return torch.load(shard, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for one and the same
        raise BadFile(
            f"{shard} cannot be read as plain weights ({str(error).splitlines()[0] if str(error) else error!r}). "
            "It is truncated, or it holds objects other than tensors, which are never executed."
        ) from error
