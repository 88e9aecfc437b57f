"""A checkpoint with an edit that is put in while it is measured: the checkpoint itself is never written."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.edits.edit import Edit
from mastlens.models.weights import swapped
from mastlens.runs.files import sha256_json, sha256_tensor
from mastlens.runs.settings import Writing
from mastlens.runs.tables import Kept, remembered_tables

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

R = TypeVar("R")


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
    def changes(self) -> "Mapping[str, Tensor]":
        """Name to tensor of what the edit puts in; nothing without an edit."""
        return {} if self.edit is None else self.edit.after

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
        return {} if self.edit is None else {"edit": changes_digest(self.changes)}

    @contextmanager
    def applied(self, model: "PreTrainedModel") -> "Iterator[PreTrainedModel]":
        """Put the edit into the checkpoint's model for the block; its weights come back after it, bit for bit."""
        with swapped(model, self.changes):
            yield model

    @contextmanager
    def loaded(self, computing: Computing | None = None) -> "Iterator[tuple[PreTrainedModel, PreTrainedTokenizerBase]]":
        """Yield the model with the edit in it, and its tokenizer; on the CPU in float32 if nothing else is said."""
        with self.applied((computing or Computing()).load(self.checkpoint)) as model:
            yield model, self.checkpoint.load_tokenizer()

    def remembered(
        self,
        name: str,
        kept: Kept[R],
        command: Writing,
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Any],
        compute: Callable[[], R],
    ) -> R:
        """Compute one measurement of this checkpoint with its edit, or read it back; see ``remembered_tables``.

        Args:
            name: The stage.
            kept: What it leaves in the folder.
            command: What was asked for.
            settings: Everything that decides the result.
            inputs: Hashes of what is read beside checkpoint and edit.
            compute: Computes the result.
        """
        return remembered_tables(
            name,
            kept,
            command,
            settings=settings,
            lineage=self.lineage,
            behaviour=self.behaviour,
            inputs={**inputs, **self.inputs},
            compute=compute,
        )


def changes_digest(changes: "Mapping[str, Tensor]") -> str:
    """Return the hash of what an edit puts in."""
    return sha256_json({name: sha256_tensor(tensor) for name, tensor in changes.items()})
