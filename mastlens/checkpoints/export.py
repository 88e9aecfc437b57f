"""A checkpoint written as a complete Hugging Face folder, with other tensors in it and a card that says so."""

import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.checkpoints.behaviour import decides_behaviour
from mastlens.checkpoints.folders import MANIFEST, leads_outside
from mastlens.errors import MastlensError, MastlensWarning, NotSupported, StageRefused
from mastlens.runs.files import atomic_path, remove_leftovers, sha256_file, write_json, write_tensors, write_text
from mastlens.runs.reading import read_object

if TYPE_CHECKING:
    from torch import Tensor

    from mastlens.checkpoints.checkpoint import Checkpoint

CARD = "README.md"
_INDEX = "model.safetensors.index.json"
_SOURCE = ".source"


def export(
    checkpoint: "Checkpoint",
    tensors: "Mapping[str, Tensor]",
    out: str | os.PathLike[str],
    *,
    card: str | None = None,
    companions: Mapping[str, Path] | None = None,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``checkpoint`` with ``tensors`` in place of its own to the folder ``out``, one shard in memory.

    Everything else of the folder (configuration, tokenizer, generation settings) is copied, but for links that lead
    out of it: what they point to may be private. Pickled shards are written as safetensors; an adapter comes out merged
    into its base, and codes come out as the weights that they stand for.

    Args:
        checkpoint: The source; it is never written to.
        tensors: Name to what takes the tensor's place; those that it does not have come into its last file.
        out: The new folder.
        card: Text of the ``README.md``; None for the source's own.
        companions: File name to what is copied beside the weights; None for all that the checkpoint has.
        config: What takes the configuration's place; None for its own.
        overwrite: Replace what an earlier call wrote to ``out``; anything else there is never touched.

    Raises:
        MastlensError: If ``out`` is the source, or is not empty, or the model needs a file that is a link out of its
            folder.

    Warns:
        MastlensWarning: If another file is such a link, and is left out.
    """
    out = Path(out)
    check_place(out, checkpoint.folders, overwrite=overwrite)
    shards, pickled = _exported_shards(checkpoint)
    files = _own_files(checkpoint.companions if companions is None else companions)
    added = checkpoint.added  # an adapter's tensors are not those of its base's files, and codes are no weights
    if further := [name for name in tensors if name not in checkpoint.tensors]:
        last = max(shards)
        shards[last] = (shards[last][0], [*shards[last][1], *further])
    anew = pickled or bool(checkpoint.dequantised) or bool(further)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        for name, file in files.items():
            shutil.copyfile(file, temporary / name)
        if checkpoint.dequantised or config is not None:
            given = checkpoint.config if config is None else config
            write_json(temporary / "config.json", {k: v for k, v in given.items() if k != "quantization_config"})
        if card is not None:
            write_text(temporary / CARD, card)
        for name, (shard, names) in shards.items():
            if pickled or any(n in tensors or n in added for n in names):
                write_tensors(
                    temporary / name,
                    {n: tensors[n] if n in tensors else checkpoint.tensor(n) for n in names},
                )
            else:
                shutil.copyfile(shard, temporary / name)
        if anew and len(shards) > 1:
            weight_map = {n: name for name, (_, names) in shards.items() for n in names}
            size = sum((temporary / name).stat().st_size for name in shards)
            write_json(
                temporary / _INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
            )
        write_json(temporary / MANIFEST, {"files": {p.name: sha256_file(p) for p in sorted(temporary.iterdir())}})
    return out


def check_place(out: Path, sources: Iterable[Path], *, overwrite: bool) -> None:
    """Raise unless a checkpoint can go to ``out`` without anything being lost that this program did not write there."""
    remove_leftovers(out)  # what a killed run was about to replace is there again
    place = out.resolve()
    for source in (folder.resolve() for folder in sources):
        if place == source:
            raise StageRefused(f"{out} is the source checkpoint, which is never written to. Choose another --out.")
        if place in source.parents:
            raise StageRefused(f"{out} holds the source checkpoint {source.name}. Choose another --out.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise StageRefused(f"{out} is a file; a checkpoint is a folder. Choose another --out.")
    if not overwrite:
        raise StageRefused(
            f"{out} exists and is not empty. Choose another --out, or pass --overwrite (in Python overwrite=True)."
        )
    if foreign := foreign_files(out):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise StageRefused(
            f"{out} holds what mastlens did not write there, or what was changed since: {foreign[0]}{more}. "
            "--overwrite replaces only what it wrote itself. Choose another --out, or empty the folder yourself."
        )


def foreign_files(folder: Path) -> list[str]:
    """Return what stands in a folder and is not as ``export`` wrote it, by name."""
    try:
        written = dict(read_object(folder / MANIFEST)["files"])
    except (MastlensError, ValueError, KeyError, TypeError):
        written = {}
    return [
        entry.name
        for entry in sorted(folder.iterdir())
        if (entry.name != MANIFEST or not written)
        and (entry.is_symlink() or not entry.is_file() or written.get(entry.name) != sha256_file(entry))
    ]


def _own_files(companions: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files without links that lead out of their folder.

    Raises:
        MastlensError: If one of these is a file that transformers reads.
    """
    found = {}
    for name, file in companions.items():
        if not leads_outside(file):
            found[name] = file
        elif decides_behaviour(name):
            raise NotSupported(
                f"{file} is a link to {file.resolve()}, outside the checkpoint's folder. It may lead to a file that is "
                "nobody's to share, so it is not followed into a new folder: put a copy in its place."
            )
        else:
            warnings.warn(
                f"{file} is a link to {file.resolve()}, outside the checkpoint's folder: it is left out.",
                MastlensWarning,
                stacklevel=3,
            )
    return found


def exported_files(checkpoint: "Checkpoint") -> list[str]:
    """Return the names of the files that ``export`` writes for a checkpoint."""
    shards, pickled = _exported_shards(checkpoint)
    index = [_INDEX] if (pickled or checkpoint.dequantised) and len(shards) > 1 else []
    return sorted({*checkpoint.companions, *shards, *index})


def _exported_shards(checkpoint: "Checkpoint") -> tuple[dict[str, tuple[Path, list[str]]], bool]:
    """Return new file name to source shard and its tensors, and whether the source's are pickled."""
    shards: dict[Path, list[str]] = {}
    for stored in checkpoint.tensors.values():
        shards.setdefault(stored.file, []).append(stored.name)
    pickled = any(shard.suffix == ".bin" for shard in shards)
    named = enumerate(sorted(shards.items()), start=1)
    return {
        _shard_name(number, len(shards)) if pickled else shard.name: (shard, names) for number, (shard, names) in named
    }, pickled


def _shard_name(number: int, of: int) -> str:
    return "model.safetensors" if of == 1 else f"model-{number:05d}-of-{of:05d}.safetensors"


def shelve_cards(companions: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files with the name ``README.md`` free: what bears it becomes ``README.source.md``, and so on."""
    return {_shelved(name, 1): file for name, file in companions.items()}


def unshelve_cards(companions: Mapping[str, Path], made_for: str) -> dict[str, Path]:
    """Return the files as they were before ``shelve_cards``, without the card that names ``made_for``.

    A ``README.md`` that does not name it is somebody's own: then everything stays as it is.
    """
    card = companions.get(CARD)
    if card is None or made_for not in card.read_text(encoding="utf-8", errors="replace"):
        return dict(companions)
    return {_shelved(name, -1): file for name, file in companions.items() if name != CARD}


def _shelved(name: str, by: int) -> str:
    stem, suffix = CARD.split(".")
    inner = name.removeprefix(stem).removesuffix(f".{suffix}")
    depth = inner.count(_SOURCE)
    if not (name.startswith(stem) and name.endswith(f".{suffix}") and inner == _SOURCE * depth):
        return name
    return f"{stem}{_SOURCE * (depth + by)}.{suffix}"
