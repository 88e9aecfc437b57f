"""Settings of the commands that look at the activations of a pair of models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mastlens.errors import BadSetting
from mastlens.problems.settings import Reading
from mastlens.runs.settings import LOOK, CheckpointPath, FilePath, path_to, setting

_PAIR = "--sft organism:qwen2/sft --rlvr organism:qwen2/rlvr"
LEAST_DRAWS = 2
"""Random changes without which a null has no spread."""


@dataclass(frozen=True, kw_only=True)
class PairSettings(Reading):
    """What all of them have."""

    sft: CheckpointPath = setting(path_to("what RLVR started from"), metavar="PATH")
    rlvr: CheckpointPath = setting(path_to("after RLVR"), metavar="PATH")
    splits: Mapping[str, FilePath] = setting("problems, JSON lines, whose solutions are the texts", flag="--split")
    draws: int = setting(
        "random changes of the size of RLVR's, the null; 0 for none, which leaves every row without a verdict", 8
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.splits:
            raise BadSetting("There are no texts to look at. Give at least one split, e.g. forget=forget-train.jsonl.")
        if self.draws and self.draws < LEAST_DRAWS:
            raise BadSetting(f"{self.draws} random changes (--draws) have no spread: take {LEAST_DRAWS} or more, or 0.")


@dataclass(frozen=True, kw_only=True)
class InsideDepartSettings(PairSettings):
    """Settings of ``inside depart``."""

    command, group = "inside depart", LOOK
    summary = "where in the residual stream, and at which token, SFT and RLVR part"
    example = f"inside depart {_PAIR} --split forget=forget.jsonl --limit 24 --out run"
    function = "mastlens.analysis.inside.departing:inside_depart"
    then = "causal-map --sft {sft} --rlvr {rlvr} --forget forget.jsonl --out {out}"

    lens: bool = setting("also read every layer through final norm and output embedding (logit lens; slow)", False)
    positions: int = setting("also the first N tokens of the solutions one by one", 0, metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions < 0:
            raise BadSetting(f"{self.positions} positions (--positions) make no sense; 0 is none.")


@dataclass(frozen=True, kw_only=True)
class InsideWriteSettings(PairSettings):
    """Settings of ``inside write``."""

    command, group = "inside write", LOOK
    summary = "which heads and MLPs write the logits, and what of that RLVR changed"
    example = f"inside write {_PAIR} --split forget=forget.jsonl --limit 24 --first 1 --out run"
    function = "mastlens.analysis.inside.writing:inside_write"
    then = "causal-map --sft {sft} --rlvr {rlvr} --forget forget.jsonl --out {out}"

    against: str | None = setting(
        "the token that the solution's own stands against (default: what SFT finds most probable beside it)",
        None,
        metavar="TOKEN",
    )
    first: int = setting("only the first N tokens of each solution; 0 for all", 0, metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first < 0:
            raise BadSetting(f"The first {self.first} tokens (--first) make no sense; 0 is all of them.")


@dataclass(frozen=True, kw_only=True)
class InsidePatchSettings(PairSettings):
    """Settings of ``inside patch``."""

    command, group = "inside patch", LOOK
    summary = "exchange activations between SFT and RLVR, and see what changes"
    example = f"inside patch {_PAIR} --split forget=forget.jsonl --limit 8 --sites z mlp_out --out run"
    function = "mastlens.analysis.inside.patching:inside_patch"
    then = "causal-map --sft {sft} --rlvr {rlvr} --forget forget.jsonl --out {out}"

    sites: Sequence[str] = setting(
        "activations by their names in HookedModel; those that lie by heads are exchanged head by head",
        ("resid_post", "z", "mlp_out"),
        metavar="NAME",
        shown_default="resid_post z mlp_out",
    )
    layers: Sequence[int] | None = setting(
        "only in these layers; -1 is outside of them", None, metavar="N,N,...", separator=","
    )
    exact: bool = setting(
        "only what gradients say of all activations at once (attribution patching), no exact patching",
        True,
        flag="--first-order",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sites:
            raise BadSetting("There is nothing to exchange: name at least one activation (--sites), e.g. z.")
