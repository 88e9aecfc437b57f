"""Settings of the commands that measure increments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mastlens.runs.settings import LOOK, CheckpointPath, FilePath, Writing, executing, number, path_to, setting

VIEWS = ("bf16", "native")
"""How entries are compared: both rounded to bfloat16 first, or as they are stored."""

TOLERANCE = 1e-3
"""Relative tolerance eta of the bfloat16 view; anything below 2^-9 is equality in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class GeometrySettings(Writing):
    """Settings of ``geometry``."""

    command, group = "geometry", LOOK
    summary = "geometry of the increments, per attention projection"
    example = "geometry --base organism:qwen2/base --sft organism:qwen2/sft --rlvr organism:qwen2/rlvr --out run"
    function = "mastlens.analysis.increments.geometry:geometry"
    then = "couple --sft {sft} --rlvr {rlvr} --forget forget.jsonl --out {out}"

    base: CheckpointPath = setting(path_to("before SFT"), metavar="PATH")
    sft: CheckpointPath | None = setting(
        path_to("what RLVR started from; without it, RLVR is taken to start from the base"), None, metavar="PATH"
    )
    rlvr: CheckpointPath = setting(path_to("after RLVR"), metavar="PATH")
    rank: int | float | str = setting(
        "k of the principal subspaces: 16, a fraction of the size (0.1), a share of the energy (90%)",
        16,
        metavar="K",
        parse=number,
    )
    full: bool = setting("also whole spectra and subspaces before and after", False)
    masks: bool = setting("also which entries changed: principal, low-magnitude", False)
    spectra: bool = setting("also the increments' singular values and their ranks", False)
    heads: bool = setting("also the readings head by head", False)
    where: str | None = setting("other weight matrices, by name (attention by default)", None, metavar="REGEX")
    workers: int | None = setting(
        "tensors measured at a time (default: processors); results do not depend on it", None, metavar="N"
    )
    executor: str = executing("tensors are measured")
    shard: str | None = setting(
        "measure the I-th of N parts of the matrices alone, for merge: an array of jobs without a cluster",
        None,
        metavar="I/N",
    )


@dataclass(frozen=True, kw_only=True)
class MergeSettings(Writing):
    """Settings of ``merge``."""

    command, group = "merge", LOOK
    summary = "put the shards of a geometry together"
    example = "merge shards/1 shards/2 --out run"
    function = "mastlens.analysis.increments.shards:merge"
    then = "rank {out} --top 12"

    shards: Sequence[FilePath] = setting(
        "folders that geometry --shard wrote, all of them", positional=True, metavar="DIR"
    )


@dataclass(frozen=True, kw_only=True)
class MaskAgreementSettings(Writing):
    """Settings of ``mask-agreement``."""

    command, group = "mask-agreement", LOOK
    summary = "do several runs from one checkpoint change the same entries?"
    example = "mask-agreement organism:qwen2/sft organism:qwen2/rlvr organism:qwen2/rlvr-retain --out agreement"
    function = "mastlens.analysis.increments.agreement:mask_agreement"
    then = "report {out}"

    reference: CheckpointPath = setting(path_to("what the runs started from"), positional=True, metavar="START")
    runs: Sequence[CheckpointPath] | Mapping[str, Any] = setting(
        path_to("a run's end, two at least; in Python a mapping names them"), positional=True, metavar="RUN"
    )
    view: str = setting(
        "entries compared as bf16 (both rounded to bfloat16) or native",
        "bf16",
        choices=VIEWS,
        kind="view of the update mask",
        metavar="VIEW",
    )
    where: str | None = setting("other weight matrices, by name (attention by default)", None, metavar="REGEX")
    tolerance: float = setting("of the bf16 view, relative", TOLERANCE, python_only=True)
