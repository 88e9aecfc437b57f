"""Writing that never leaves half a file behind, and the hashes that tell files and tensors apart."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.errors import CannotWrite
from mastlens.runs.locks import abandoned, held

if TYPE_CHECKING:
    import pandas as pd
    import torch

_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "make room there",
    errno.EROFS: "choose a place that is not read-only",
    errno.EACCES: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "one of its parents is a file; choose another place",
    errno.EISDIR: "a folder stands where a file should; choose another place",
    errno.ELOOP: "its links go in a circle; choose another place",
    errno.EIO: "look after the disk",
    errno.ESTALE: "the shared folder is gone; mount it again",
}

_REPLACED = "replaced"


def cannot_write(error: BaseException, path: "Path | str | None" = None) -> CannotWrite | None:
    """Return what to tell the user of an error that is his to mend; None for any other.

    Args:
        error: What the system, or a library that writes, raised.
        path: Where to; by default what the error names.
    """
    number = getattr(error, "errno", None)
    if number is None and (told := re.search(r"os error (\d+)", str(error))):  # safetensors' own
        number = int(told[1])
    if number not in _REMEDIES or (number in (errno.ENOTDIR, errno.EISDIR) and path is None):
        return None
    place = path if path is not None else getattr(error, "filename", None) or "the output folder"
    return CannotWrite(
        f"Cannot {'write' if path is not None else 'use'} {place}: {os.strerror(number)}. Nothing that was finished is "
        f"lost: {_REMEDIES[number]}, and give the same command again."
    )


_OPEN: set[Path] = set()  # scratch folders of writers at work in this process


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place only if the block succeeds.

    Works for a file and for a folder. On an exception, also an interruption, nothing is left behind and what
    stood at ``path`` before still stands. What a killed writer left behind goes when ``path`` is written again.
    Inside a folder that is being written in this way nobody sees a file yet: there, ``path`` itself is yielded.

    Raises:
        CannotWrite: If the disk is full, the place is read-only, and the like.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _OPEN.isdisjoint(path.parents):
            yield path
            return
        remove_leftovers(path)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        _OPEN.add(scratch)
        with held(scratch):
            temporary = scratch / path.name
            yield temporary
            _put(temporary, path, scratch / _REPLACED)
    except OSError as error:
        raise cannot_write(error, path) or error from error
    finally:
        if scratch is not None:
            _OPEN.discard(scratch)
            if path.exists() or not (scratch / _REPLACED).exists():  # else it holds what could not be put back
                _removed(scratch)


def _removed(scratch: Path) -> None:
    """Remove a scratch folder; once more where that fails, as it may for a moment on a file system that is shared."""
    for _ in range(2):
        shutil.rmtree(scratch, ignore_errors=True)
        if not scratch.exists():
            return


def _put(new: Path, path: Path, replaced: Path) -> None:
    """Put a file or folder in its place; what stands there stays if that fails."""
    try:
        if new.is_dir() and path.is_dir():
            path.rename(replaced)  # a folder cannot be replaced in one step
        new.replace(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what writers of ``path`` left that were killed; a folder that one was about to replace comes back."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}")
    try:
        scratches = [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name) and entry.is_dir()]
    except OSError:
        return
    for scratch in scratches:
        if not abandoned(scratch):
            continue  # its writer is at work
        if (scratch / _REPLACED).exists() and not path.exists():
            (scratch / _REPLACED).rename(path)
        _removed(scratch)


def stands(path: Path) -> bool:
    """Return whether a file or folder that is written once is there, without what killed writers of it left."""
    remove_leftovers(path)
    return path.exists()


def remove_all_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder, whatever they were writing: for what is not written again."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if match := re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", entry.name):
            remove_leftovers(folder / match[1])


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write ``table`` as parquet to ``path`` in one step; equal tables give equal bytes."""
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, Any] | None = None) -> None:
    """Write ``tensors`` as safetensors to ``path`` in one step; equal input gives equal bytes.

    Args:
        path: The file to write.
        tensors: Name to tensor; each is written contiguous, in its own dtype.
        metadata: Anything JSON can hold. It is stored under the single key ``mastlens``, because safetensors
            writes several keys in an order that differs from one process to the next.
    """
    from safetensors.torch import save_file

    encoded = {"format": "pt"}
    if metadata is not None:
        encoded = {"mastlens": json.dumps(metadata, sort_keys=True, ensure_ascii=False)}
    with atomic_path(path) as temporary:
        save_file(
            {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
            str(temporary),
            metadata=encoded,
        )


def cache_folder() -> Path:
    """Return where results that take long are kept: $MASTLENS_CACHE, else the user's cache folder."""
    if cache := os.environ.get("MASTLENS_CACHE"):
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mastlens"


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tensor(tensor: "torch.Tensor") -> str:
    """Return the SHA-256 of a tensor's bytes, row by row, as safetensors stores them."""
    import torch

    data = tensor.detach().contiguous().cpu()
    return hashlib.sha256(data.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
