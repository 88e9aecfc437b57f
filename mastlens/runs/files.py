"""Writing that never leaves half a file behind, and the hashes that tell files and tensors apart."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import torch


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place only if the block succeeds.

    Works for a file and for a folder. On an exception, also an interruption, nothing is left behind and what
    stood at ``path`` before still stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = scratch / path.name
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            path.rename(scratch / "replaced")  # a folder cannot be replaced in one step
        temporary.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
