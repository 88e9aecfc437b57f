"""Checkpoints at an address, ``s3://bucket/folder``: tensors are read from there in ranges, no shard is ever fetched.

A folder of the user's cache stands for the address. It holds the small files (configuration, tokenizer), and of each
safetensors file its header alone, which says where every tensor lies. fsspec knows the ways: ``s3``, ``gs``, ``hf``,
``http``, ``memory`` and many more, each with a package of its own.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mastlens.checkpoints.shards import SAFETENSORS_DTYPES, StoredTensor
from mastlens.errors import BadFile, MastlensError, MissingPackage, NoReply, NotFound, NotSupported
from mastlens.runs.files import atomic_path, cache_folder, sha256_json, stands, write_json
from mastlens.runs.reading import DEEPEST, parse_json, read_object

_FOLDER = "remote"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.+", re.IGNORECASE)
_PICKLED = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")  # never read in ranges
_SMALL = 64 * 2**20  # bytes of a file that is fetched whole; tokenizers have up to 35 million
_HEADER = 100 * 2**20  # bytes of a header: what safetensors itself allows
_CHUNK = 64 * 2**20  # bytes of one request
_VERSION = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created", "blob_id", "size")


def is_address(text: str) -> bool:
    """Return whether a text is an address such as ``s3://bucket/folder``."""
    return _ADDRESS.fullmatch(text) is not None


def folder_of(address: str) -> Path:
    """Return the folder that stands for an address, brought up to date.

    Raises:
        MastlensError: If nothing is there, it cannot be reached, or a package for it is missing.
    """
    address = address.rstrip("/")
    system, root = _system(address)
    if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
        return Path(root)
    folder = cache_folder() / _FOLDER / sha256_json(address)[:32]
    known = _record(folder) or {}
    with _telling(address):
        entries = [entry for entry in system.ls(root, detail=True) if entry.get("type") != "directory"]
        files = {str(entry["name"]).rstrip("/").rpartition("/")[2]: entry for entry in entries}
        described = {name: _version(system, entry) for name, entry in sorted(files.items()) if _wanted(name)}
        if not any(name == "config.json" or name.startswith("adapter_config") for name in described):
            raise NotFound(f"There is no checkpoint at {address}: it has no config.json.")
        for name in set(known.get("files", {})) - set(described):
            (folder / name).unlink(missing_ok=True)
        for name, version in described.items():
            if known.get("files", {}).get(name) == version and stands(folder / name):
                continue
            size, path = int(version["size"]), str(files[name]["name"])
            data = _header(system, path, size) if name.endswith(".safetensors") else _whole(system, path, size)
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(data)
    if known != (told := {"address": address, "files": described}):
        write_json(_record_path(folder), told)
    return folder


def address_of(folder: Path) -> str | None:
    """Return the address that a folder of the cache stands for; None for any other folder."""
    record = _record(folder)
    return None if record is None else str(record["address"])


def _record_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _record(folder: Path) -> dict[str, Any] | None:
    if folder.parent != cache_folder() / _FOLDER or not _record_path(folder).is_file():
        return None
    try:
        record = read_object(_record_path(folder))
        return record if isinstance(record.get("files"), dict) and is_address(str(record.get("address"))) else None
    except MastlensError:
        return None  # it is written anew


def _wanted(name: str) -> bool:
    return not name.startswith(".") and Path(name).name == name and not name.endswith(_PICKLED)


def _version(system: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a file from what it was before, its size among it."""
    if entry.get("size") is None:
        entry = system.info(entry["name"])
    if entry.get("size") is None:
        raise NotSupported(f"{entry['name']} does not say how large it is, so no part of it can be asked for.")
    return {key: str(entry[key]) for key in _VERSION if entry.get(key) is not None}


def _whole(system: Any, path: str, size: int) -> bytes:
    if size > _SMALL:
        raise BadFile(f"{path} has {size:,} bytes, more than any file beside the weights of a checkpoint.")
    return system.cat_file(path)


def _header(system: Any, path: str, size: int) -> bytes:
    """Return the first bytes of a safetensors file: the length of its header, and the header."""
    length = system.cat_file(path, start=0, end=8)
    count = int.from_bytes(length, "little")
    if len(length) != 8 or not 2 <= count <= min(_HEADER, size - 8):
        raise BadFile(f"{path} is no safetensors file, or is truncated: it has {size} bytes.")
    found = system.cat_file(path, start=8, end=8 + count)
    if len(found) != count:
        raise BadFile(f"{path} gave {len(found)} bytes where {count} were asked for: it does not know ranges.")
    return length + found


@dataclass(frozen=True)
class RemoteTensor(StoredTensor):
    """A tensor at an address.

    Attributes:
        address: Of its file.
        begin: First byte in the file.
    """

    address: str
    begin: int

    @property
    def local(self) -> bool:
        """Whether its file is on this machine: no, what stands there is the header."""
        return False

    def read(self, start: int = 0, stop: int | None = None, *, mapped: bool = False) -> torch.Tensor:
        """Read the tensor, or the rows ``start`` to ``stop`` of it, in its stored dtype: these bytes and no others."""
        shape, begin = self.shape, self.begin
        if shape:
            stop = shape[0] if stop is None else min(stop, shape[0])
            each = torch.Size(shape[1:]).numel() * self.dtype.itemsize
            begin, shape = begin + start * each, (max(stop - start, 0), *shape[1:])
        value = torch.empty(shape, dtype=self.dtype)
        if not value.numel():
            return value
        into = value.reshape(-1).view(torch.uint8).numpy().data
        system, path = _system(self.address)
        with _telling(self.address):
            for first in range(0, len(into), _CHUNK):
                last = min(first + _CHUNK, len(into))
                data = system.cat_file(path, start=begin + first, end=begin + last)
                if len(data) != last - first:
                    raise BadFile(f"{self.address} gave {len(data)} bytes where {last - first} were asked for.")
                into[first:last] = data
        return value


def remote_header(shard: Path, address: str) -> Iterator[RemoteTensor]:
    """Yield what a safetensors file at an address holds, by the header that stands for it here.

    Args:
        shard: The file of the cache.
        address: What its folder stands for.

    Raises:
        MastlensError: If the header is none, or promises other bytes than the file has.
    """
    data, record = shard.read_bytes(), _record(shard.parent)
    assert record is not None
    size, where = int(record["files"][shard.name]["size"]), f"{address}/{shard.name}"
    header = parse_json(data[8:].decode("utf-8", errors="replace"), where, "a safetensors header")
    try:
        for name, told in header.items():
            if name == "__metadata__":
                continue
            if told["dtype"] not in SAFETENSORS_DTYPES:
                raise NotSupported(f"{name} in {where} has dtype {told['dtype']}, which torch cannot compute with.")
            dtype, shape = SAFETENSORS_DTYPES[told["dtype"]], tuple(map(int, told["shape"]))
            first, last = (len(data) + int(offset) for offset in told["data_offsets"])
            fits = len(shape) <= DEEPEST and all(length >= 0 for length in shape)
            if not fits or last - first != torch.Size(shape).numel() * dtype.itemsize or not len(data) <= first <= last:
                raise ValueError
            if last > size:
                raise ValueError
            yield RemoteTensor(name, shard, dtype, shape, where, first)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise BadFile(f"{where} is truncated or damaged: its header does not fit its {size} bytes.") from error


def _system(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address)
    except ImportError as error:
        raise MissingPackage(
            f"{address}: {error} For s3 it is an extra: pip install 'mastlens[remote]'; for others, the package that "
            "is named."
        ) from error
    except ValueError as error:
        raise NotFound(f"{address} is no address that fsspec knows: {error}.") from error


@contextmanager
def _telling(address: str) -> Iterator[None]:
    """Within, whatever a file system raises becomes a message that names the address."""
    try:
        yield
    except MastlensError:
        raise
    except FileNotFoundError as error:
        raise NotFound(f"There is nothing at {address}.") from error
    except Exception as error:  # every file system has classes of its own
        said = str(error).splitlines()[0] if str(error) else "no reason given"
        raise NoReply(
            f"{address} cannot be read: {type(error).__name__}: {said}. Check the address, the network and the "
            "credentials, and give the same command again."
        ) from error
