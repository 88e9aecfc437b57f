"""Settings of the commands that look at one checkpoint."""

from dataclasses import dataclass

from mastlens.runs.settings import LOOK, CheckpointPath, Settings, path_to, setting


@dataclass(frozen=True, kw_only=True)
class InspectSettings(Settings):
    """Settings of ``inspect``."""

    command, group = "inspect", LOOK
    summary = "what a checkpoint holds"
    example = "inspect organism:qwen2/rlvr"
    function = "mastlens.checkpoints.inspection:inspect"
    then = "geometry --base BASE --rlvr {path} --out run"

    path: CheckpointPath = setting(path_to("the checkpoint"), positional=True)
    verify: bool = setting("read and hash all weights again, whatever is remembered of their files", False)
