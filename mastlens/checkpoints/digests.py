"""What identifies the tensors of a checkpoint: a line for each, and the fingerprint of them all."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mastlens.runs.files import sha256_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from mastlens.checkpoints.checkpoint import Checkpoint

_HASHED_AT_ONCE = 8  # tensors in memory; more threads than that wait for the disk


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
