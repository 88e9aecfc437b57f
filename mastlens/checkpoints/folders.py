"""Checkpoint folders: found by path, hub id or organism, and the files beside the weights."""

import json
import os
import re
from pathlib import Path
from typing import Any

from mastlens.errors import BadFile, MastlensError, NotFound

MANIFEST = ".mastlens.json"
"""What ``export`` wrote into a folder, each file with its hash: overwriting removes nothing else."""


def resolve_folder(spec: str | os.PathLike[str]) -> Path:
    """Return the local folder that PATH names.

    Args:
        spec: A local folder, a hub id with an optional ``@revision``, or ``organism:NAME/STAGE``.

    Raises:
        MastlensError: If it names nothing that can be reached.
    """
    text = os.fspath(spec)
    if text.startswith("organism:"):
        from mastlens.organisms import stage_folder

        return stage_folder(text.removeprefix("organism:"))
    if Path(text).is_dir():
        return Path(text)
    if Path(text).exists():
        raise MastlensError(f"{text} is a file. A checkpoint is a folder with config.json and its weights.")
    repository, _, revision = text.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository) or text.startswith((".", "/", "~")):
        raise NotFound(f"There is no folder {text}. Give a local folder, a hub id, or organism:NAME/STAGE.")
    return _from_hub(repository, revision or None)


def _from_hub(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):  # pickled weights are fetched only where nothing else exists
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=["*.bin", "*.json"]))
    except Exception as error:  # the hub client raises a dozen classes; to the user they are one thing
        at = f" at revision {revision}" if revision else ""
        raise NotFound(
            f"There is no local folder {repository!r}, and the hub did not give it{at}: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}. "
            "Check the spelling and the network, or give a local folder."
        ) from error
    return folder


def companion_files(folder: Path) -> dict[str, Path]:
    """Return file name to path of everything beside the weights: configuration, tokenizer, generation settings."""
    return {
        file.name: file
        for file in sorted(folder.iterdir())
        if file.is_file()
        and file.name != MANIFEST
        and file.suffix not in (".safetensors", ".bin")
        and not file.name.endswith("bin.index.json")
    }


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Return file name to path of a folder's tokenizer; nothing where there is no whole one."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
    names += ("chat_template.jinja", "vocab.json", "merges.txt", "added_tokens.json")
    present = {name: folder / name for name in names if (folder / name).is_file()}
    return present if "tokenizer_config.json" in present else {}


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed ``config.json``.

    Raises:
        MastlensError: If it is missing or no JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise NotFound(f"{folder} has no config.json, so it is not a Hugging Face checkpoint folder.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadFile(f"{path} is not valid JSON: {error}.") from error
