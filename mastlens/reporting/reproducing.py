"""How to get a folder's numbers again: commands, checkpoints, files, settings, seeds, versions, hashes."""

import shlex
from typing import Any

import numpy as np
import pandas as pd

from mastlens.reporting.folder import RunFolder


def reproduce(run: RunFolder, *, is_demo: bool, study: bool) -> dict[str, Any]:
    """Return what the page says under "Reproduce", from ``run.json`` alone; without times, which differ every time.

    Args:
        run: The folder.
        is_demo: Whether ``mastlens demo`` made it.
        study: Whether ``mastlens run`` made it.
    """
    stages = run.record["stages"]
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    versions: dict[str, str] = {}
    for name, stage in stages.items():
        if not (study and name == "study"):  # a study's inputs are its arms, hundreds of them
            inputs |= {f"{name}, {role}": str(digest) for role, digest in stage.get("inputs", {}).items()}
        outputs |= stage.get("outputs", {})
        versions |= stage.get("versions", {})
    entries = {
        "command": _command(run, is_demo, study),
        "checkpoints (SHA-256 over their tensors)": run.lineage,
        "input files (SHA-256)": inputs,
        "settings": {name: _short(stage.get("settings", {})) for name, stage in stages.items()},
        "seeds": {name: seed for name, stage in stages.items() if (seed := _seed(stage)) is not None},
        "versions": versions,
        "outputs (SHA-256)": outputs,
        "times and memory": "in run.json: they differ from run to run",
    }
    return {key: value for key, value in entries.items() if value}


def _command(run: RunFolder, is_demo: bool, study: bool) -> str | list[str]:
    if is_demo:
        return f"mastlens demo --out {run.path.name}"
    if study:
        return f"mastlens run STUDY.toml --out {run.path.name}"
    return [_line(name, stage, run.path.name) for name, stage in run.record["stages"].items()]


def _line(name: str, stage: dict[str, Any], folder: str) -> str:
    """Return what to type to make a stage again, with the paths as they were given."""
    command = stage.get("command") or {}
    if not command:
        return f"{name}: settings and inputs below"
    if not command["line"]:
        return f"{name}: called from Python, mastlens {command['name']} with the settings below"
    return f"{command['line']} --out {shlex.quote(folder)}" if command["out"] else str(command["line"])


def _seed(stage: dict[str, Any]) -> Any:
    settings = stage.get("settings", {})
    seed = settings.get("seed", settings.get("seeds"))
    sampling = settings.get("sampling")
    return sampling.get("seed") if seed is None and isinstance(sampling, dict) else seed


_LONG = 8  # entries of a list beyond which it is counted and not shown


def _short(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {key: _short(value) for key, value in settings.items()}
    if isinstance(settings, list) and len(settings) > _LONG:
        return [*map(_short, settings[:3]), f"... {len(settings)} in all"]
    return settings


def data_list(run: RunFolder, headings: dict[str, str]) -> pd.DataFrame:
    """Return every table in the folder and the folders in it: its size, and where the page tells it.

    Args:
        run: The folder.
        headings: File to the heading of the section that tells it.

    Returns:
        ``file``, ``rows``, ``columns``, ``told in``; like files of several folders share a line, without rows.
    """
    files = sorted(path.relative_to(run.path) for path in run.path.rglob("*.parquet"))
    groups: dict[str, list] = {}
    for path in files:
        parts = path.parts
        if any(part.startswith(".") for part in parts):
            continue
        key = str(path) if len(parts) <= 2 else f"{parts[0]}/.../{parts[-1]}"
        groups.setdefault(key, []).append(path)
    rows = []
    for key, paths in groups.items():
        rows.append({"file": key if len(paths) == 1 else f"{key} ({len(paths)} files)", **_size(run, paths)})
        rows[-1]["told in"] = headings.get(key) or headings.get(f"*/{paths[0].name}", "not told: data only")
    return pd.DataFrame(rows, columns=["file", "rows", "columns", "told in"])


def _size(run: RunFolder, paths: list) -> dict[str, Any]:
    if len(paths) > 1:
        return {"rows": np.nan, "columns": ""}
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(run.path / paths[0]) as file:
            names = file.schema_arrow.names
            more = f", ... {len(names)} in all" if len(names) > _LONG else ""
            return {"rows": file.metadata.num_rows, "columns": ", ".join(names[:_LONG]) + more}
    except (OSError, ArrowException):
        return {"rows": np.nan, "columns": "cannot be read"}
