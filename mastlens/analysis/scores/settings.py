"""Settings of the scores."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mastlens.decoding.settings import grading
from mastlens.errors import BadSetting
from mastlens.problems.settings import AUTO, DTYPES, ForgetRetain
from mastlens.runs.settings import RANK, CheckpointPath, path_to, setting


def scorer_lines() -> list[str]:
    """Return every scorer with its summary, for the help."""
    from mastlens.analysis.scores.catalogue import SCORERS

    lines: list[str] = []
    for name, scorer in SCORERS.items():
        own = ", ".join(f"{key}={value:g}" for key, value in scorer.parameters.items())
        said = f"{name}: {scorer.summary} ({own}) [{scorer.source}]"
        lines += textwrap.wrap(said, 88, subsequent_indent="    ")
    return lines


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(ForgetRetain):
    """Settings of ``score``."""

    command, group = "score", RANK
    summary = "score matrices by what they did between SFT and RLVR"
    example = (
        "score path --sft organism:qwen2/sft --rlvr organism:qwen2/rlvr --forget forget.jsonl --limit 50 --out run"
    )
    function = "mastlens.analysis.scores.scored:score"
    then = "rank {out} --rule {rule} --top 12"

    rule: str = setting("what to score by", positional=True, metavar="RULE", listing=scorer_lines)
    sft: CheckpointPath = setting(path_to("what RLVR started from"), metavar="PATH")
    rlvr: CheckpointPath = setting(path_to("after RLVR"), metavar="PATH")
    where: str | None = setting(
        "weight matrices by name; '.' for all, embeddings included (attention by default)", None, metavar="REGEX"
    )
    dtype: str = setting(
        "of the model in memory; the models between SFT and RLVR differ by less than 16 bits can hold",
        "float32",
        choices=tuple(dtype for dtype in DTYPES if dtype != AUTO),
        metavar="DTYPE",
    )
    retain_weight: float = setting("what the retain side counts against the forget side", 1.0)
    grader: str | Any = grading("what is right, where responses are judged (behaviour)")
    parameters: Mapping[str, float] | None = setting(
        "the rule's own numbers", None, flag="--parameter", metavar="NAME=NUMBER"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.retain_weight < 0:
            raise BadSetting(f"A retain weight (--retain-weight) is 0 or more, not {self.retain_weight:g}.")
