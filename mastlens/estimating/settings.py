"""Settings of ``estimate``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mastlens.runs.settings import REPORT, Settings, setting


@dataclass(frozen=True, kw_only=True)
class EstimateSettings(Settings):
    """Settings of ``estimate``."""

    command, group = "estimate", REPORT
    summary = "tokens, time, memory and disk of a command, before it is run"
    example = (
        "estimate evaluate --model organism:qwen2/rlvr "
        "--split forget=mastlens/organisms/lineages/qwen2/forget-eval.jsonl --out evaluation"
    )
    function = "mastlens.estimating.needs:estimate"

    ranks: int = setting(
        "as torchrun would start it over so many ranks: from shapes alone, nothing is run; before the command", 1
    )
    what: Sequence[str] | Any = setting(
        "the command line to estimate, without mastlens; in Python a command's function, or its settings",
        positional=True,
        rest=True,
        metavar="COMMAND ...",
    )
    given: Mapping[str, Any] | None = setting("the settings of a function", None, python_only=True)
