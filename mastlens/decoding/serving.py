"""What another program is given to read of a checkpoint that is changed: its folder, and the changes beside it.

Nothing of it stays: it stands in a temporary folder that goes with the block, whatever happens in it.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import export
from mastlens.runs.files import write_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "mastlens"
"""What vLLM calls the way of loading a checkpoint with changes in it (see ``vllm_weights``)."""
FILE = "changes"
"""The setting of that way of loading: the file of the changes, by the checkpoint's names."""
INSIDE = "mastlens.decoding.vllm_weights.ReadBack"
"""What vLLM's workers are extended by; they import it by this name, and with it that way of loading."""


def all_changes(checkpoint: Checkpoint, changes: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return what differs from the checkpoint's folder: what an adapter changes, then what an edit does."""
    return {name: checkpoint.tensor(name) for name in sorted(checkpoint.added)} | dict(changes)


@contextmanager
def changes_file(changes: "Mapping[str, Tensor]") -> Iterator[Path]:
    """Yield a file that holds the changed tensors, and no others."""
    with tempfile.TemporaryDirectory(prefix="mastlens-changes-") as folder:
        file = Path(folder) / "changes.safetensors"
        write_tensors(file, dict(changes))
        yield file


@contextmanager
def whole_folder(checkpoint: Checkpoint, changes: "Mapping[str, Tensor]") -> Iterator[Path]:
    """Yield a complete folder of the checkpoint with the changes in it."""
    with tempfile.TemporaryDirectory(prefix="mastlens-changed-") as folder:
        yield export(checkpoint, changes, Path(folder) / "model")
