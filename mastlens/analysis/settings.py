"""Settings of the analyses that have no room of their own."""

from collections.abc import Mapping
from dataclasses import dataclass

from mastlens.problems.settings import Reading
from mastlens.runs.settings import LOOK, CheckpointPath, FilePath, path_to, setting


@dataclass(frozen=True, kw_only=True)
class TokenDifferencesSettings(Reading):
    """Settings of ``token-differences``."""

    command, group = "token-differences", LOOK
    summary = "log-probabilities token by token, before and after"
    example = (
        "token-differences --sft organism:qwen2/sft --rlvr organism:qwen2/rlvr --split forget=forget.jsonl --out run"
    )
    function = "mastlens.analysis.tokens:token_differences"
    over_ranks = True
    then = "report {out}"

    base: CheckpointPath | None = setting(
        path_to("before SFT; without it there is the RLVR increment alone"), None, metavar="PATH"
    )
    sft: CheckpointPath | None = setting(
        path_to("what RLVR started from; without it, RLVR is taken to start from the base"), None, metavar="PATH"
    )
    rlvr: CheckpointPath = setting(path_to("after RLVR"), metavar="PATH")
    splits: Mapping[str, FilePath] = setting("problems, JSON lines, whose solutions are the texts", flag="--split")
    quantiles: int = setting("classes of entropy; of 5 the top one holds the forking tokens", 5)
