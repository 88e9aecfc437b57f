"""Settings of ``depth-score``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mastlens.errors import BadSetting
from mastlens.problems.settings import Reading
from mastlens.runs.settings import JUDGE, CheckpointPath, FilePath, path_to, setting

SOLUTION, ANSWER = "solution", "answer"
TOKENS = (SOLUTION, ANSWER)
THRESHOLD = 0.05
"""The paper's least drop of a layer that encodes an item, in nats a token."""


@dataclass(frozen=True, kw_only=True)
class DepthScoreSettings(Reading):
    """Settings of ``depth-score``."""

    command, group = "depth-score", JUDGE
    summary = "how deep the forgetting goes: the edited model's hidden states put into the source"
    example = (
        "depth-score --model organism:qwen2/rlvr --edit run/edit.safetensors --reference organism:qwen2/rlvr-retain "
        "--split forget=forget-eval.jsonl --out depth"
    )
    function = "mastlens.evaluation.depth.scoring:depth_score"
    then = "report {out}"

    model: CheckpointPath = setting(path_to("what --edit belongs to, or is edited"), metavar="PATH")
    edit: FilePath | Any | None = setting("the edit; its source is --model", None, metavar="EDIT")
    source: CheckpointPath | None = setting(
        path_to("without --edit, the model before it was edited"), None, metavar="PATH"
    )
    reference: CheckpointPath = setting(path_to("a model retrained without what was to be forgotten"), metavar="PATH")
    splits: Mapping[str, FilePath] = setting("what is read, JSON lines", flag="--split", metavar="NAME=FILE")
    tokens: str = setting(
        "whose log-probability counts: of the whole worked solution, or of the boxed answer straight after the prompt",
        SOLUTION,
        choices=TOKENS,
        kind="tokens that count",
    )
    threshold: float = setting(
        "least drop under the reference's states of a layer that encodes an item", THRESHOLD, unit="nats a token"
    )

    def check(self) -> None:
        """Raise unless these settings make sense together."""
        if not self.threshold >= 0:
            raise BadSetting(f"The threshold (--threshold) is a number of 0 or more, it is {self.threshold}.")
        if not self.splits:
            raise BadSetting("There is nothing to read: give --split NAME=FILE at least once.")
        if (self.edit is None) == (self.source is None):
            raise BadSetting(
                "Give --edit, whose source is --model, or --source with an edited --model: one of the two."
            )
