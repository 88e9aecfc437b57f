"""A checkpoint with an edit that is put in while it is evaluated: the checkpoint itself is never written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.models.weights import swapped
from mastlens.runs.files import sha256_json, sha256_tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class EditedCheckpoint:
    """A checkpoint and, perhaps, an edit of it.

    Attributes:
        checkpoint: The checkpoint.
        edit: The edit; None for the checkpoint as it is.
    """

    checkpoint: Checkpoint
    edit: Edit | None = None

    @classmethod
    def open(
        cls, model: "str | os.PathLike[str] | Checkpoint", edit: "str | os.PathLike[str] | Edit | None" = None
    ) -> "EditedCheckpoint":
        """Open both and check that the edit was made for the checkpoint.

        Raises:
            MastlensError: If one of them is not there, or they do not belong together.
        """
        checkpoint = Checkpoint(model)
        if isinstance(edit, str | os.PathLike):
            edit = Edit.load(edit)
        if edit is not None:
            edit.check_source(checkpoint)
        return cls(checkpoint, edit)

    @property
    def lineage(self) -> dict[str, str]:
        """The checkpoint's fingerprint, for the run record."""
        return {"model": self.checkpoint.fingerprint}

    @property
    def behaviour(self) -> dict[str, dict[str, str]]:
        """What else decides how the checkpoint behaves, for the run record."""
        return {"model": self.checkpoint.behaviour}

    @property
    def inputs(self) -> dict[str, str]:
        """The edit's hash, for the run record; nothing without an edit."""
        if self.edit is None:
            return {}
        return {"edit": sha256_json({name: sha256_tensor(tensor) for name, tensor in self.edit.after.items()})}

    @contextmanager
    def loaded(self, device: str = "cpu") -> "Iterator[tuple[PreTrainedModel, PreTrainedTokenizerBase]]":
        """Yield the model with the edit in it, and its tokenizer."""
        model = self.checkpoint.load_model(device=device)
        with swapped(model, {} if self.edit is None else self.edit.after):
            yield model, self.checkpoint.load_tokenizer()
