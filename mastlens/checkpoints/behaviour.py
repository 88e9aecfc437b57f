"""What decides beside the weights how a model behaves: configuration, generation settings, tokenizer, template."""

import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mastlens.errors import MastlensError
from mastlens.runs.files import sha256_file
from mastlens.runs.reading import read_object

TEMPLATE = "chat template"

TOKENIZER = (
    "tokenizer*", "vocab*", "merges*", "*.model", "*.tiktoken", "special_tokens_map.json", "added_tokens.json",
    "normalizer.json", "tekken.json", "chat_template*", "additional_chat_templates/*",
)  # fmt: skip
"""Patterns of what transformers makes a tokenizer of, chat templates included."""

MODEL = ("config.json", "generation_config.json")
CODE = "*.py"
_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "*.gguf", "*.pt", "*.pth", "*.md")
_BASE = ("base_model_name_or_path", "revision")  # where an adapter's base is; what it is, its own digests say


def behaviour_parts(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Return name to SHA-256 of each file of a folder that fits a pattern; of JSON, of what it says.

    The chat template is a part of its own, wherever it is written. Where the folder has code of its own, that code may
    read any file, so every file but the weights counts.
    """
    files = {str(file.relative_to(folder)): file for file in _files(folder)}
    if any(fnmatch(name, CODE) for name in files):
        patterns = ("*",)
    parts: dict[str, str] = {}
    template: dict[str, str] = {}
    for name, file in files.items():
        if not any(fnmatch(name, pattern) for pattern in patterns) or any(fnmatch(name, w) for w in _WEIGHTS):
            continue
        if name.startswith(("chat_template", "additional_chat_templates/")):
            template[name] = sha256_file(file)
        elif name in ("tokenizer_config.json", *MODEL):
            said = _said(file)
            if name == "tokenizer_config.json" and isinstance(said, dict):
                inline = said.pop("chat_template", None)
                template |= {} if inline is None else {name: digest_of(inline)}
            parts[name] = digest_of(said)
        else:
            parts[name] = sha256_file(file)
    return parts | ({TEMPLATE: digest_of(template)} if template else {})


def decides_behaviour(name: str) -> bool:
    """Return whether a file of this name is one that transformers makes a model or a tokenizer of."""
    return any(fnmatch(name, pattern) for pattern in (*MODEL, *TOKENIZER, CODE))


def adapter_part(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an adapter's settings, but for where its base is."""
    return digest_of({key: value for key, value in config.items() if key not in _BASE})


def digest_of(value: Any) -> str:
    """Return the SHA-256 of anything that JSON holds, in whatever order a file says it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    extra = folder / "additional_chat_templates"
    inner = list(extra.iterdir()) if extra.is_dir() else []
    return [file for file in sorted([*folder.iterdir(), *inner]) if file.is_file()]


def _said(file: Path) -> Any:
    try:
        return read_object(file)
    except MastlensError:  # what is no JSON is told by its bytes; who needs it will refuse it
        return sha256_file(file)
