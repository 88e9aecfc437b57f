"""What identifies the tensors of a checkpoint: a line for each, and the fingerprint of them all.

A large checkpoint is hashed once: what was found is kept in the user's cache under the size, times and inode of its
files. Any write to a file changes its times, so that it is hashed again.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mastlens.errors import BadFile, CannotWrite, MastlensError
from mastlens.runs.files import cache_folder, sha256_json, sha256_tensor, write_text
from mastlens.runs.reading import read_object

if TYPE_CHECKING:
    from torch import Tensor

    from mastlens.checkpoints.checkpoint import Checkpoint

_HASHED_AT_ONCE = 8  # tensors in memory; more threads than that wait for the disk
_FORMAT = 1  # of what is kept; raise it when a tensor is read in another way
_SETTLED = 2.0  # seconds since the last write: within a clock's tick of it, a second write could go unseen


def tensor_digest(value: "Tensor") -> str:
    """Return the dtype, shape and SHA-256 of a tensor, in one line."""
    return f"{value.dtype} {tuple(value.shape)} {sha256_tensor(value)}"


def tensor_digests(checkpoint: "Checkpoint") -> dict[str, str]:
    """Return name to ``tensor_digest`` of every tensor; reads the whole checkpoint, a few tensors at once."""
    with ThreadPoolExecutor(min(_HASHED_AT_ONCE, os.cpu_count() or 1)) as pool:
        lines = pool.map(lambda name: tensor_digest(checkpoint.tensor(name)), checkpoint.tensors)
        return dict(zip(checkpoint.tensors, lines, strict=True))


def fingerprint_of(digests: Mapping[str, str]) -> str:
    """Return the fingerprint of a checkpoint with these tensors, as ``Checkpoint.fingerprint`` has it."""
    digest = hashlib.sha256()
    for name in sorted(digests):
        digest.update(f"{name} {digests[name]}\n".encode())
    return digest.hexdigest()


def remembered_digests(checkpoint: "Checkpoint", *, verify: bool = False) -> dict[str, str]:
    """Return ``tensor_digests``, from the user's cache where no file of the checkpoint was written since.

    Args:
        checkpoint: The checkpoint.
        verify: Read and hash all tensors, whatever the cache says.

    Raises:
        MastlensError: With ``verify``, if the cache says otherwise: a file was changed and its times set back, or a
            disk returns other bytes than it was given. The cache is corrected.
    """
    begun = time.time()
    state = _state(checkpoint)
    kept = cache_folder() / "digests" / f"{sha256_json([_FORMAT, state])}.json"
    known = _kept(kept, checkpoint)
    if known is not None and not verify:
        return known
    digests = tensor_digests(checkpoint)
    settled = _state(checkpoint) == state and all(begun - max(one.changed) / 1e9 > _SETTLED for one in state)
    if settled and digests != known:
        with suppress(OSError, CannotWrite):  # a cache that cannot be written is none
            write_text(kept, json.dumps({"digests": digests, "fingerprint": fingerprint_of(digests)}))
    if known is not None and digests != known:
        changed = sorted(name for name in digests if digests[name] != known.get(name))
        raise BadFile(
            f"{len(changed)} tensors of {checkpoint.spec} are not what they were when they were last hashed, though "
            f"the times of its files say so, first {changed[0]}. What was computed since may be of other weights: "
            "compute it again."
        )
    return digests


class _File(NamedTuple):
    """What the cache knows a file by."""

    path: str
    device: int
    inode: int
    size: int
    changed: tuple[int, int]


def _state(checkpoint: "Checkpoint") -> list[_File]:
    """Return what the cache goes by, for every file that is read."""
    files = []
    for path in sorted({Path(os.path.realpath(file)) for file in checkpoint.files}):
        status = path.stat()
        changed = (status.st_mtime_ns, status.st_ctime_ns)
        files.append(_File(str(path), status.st_dev, status.st_ino, status.st_size, changed))
    return files


def _kept(path: Path, checkpoint: "Checkpoint") -> dict[str, str] | None:
    """Return the digests in the cache; None if there are none, or they are damaged or of other tensors."""
    try:
        found = read_object(path, "digests")
        digests = {str(name): str(line) for name, line in found["digests"].items()}
        whole = found["fingerprint"] == fingerprint_of(digests)
    except (MastlensError, KeyError, TypeError, AttributeError):
        return None
    return digests if whole and list(digests) == list(checkpoint.tensors) else None
