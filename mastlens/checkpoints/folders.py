"""Checkpoint folders: found by path, hub id or organism, and the files beside the weights."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mastlens.checkpoints.remote import folder_of, is_address
from mastlens.errors import BadFile, NotFound
from mastlens.runs.reading import is_folder, is_plain_file, is_there, read_object

MANIFEST = ".mastlens.json"
"""What ``export`` wrote into a folder, each file with its hash: overwriting removes nothing else."""


def resolve_folder(spec: str | os.PathLike[str]) -> Path:
    """Return the local folder that PATH names.

    Args:
        spec: A local folder, a GGUF file, a hub id with an optional ``@revision``, ``organism:NAME/STAGE``, or an
            address that fsspec knows, such as ``s3://bucket/folder``: its tensors stay there.

    Raises:
        MastlensError: If it names nothing that can be reached.
    """
    text = os.fspath(spec)
    if text.startswith("organism:"):
        from mastlens.organisms import stage_folder

        return stage_folder(text.removeprefix("organism:"))
    if is_address(text):
        return folder_of(text)
    if is_folder(text):
        return Path(text)
    if text.endswith(".gguf") and is_plain_file(text):
        from mastlens.checkpoints.gguf import unpacked

        return unpacked(Path(text))
    if is_there(text):
        raise BadFile(f"{text} is a file. A checkpoint is a folder with config.json and its weights.")
    repository, _, revision = text.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository) or text.startswith((".", "/", "~")):
        raise NotFound(f"There is no folder {text}. Give a local folder, a hub id, or organism:NAME/STAGE.")
    return _from_hub(repository, revision or None)


def _from_hub(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py"]
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
    left = {".safetensors", ".bin"}
    single = (folder / "model.safetensors").is_file()  # then an index is of another save
    return {
        file.name: file
        for file in sorted(folder.iterdir())
        if file.is_file()
        and file.name != MANIFEST
        and file.suffix not in left
        and not file.name.endswith("bin.index.json")
        and not (single and file.name == "model.safetensors.index.json")
    }


def leads_outside(file: Path) -> bool:
    """Return whether a file is a link out of its folder, so that its content need not be the checkpoint's.

    The hub's cache keeps a snapshot's files as links to its ``blobs``: these are the checkpoint's own.
    """
    target, folder = file.resolve(), file.parent.resolve()
    blobs = folder.parent.parent / "blobs"
    return not (target.is_relative_to(folder) or (folder.parent.name == "snapshots" and target.parent == blobs))


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Return file name to path of a folder's tokenizer; nothing where there is no whole one."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
    names += ("chat_template.jinja", "vocab.json", "merges.txt", "added_tokens.json")
    present = {name: folder / name for name in names if (folder / name).is_file()}
    return present if "tokenizer_config.json" in present else {}


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed ``config.json``.

    Raises:
        MastlensError: If it is missing or no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise NotFound(f"{folder} has no config.json, so it is not a Hugging Face checkpoint folder.")
    return read_object(path)


_COUNTS = re.compile(r"(num|n)_(\w+_)?(layers?|heads?|experts?)")
_WIDTHS = ("head_dim", "hidden_size", "intermediate_size", "vocab_size", "n_embd", "n_inner")
_PLAIN = 1 << 20  # no model is refused for a width up to here


def check_sizes(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise if the configuration promises more layers, heads, experts or entries than the weight files can hold.

    transformers makes a list of all layers from the configuration alone, and would fill the memory with it.

    Raises:
        MastlensError: With the key and both numbers.
    """
    tensors, widest = len(shapes), max((size for shape in shapes.values() for size in shape), default=0)
    for key, value in _numbers(config):
        most = max(widest, _PLAIN)
        if match := _COUNTS.fullmatch(key):
            most = tensors if match[3].startswith("layer") else max(tensors, widest)
        elif key not in _WIDTHS:
            continue
        if value > most:
            raise BadFile(
                f"config.json of {folder} gives {key} as {value}; its files hold {tensors} tensors, the widest of "
                f"{widest} entries. Configuration and weights are not of one model: download the checkpoint again."
            )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, int) and not isinstance(value, bool):
            yield str(key), value
        elif isinstance(value, Mapping) and str(key).endswith("config"):
            yield from _numbers(value)
