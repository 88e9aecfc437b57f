"""Settings of the coupling of gradients to increments."""

from dataclasses import dataclass

from mastlens.problems.settings import AUTO, DTYPES, ForgetRetain
from mastlens.runs.settings import RANK, CheckpointPath, path_to, setting


@dataclass(frozen=True, kw_only=True)
class CoupleSettings(ForgetRetain):
    """Settings of ``couple``."""

    command, group = "couple", RANK
    summary = "coupling of the forget gradient to the increment"
    example = "couple --sft organism:qwen2/sft --rlvr organism:qwen2/rlvr --forget forget.jsonl --out run"
    function = "mastlens.analysis.coupling.coupling:couple"
    then = "rank {out} --top 12"
    over_ranks = True

    sft: CheckpointPath = setting(path_to("what RLVR started from"), metavar="PATH")
    rlvr: CheckpointPath = setting(path_to("after RLVR"), metavar="PATH")
    dtype: str = setting(
        "of the model in memory; gradients are added up in float32. auto: bfloat16 where the device is fast at it and "
        "the checkpoint has 16 bits, else float32",
        AUTO,
        choices=DTYPES,
        metavar="DTYPE",
        switches={"autocast": "bfloat16"},
    )
    fisher: bool = setting("also the Fisher information, one problem at a time", False)
    spectrum: bool = setting("leave out the coupling spectrum, which is slow", True)
    directions: int = setting("singular directions of each increment that stand alone in the spectrum", 64)
    where: str | None = setting("other weight matrices, by name (attention by default)", None, metavar="REGEX")
