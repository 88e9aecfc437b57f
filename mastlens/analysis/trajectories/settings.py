"""Settings of the analysis of a run by its saved steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from mastlens.runs.settings import LOOK, CheckpointPath, Writing, number, path_to, setting


@dataclass(frozen=True, kw_only=True)
class TrajectorySettings(Writing):
    """Settings of ``trajectory``."""

    command, group = "trajectory", LOOK
    summary = "a run by its saved steps: rank 1 in time, linearity, extrapolation"
    example = "trajectory organism:qwen2/sft organism:qwen2/trajectory --window 0.3 --out steps"
    function = "mastlens.analysis.trajectories.trajectory:trajectory"
    then = "report {out}"

    paths: Sequence[CheckpointPath] = setting(
        path_to("the start, then steps or a folder of step_N folders"), positional=True, metavar="PATH"
    )
    start: CheckpointPath | None = setting(path_to("the start, where it is not the first path"), None, metavar="PATH")
    steps: Sequence[int] | None = setting(
        "step numbers, where the names do not tell", None, metavar="N,N,...", separator=","
    )
    base: CheckpointPath | None = setting(
        path_to("whose subspaces count as principal (the start)"), None, metavar="PATH"
    )
    window: int | float | None = setting(
        "fit the first N checkpoints, or a fraction of them (0.3)", None, metavar="N", parse=number
    )
    rank: int = setting("k of the principal subspaces", 16)
    extrapolate: int | None = setting(
        "write the checkpoint that the fit gives at this step, to extrapolated-STEP; inside of the window this is "
        "RELEX's fit_reconstruct",
        None,
        metavar="STEP",
    )
    reconstruct: int | None = setting(
        "write this observed step projected on its direction, to reconstructed-STEP", None, metavar="STEP"
    )
    matrix_rank_1: bool = setting(
        "write the start with each matrix's update replaced by its first singular triple at the full update's norm, "
        "to matrix-rank-1",
        False,
    )
