"""A geometry in shards: each measured by a job of its own, put together by ``merge``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastlens.analysis.increments.geometry import (
    SHARD,
    SHARDED,
    Geometry,
    read_shard,
    record_geometry,
    shard_of,
)
from mastlens.analysis.increments.settings import GeometrySettings, MergeSettings
from mastlens.errors import BadFile, MastlensError, NotFound, NotTogether
from mastlens.runs.calls import make, takes
from mastlens.runs.files import sha256_file
from mastlens.runs.stages import read_record


@dataclass(frozen=True)
class _Shard:
    folder: Path
    part: str
    names: list[str]
    measured: dict[str, Any]
    told: dict[str, Any]

    @property
    def same(self) -> list[Any]:
        """What all shards of one geometry share, as its record has it."""
        settings = {key: value for key, value in self.told["settings"].items() if key != "shard"}
        return [self.told["lineage"], settings, self.told["versions"], self.names]


@takes(MergeSettings)
def merge(settings: MergeSettings) -> Geometry:
    """Put the shards of a geometry together: the tables are those of one run, bit for bit.

    ``out`` gets what ``geometry`` writes, as if it had been called without ``--shard``.

    Raises:
        MastlensError: If a shard is missing, damaged or given twice, or they are not of one geometry.
    """
    shards = [_read(Path(folder)) for folder in settings.shards]
    first = shards[0]
    for other in shards[1:]:
        if other.same != first.same:
            parts = ("checkpoints", "settings", "versions", "matrices")
            differing = [part for part, a, b in zip(parts, first.same, other.same, strict=True) if a != b]
            raise NotTogether(
                f"{first.folder} and {other.folder} are no shards of one geometry: they have other "
                f"{', '.join(differing)}. Measure them with the same command but for --shard and --out."
            )
    count = int(first.part.partition("/")[2])
    given = [shard.part for shard in shards]
    wanted = [f"{place}/{count}" for place in range(1, count + 1)]
    if twice := next((part for part in given if given.count(part) > 1), None):
        raise NotTogether(f"The shard {twice} is given twice.")
    if missing := [part for part in wanted if part not in given]:
        raise NotFound(
            f"{len(missing)} of {count} shards are missing: {', '.join(missing[:8])}. Measure them with geometry "
            "--shard, and give their folders too."
        )
    measured = {name: result for shard in shards for name, result in shard.measured.items()}
    told = {key: value for key, value in first.told["command"]["settings"].items() if key != "shard"}
    command = make(GeometrySettings, given={**told, "out": settings.out, "overwrite": settings.overwrite})
    return record_geometry(
        command,
        lambda: [measured[name] for name in first.names],
        lineage=first.told["lineage"],
        recorded={key: value for key, value in first.told["settings"].items() if key != "shard"},
        device=str(first.told["cost"]["device"]),
    )


def _read(folder: Path) -> _Shard:
    told = read_record(folder)["stages"].get(SHARDED)
    if told is None:
        raise NotFound(
            f"{folder} holds no shard of a geometry. Make it with: mastlens geometry ... --shard I/N --out {folder}"
        )
    if not (folder / SHARD).is_file():
        raise NotFound(f"{folder / SHARD} is missing: measure the shard again, with --overwrite.")
    try:
        if sha256_file(folder / SHARD) != told["outputs"][SHARD]:
            raise ValueError
        _ = told["lineage"], told["versions"], told["command"]["settings"], told["cost"]["device"]
        shard = _Shard(folder, str(told["settings"]["shard"]), *read_shard(folder), told)
        wanted = shard_of(shard.names, shard.part)
        whole = sorted(shard.measured) == sorted(wanted)
    except (KeyError, TypeError, ValueError, MastlensError) as error:
        raise BadFile(f"{folder / SHARD} is damaged, or its run.json. Measure it again, with --overwrite.") from error
    if not whole:
        raise BadFile(
            f"{folder / SHARD} does not hold the matrices of shard {shard.part}. Measure it again, with --overwrite."
        )
    return shard
