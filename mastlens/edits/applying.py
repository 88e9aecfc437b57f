"""Edits from file to file: shown, applied, reverted, scaled, composed."""

from pathlib import Path

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import export, shelve_cards, unshelve_cards
from mastlens.edits.composition import compose, scale
from mastlens.edits.edit import Edit
from mastlens.edits.model_card import write_card
from mastlens.edits.settings import (
    ApplyEditSettings,
    ComposeEditSettings,
    RevertEditSettings,
    ScaleEditSettings,
    ShowEditSettings,
)
from mastlens.errors import BadSetting, StageRefused
from mastlens.runs.calls import takes
from mastlens.runs.files import remove_leftovers
from mastlens.runs.settings import FilePath


@takes(ShowEditSettings)
def show_edit(settings: ShowEditSettings) -> Edit:
    """Read an edit, every tensor checked against its hash; its ``table`` says what it changes.

    Raises:
        MastlensError: If the file is missing, truncated, not an edit, or was tampered with.
    """
    return opened(settings.edit)


@takes(ApplyEditSettings)
def apply_edit(settings: ApplyEditSettings) -> Path:
    """Write a complete Hugging Face folder: the checkpoint with the edit in it, and a model card that says so.

    A ``README.md`` of the source is kept as ``README.source.md``.

    Raises:
        MastlensError: If the checkpoint is not the one that the edit was made for, or ``out`` exists.
    """
    edit, checkpoint = opened(settings.edit), Checkpoint(settings.to)
    edit.check_source(checkpoint)
    return export(
        checkpoint,
        edit.after,
        settings.out,
        card=write_card(edit, checkpoint),
        companions=shelve_cards(checkpoint.companions),
        overwrite=settings.overwrite,
    )


@takes(RevertEditSettings)
def revert_edit(settings: RevertEditSettings) -> Path:
    """Write a complete Hugging Face folder: the edited checkpoint ``source`` with the edit taken out.

    The edit's model card goes, and the ``README.md`` that stood there before is back.

    Raises:
        MastlensError: If the checkpoint does not hold the edit, or ``out`` exists.
    """
    edit, checkpoint = opened(settings.edit), Checkpoint(settings.source)
    edit.check_edited(checkpoint)
    companions = unshelve_cards(checkpoint.companions, made_for=edit.sha256)
    return export(checkpoint, edit.before, settings.out, companions=companions, overwrite=settings.overwrite)


@takes(ScaleEditSettings)
def scale_edit(settings: ScaleEditSettings) -> Edit:
    """Write the edit that goes ``by`` times as far, and return it (see ``Edit.scale``).

    Raises:
        MastlensError: If nothing is left, as at 0, the result does not fit the dtype, or ``out`` exists.
    """
    return _saved(scale(opened(settings.edit), settings.by), settings.out, overwrite=settings.overwrite)


@takes(ComposeEditSettings)
def compose_edit(settings: ComposeEditSettings) -> Edit:
    """Write one edit that does what two do, and return it (see ``Edit.compose``).

    Raises:
        MastlensError: If they do not fit, with the tensors where they do not, undo each other, or ``out`` exists.
    """
    both = compose(opened(settings.edit), opened(settings.following))
    return _saved(both, settings.out, overwrite=settings.overwrite)


def opened(edit: Edit | FilePath) -> Edit:
    """Return an edit, read where a path was given."""
    return edit if isinstance(edit, Edit) else Edit.load(edit)


def _saved(edit: Edit, out: FilePath, *, overwrite: bool) -> Edit:
    path = Path(out)
    if path.is_dir():
        raise BadSetting(f"{path} is a folder; --out names the file to write, e.g. {path / 'edit.safetensors'}.")
    remove_leftovers(path)
    if path.exists() and not overwrite:
        raise StageRefused(f"{path} exists. Choose another --out, or pass --overwrite (in Python overwrite=True).")
    edit.save(path)
    return edit
