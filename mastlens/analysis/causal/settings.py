"""Settings of the commands that put weights back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mastlens.decoding.settings import grading
from mastlens.problems.settings import ForgetRetain
from mastlens.runs.settings import RANK, CheckpointPath, FilePath, path_to, setting

DIRECTIONS = ("restore", "insert")
"""SFT weights into the RLVR model, and RLVR weights into the SFT model."""


@dataclass(frozen=True, kw_only=True)
class _Patching(ForgetRetain):
    sft: CheckpointPath = setting(path_to("what RLVR started from"), metavar="PATH")
    rlvr: CheckpointPath = setting(path_to("after RLVR"), metavar="PATH")


@dataclass(frozen=True, kw_only=True)
class CausalMapSettings(_Patching):
    """Settings of ``causal-map``."""

    command, group = "causal-map", RANK
    summary = "put each projection's SFT weights back, and see what changes"
    example = (
        "causal-map --sft organism:qwen2/sft --rlvr organism:qwen2/rlvr --forget forget.jsonl --limit 50 --out run"
    )
    function = "mastlens.analysis.causal.causal_map:causal_map"
    over_ranks = True
    then = "cumulative-curves --sft {sft} --rlvr {rlvr} --forget {forget} --ranking {out}/ranking.parquet --out {out}"

    where: str | None = setting(
        "only weight matrices of these names (all of attention by default)", None, metavar="REGEX"
    )
    heads: bool = setting("also every head alone", False)
    both_directions: bool = setting("leave out RLVR weights put into the SFT model", True, flag="--one-direction")
    accuracy: bool = setting("also generate and grade for every patch (slow)", False)
    max_new_tokens: int = setting("where a response ends", 256, unit="tokens")
    grader: str | Any = grading("with --accuracy, what is right")


@dataclass(frozen=True, kw_only=True)
class CumulativeCurvesSettings(_Patching):
    """Settings of ``cumulative-curves``."""

    command, group = "cumulative-curves", RANK
    summary = "put the best k of a ranking back, against random orders"
    example = (
        "cumulative-curves --sft organism:qwen2/sft --rlvr organism:qwen2/rlvr --forget forget.jsonl "
        "--ranking run/ranking.parquet --limit 50 --out run"
    )
    function = "mastlens.analysis.causal.cumulative:cumulative_curves"
    then = "report {out}"

    ranking: FilePath | Sequence[str] | Any = setting(
        "a ranking.parquet; in Python its table too, or all projections' names, best first", metavar="FILE"
    )
    direction: str = setting(
        "restore (SFT weights into the RLVR model) or insert (the other way)",
        "restore",
        choices=DIRECTIONS,
        metavar="WAY",
    )
    draws: int = setting("random orders", 20)
    points: int = setting("values of k above 0, at most; evenly spaced, the last is all projections", 16)
