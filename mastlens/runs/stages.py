"""The output folder and its record ``run.json``: what was made from what, and what it cost.

The same stage with the same inputs and settings does nothing; with others it is refused. Stages of one lineage
share a folder, tables of different lineages never meet.
"""

import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from mastlens import __version__
from mastlens.errors import BadFile, BadSetting, MastlensError, MastlensWarning, NotFound, NotTogether, StageRefused
from mastlens.runs import words
from mastlens.runs.cost import WORKER, measured
from mastlens.runs.devices import device_of
from mastlens.runs.files import cannot_write, remove_leftovers, sha256_file, write_json
from mastlens.runs.locks import held
from mastlens.runs.reading import is_plain_file, read_json, read_object
from mastlens.runs.settings import Settings

T = TypeVar("T")

RECORD = "run.json"
_HASHED = ("lineage", "outputs")
_PARTS = (*_HASHED, "inputs", "settings", "notes", "versions", "cost")
_BEFORE = {"dtype": "float32", "autocast": False, "limit": None, "where": None, "solution_logprob": True}
"""What settings were before they existed, or are since they are called otherwise: a record need not tell of them."""
_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "scipy", "pandas")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version(), "mastlens": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hash_inputs(files: Mapping[str, str | os.PathLike[str] | None]) -> dict[str, str]:
    """Return role to SHA-256 of each file that was given.

    Raises:
        MastlensError: If a file is missing.
    """
    hashes = {}
    for role, path in files.items():
        if path is None:
            continue
        if not Path(path).is_file():
            raise NotFound(f"There is no file {path} (for {role}).")
        hashes[role] = sha256_file(Path(path))
    return hashes


@dataclass
class Stage:
    """One stage of a run while it is under way.

    Attributes:
        folder: Where its outputs go.
        done: Whether an earlier run made the same outputs from the same inputs: then there is nothing to do.
        own: Whether what stands in the place of its outputs is its own, recorded or left by a run that was ended.
        notes: What the stage wants to keep in the record beside its inputs, e.g. counts.
    """

    folder: Path
    done: bool
    own: bool = False
    notes: dict[str, Any] = field(default_factory=dict)


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of an output folder; an empty one where there is none yet."""
    path = folder / RECORD
    if not path.is_file():
        return {"stages": {}}
    try:
        record = read_object(path, "a run record")
        if wrong := _misshapen(record):
            raise BadFile(f"{path}: {wrong} is not what a run record has there.")
    except BadFile as error:
        raise BadFile(f"{error} It is damaged. Choose another --out, or remove it.") from error
    return record


def _misshapen(record: Mapping[str, Any]) -> str:
    """Return the first part of a run record that is of another form; nothing where all is well."""
    stages = record.get("stages")
    if not isinstance(stages, dict):
        return "'stages'"
    for name, told in stages.items():
        if not isinstance(told, dict):
            return f"the stage {name!r}"
        for part in _PARTS:
            value = told.get(part, {})
            if not isinstance(value, dict):
                return f"{part!r} of {name!r}"
            if part in _HASHED and not all(isinstance(entry, str) for entry in value.values()):
                return f"{part!r} of {name!r}"
    return ""


@contextmanager
def stage(
    out: str | os.PathLike[str],
    name: str,
    *,
    outputs: Sequence[str],
    lineage: Mapping[str, str] | None = None,
    behaviour: Mapping[str, Mapping[str, str]] | None = None,
    inputs: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    command: Settings | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    partial: str | None = None,
) -> Iterator[Stage]:
    """Open a stage of the run in ``out``; the record is written when the block succeeds.

    One process at a time has a folder: another one waits, and then finds what the first has made. Whatever ends a stage
    early, the same call goes on with it.

    Args:
        out: The output folder.
        name: The stage, e.g. ``geometry``.
        outputs: The files that it writes, relative to ``out``.
        lineage: Role (base, sft, rlvr, model) to fingerprint of each checkpoint.
        behaviour: Role to ``Checkpoint.behaviour`` of each checkpoint that is run: what else decides what it says.
        inputs: Hashes of everything else that is read.
        settings: Everything that decides the result.
        command: What was asked for, with the paths as they were given: how to type it again. It decides nothing.
        device: Recorded with the cost: results do not depend on it beyond rounding.
        overwrite: Replace outputs that were made from other inputs or settings.
        partial: The file in ``out`` that keeps what is finished so far (a ``Ledger``): removed once all is recorded.

    Raises:
        MastlensError: If the folder cannot be written to, or holds this stage with other inputs or settings, or another
            lineage's tables.

    Warns:
        MastlensWarning: If the stage is computed again because its record does not say how its models behaved.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise BadSetting(f"{folder} is a file; --out is a folder.")
    with _alone_in(folder):
        yield from _stage(
            folder,
            name,
            outputs,
            {"lineage": lineage, "behaviour": behaviour, "inputs": inputs, "settings": settings},
            command=command,
            device=device,
            overwrite=overwrite,
            partial=partial,
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing; if nothing was put into it, it goes again."""
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder, waiting=lambda: _told_waiting(folder)):
            yield
    except OSError as error:
        raise cannot_write(error) or error from error
    finally:
        if fresh and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # a stage that made nothing leaves nothing


def _told_waiting(folder: Path) -> None:
    warnings.warn(f"Another run writes to {folder}; waiting until it is done.", MastlensWarning, stacklevel=6)


def _stage(
    folder: Path,
    name: str,
    outputs: Sequence[str],
    wanted: Mapping[str, Mapping[str, Any] | None],
    *,
    command: Settings | None,
    device: str,
    overwrite: bool,
    partial: str | None,
) -> Iterator[Stage]:
    record = read_record(folder)
    asked = {
        "lineage": dict(wanted["lineage"] or {}),
        **({"behaviour": {role: dict(parts) for role, parts in told.items()}} if (told := wanted["behaviour"]) else {}),
        "inputs": dict(wanted["inputs"] or {}),
        "settings": json.loads(json.dumps(dict(wanted["settings"] or {}))),  # as it will be read back
    }
    _refuse_other_lineage(folder, record, name, asked)
    previous = record["stages"].get(name)
    done, own = False, previous is not None
    if previous is not None:
        differing = _differences(previous, asked)
        if differing and not overwrite:
            raise StageRefused(
                f"{folder} already holds the stage '{name}' with other {'; '.join(differing)}. Nothing was "
                "changed. Choose another --out, or pass --overwrite (in Python overwrite=True) to replace it."
            )
        made = previous.get("outputs", {})
        done = not differing and set(made) == set(outputs)
        if done and (untold := sorted(set(asked.get("behaviour", {})) - set(previous.get("behaviour", {})))):
            done = False
            warnings.warn(
                f"The stage '{name}' in {folder} is computed again: its record does not say with which configuration, "
                f"tokenizer and generation settings {' and '.join(untold)} was run, so it cannot be told whether they "
                "are still the same.",
                MastlensWarning,
                stacklevel=4,
            )
        done = done and all(is_plain_file(folder / f) and sha256_file(folder / f) == h for f, h in made.items())
    elif _was_under_way(folder, name, asked):
        own = True  # killed between its outputs and its record
    elif any((folder / output).exists() for output in outputs) and not overwrite:
        present = next(output for output in outputs if (folder / output).exists())
        raise StageRefused(
            f"{folder / present} exists and no record says what it was made from. Choose another --out, or pass "
            "--overwrite (in Python overwrite=True) to replace it."
        )
    current = Stage(folder, done, own)
    if done:
        current.notes = previous.get("notes", {}) if previous else {}
        _tidy(folder, name, partial)  # a run that was killed right after its record left this
        inside = dict.fromkeys(part for output in outputs for part in (Path(output), *Path(output).parents[:-1]))
        for written in (folder / RECORD, _under_way(folder, name), *(folder / part for part in inside)):
            remove_leftovers(written)
        yield current
        return
    before = _standing(folder, outputs)
    write_json(_under_way(folder, name), asked)
    try:
        with measured() as cost:
            yield current
    except BaseException:
        if _standing(folder, outputs) == before:
            _under_way(folder, name).unlink(missing_ok=True)  # else it says whose the new outputs are
        raise
    record = read_record(folder)  # another stage may have been recorded meanwhile
    record["stages"][name] = {
        **asked,
        **({} if command is None else {"command": words.record(command)}),
        "outputs": {output: sha256_file(folder / output) for output in outputs},
        "notes": current.notes,
        "versions": versions(),
        "cost": {
            "seconds": round(cost.seconds, 3),
            "peak_anonymous_mb": None if cost.peak_mb is None else round(cost.peak_mb, 1),
            "device": device_of(device),
            **({"worker": worker} if (worker := WORKER.get()) else {}),
        },
    }
    write_json(folder / RECORD, record)
    _tidy(folder, name, partial)


def _tidy(folder: Path, name: str, partial: str | None) -> None:
    """Remove what a stage needs only until it is recorded."""
    _under_way(folder, name).unlink(missing_ok=True)
    if partial is not None:
        (folder / partial).unlink(missing_ok=True)


def _standing(folder: Path, outputs: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return which outputs stand there: a file that was written anew is another one."""
    there = {output: folder / output for output in outputs if (folder / output).exists()}
    return {output: (path.stat().st_ino, path.stat().st_mtime_ns) for output, path in there.items()}


def _under_way(folder: Path, name: str) -> Path:
    """Return the note that a stage is under way: it holds what was asked for, and only a kill leaves it behind."""
    return folder / f".{name}.under-way.json"


def _was_under_way(folder: Path, name: str, asked: Mapping[str, Any]) -> bool:
    try:
        return read_json(_under_way(folder, name)) == asked
    except MastlensError:
        return False


def _refuse_other_lineage(folder: Path, record: Mapping[str, Any], name: str, asked: Mapping[str, Any]) -> None:
    lineage, behaviour = asked["lineage"], asked.get("behaviour", {})
    for other, kept in record["stages"].items():
        if other == name:
            continue  # an --overwrite may replace a stage's own checkpoints
        for role, fingerprint in kept.get("lineage", {}).items():
            if lineage.get(role, fingerprint) != fingerprint:
                raise NotTogether(
                    f"{folder} belongs to another lineage: its stage '{other}' was made from another {role} "
                    f"checkpoint ({fingerprint[:12]}, this one is {lineage[role][:12]}). Choose another --out."
                )
        for role, parts in kept.get("behaviour", {}).items():
            if changed := _differing(parts, behaviour.get(role, parts)):
                raise NotTogether(
                    f"{folder} belongs to another model: its stage '{other}' was made with the same weights of the "
                    f"{role} checkpoint and another {', another '.join(changed)}. Choose another --out."
                )


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    either = sorted(set(old) | set(new))
    return [key for key in either if old.get(key, _BEFORE.get(key)) != new.get(key, _BEFORE.get(key))]


def _differences(previous: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    parts = [(previous.get(part, {}), asked[part], "") for part in ("lineage", "inputs", "settings")]
    for role, now in asked.get("behaviour", {}).items():  # a role that the record does not tell of is no difference
        parts.append((previous.get("behaviour", {}).get(role, now), now, f" of the {role} checkpoint"))
    found = []
    for old, new, whose in parts:
        for key in _differing(old, new):
            values = (old.get(key, _BEFORE.get(key)), new.get(key, _BEFORE.get(key)))
            short = ["none" if value is None and whose else str(value)[:24] for value in values]
            found.append(f"{key}{whose} ({short[0]}, now {short[1]})")
    return found


def remembered(
    out: str | os.PathLike[str] | None,
    name: str,
    *,
    outputs: Sequence[str],
    compute: Callable[[], T],
    write: Callable[[T, Path], None],
    read: Callable[[Path], T],
    **asked: Any,
) -> T:
    """Compute a result, or read it back where ``out`` already holds it; ``asked`` goes to ``stage``."""
    if out is None:
        return compute()
    with stage(out, name, outputs=outputs, **asked) as current:
        if current.done:
            return read(current.folder)
        result = compute()
        write(result, current.folder)
    return result
