"""Edits on a hub: pushed with their card, and taken from there."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import CARD
from mastlens.edits.applying import opened
from mastlens.edits.edit import FILE, Edit
from mastlens.edits.model_card import write_card
from mastlens.edits.settings import PushEditSettings
from mastlens.errors import BadSetting, NoReply
from mastlens.runs.calls import takes
from mastlens.runs.files import write_text

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class PushedEdit:
    """Where an edit is on a hub.

    Attributes:
        spec: What ``--edit`` takes: the repository at the revision that was made.
        sha256: Digest of the edit, the same as of the local file.
    """

    spec: str
    sha256: str


@takes(PushEditSettings)
def push_edit(settings: PushEditSettings) -> PushedEdit:
    """Push an edit to a repository of the hub, with a model card that says what it does and to what.

    The local edit stays as it is, whatever happens. ``--edit OWNER/NAME@REVISION`` takes it from there and checks every
    tensor against its digest.

    Raises:
        MastlensError: If the edit is not one of this checkpoint, there is no token, or the hub does not take it.
    """
    from huggingface_hub import HfApi, get_token

    edit, checkpoint = opened(settings.edit), Checkpoint(settings.to)
    edit.check_source(checkpoint)
    if not _REPOSITORY.fullmatch(settings.repository):
        raise BadSetting(f"{settings.repository!r} is no repository of a hub: OWNER/NAME is expected.")
    kept = "The edit is where it was" + ("" if isinstance(settings.edit, Edit) else f", in {settings.edit}")
    if get_token() is None:
        raise NoReply(f"There is no token for the hub: hf auth login, or set HF_TOKEN. {kept}.")
    try:
        api = HfApi()
        api.create_repo(settings.repository, private=settings.private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            edit.save(Path(folder) / FILE)
            write_text(Path(folder) / CARD, write_card(edit, checkpoint))
            made = api.upload_folder(
                repo_id=settings.repository, folder_path=folder, commit_message=f"mastlens edit {edit.sha256[:12]}"
            )
    except Exception as error:  # the hub client raises a dozen classes; to the user they are one thing
        said = str(error).splitlines()[0] if str(error) else "no reason given"
        raise NoReply(
            f"The hub did not take the edit: {type(error).__name__}: {said}. {kept}; check the network, the name and "
            "whether the token may write."
        ) from error
    return PushedEdit(f"{settings.repository}@{made.oid}", edit.sha256)
