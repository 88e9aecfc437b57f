"""Settings of the commands that handle edits."""

from dataclasses import dataclass
from typing import Any

from mastlens.runs.settings import EDIT, CheckpointPath, FilePath, Settings, Writing, path_to, setting
from mastlens.selection.settings import Selecting

PARTS = ("all", "principal", "off-principal")
"""What of the increment is taken back, against the base weight's top-k singular subspaces U_k and V_k: all of D, its
principal part U_k U_k' D V_k V_k', or the rest."""


@dataclass(frozen=True, kw_only=True)
class ShowEditSettings(Settings):
    """Settings of ``edit show``."""

    command, group = "edit show", EDIT
    summary = "what an edit changes"
    example = "edit show run/edit.safetensors"
    function = "mastlens.edits.applying:show_edit"
    then = "edit apply {edit} --to PATH --out NEW"

    edit: FilePath | Any = setting(
        "an edit.safetensors, or OWNER/NAME[@REVISION] of the hub", positional=True, metavar="EDIT"
    )


@dataclass(frozen=True, kw_only=True)
class _Making(ShowEditSettings):
    out: FilePath = setting("folder for the complete checkpoint", metavar="NEW")
    overwrite: bool = setting("replace what is there", False)


@dataclass(frozen=True, kw_only=True)
class ApplyEditSettings(_Making):
    """Settings of ``edit apply``."""

    command, group = "edit apply", EDIT
    summary = "write the checkpoint with the edit in it, and a model card"
    example = "edit apply run/edit.safetensors --to organism:qwen2/rlvr --out edited-model"
    function = "mastlens.edits.applying:apply_edit"
    then = "evaluate --model {out} --split forget=forget-eval.jsonl --out after"

    to: CheckpointPath = setting(path_to("the checkpoint it was made for"), metavar="PATH")


@dataclass(frozen=True, kw_only=True)
class RevertEditSettings(_Making):
    """Settings of ``edit revert``."""

    command, group = "edit revert", EDIT
    summary = "write the checkpoint with the edit taken out"
    example = "edit revert run/edit.safetensors --from edited-model --out restored-model"
    function = "mastlens.edits.applying:revert_edit"
    then = "inspect {out}"

    source: CheckpointPath = setting(path_to("the edited one"), flag="--from", metavar="PATH")


@dataclass(frozen=True, kw_only=True)
class ScaleEditSettings(_Making):
    """Settings of ``edit scale``."""

    command, group = "edit scale", EDIT
    summary = "an edit that goes S times as far"
    example = "edit scale run/edit.safetensors --by 0.5 --out half.safetensors"
    function = "mastlens.edits.applying:scale_edit"
    then = "edit show {out}"

    by: float = setting("before + S * (after - before)", metavar="S")
    out: FilePath = setting("the new edit.safetensors", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class ComposeEditSettings(_Making):
    """Settings of ``edit compose``."""

    command, group = "edit compose", EDIT
    summary = "one edit that does what two do"
    example = "edit compose first.safetensors second.safetensors --out both.safetensors"
    function = "mastlens.edits.applying:compose_edit"
    then = "edit show {out}"

    edit: FilePath | Any = setting("the edit that was made first", positional=True, metavar="EDIT")
    following: FilePath | Any = setting(
        "an edit of what it gives, or of other tensors of its source", positional=True, metavar="NEXT"
    )
    out: FilePath = setting("the new edit.safetensors", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class LoraEditSettings(_Making):
    """Settings of ``edit lora``."""

    command, group = "edit lora", EDIT
    summary = "write the edit as a LoRA adapter, as far as its rank allows"
    example = "edit lora run/edit.safetensors --to organism:qwen2/rlvr --rank 8 --out adapter"
    function = "mastlens.edits.factors:lora_edit"
    then = "evaluate --model {to}+{out} --split forget=forget-eval.jsonl --out after"

    to: CheckpointPath = setting(path_to("the checkpoint it was made for"), metavar="PATH")
    rank: int | None = setting(
        "cut every tensor's change at this rank, whatever the error (default: the smallest rank within --error)", None
    )
    error: float = setting(
        "largest part of a tensor's change that may be left out, as a share of its Frobenius norm", 0.01
    )
    out: FilePath = setting("folder for the adapter, in PEFT's format", metavar="NEW")


@dataclass(frozen=True, kw_only=True)
class SteerEditSettings(Settings):
    """Settings of ``edit steer``."""

    command, group = "edit steer", EDIT
    summary = "write a direction that is added to the states as a bias, where there is room for one"
    example = (
        "edit steer --to MODEL --directions run/inside_directions.safetensors --direction sft/mean/mlp_out/5/-1/0 "
        "--dose=-1 --out steered-model"
    )
    function = "mastlens.edits.steering:steer_edit"
    then = "evaluate --model {out} --split forget=forget-eval.jsonl --out after"

    to: CheckpointPath = setting(path_to("the checkpoint to steer"), metavar="PATH")
    directions: FilePath = setting("inside_directions.safetensors, as inside direct writes it", metavar="FILE")
    direction: str = setting("which of them", metavar="MODEL/PROBE/SITE/LAYER/HEAD/POSITION")
    dose: float = setting("how far, in lengths of the direction; negative is away from the label", metavar="X")
    out: FilePath = setting("folder for the complete checkpoint", metavar="NEW")
    overwrite: bool = setting("replace what is there", False)


@dataclass(frozen=True, kw_only=True)
class PushEditSettings(ShowEditSettings):
    """Settings of ``edit push``."""

    command, group = "edit push", EDIT
    summary = "push an edit and its card to a repository of the hub"
    example = "edit push run/edit.safetensors OWNER/NAME --to organism:qwen2/rlvr"
    function = "mastlens.edits.sharing:push_edit"
    then = "edit show {repository}"

    repository: str = setting("where to", positional=True, metavar="OWNER/NAME")
    to: CheckpointPath = setting(path_to("the checkpoint it was made for"), metavar="PATH")
    private: bool = setting("make a repository that others cannot see", False)


@dataclass(frozen=True, kw_only=True)
class NegateSettings(Writing, Selecting):
    """Settings of ``negate``."""

    command, group = "negate", EDIT
    summary = "take the RLVR increment back, whole or in part, without gradients"
    example = "negate --sft organism:qwen2/sft --rlvr organism:qwen2/rlvr --all-parameters --out negated"
    function = "mastlens.edits.negation:negate"
    then = "evaluate --model {rlvr} --edit {out}/edit.safetensors --split forget=forget-eval.jsonl --out after"

    sft: CheckpointPath = setting(path_to("what RLVR started from"), metavar="PATH")
    rlvr: CheckpointPath = setting(path_to("the checkpoint to edit"), metavar="PATH")
    base: CheckpointPath | None = setting(
        path_to("whose subspaces count as principal; needed for a part"), None, metavar="PATH"
    )
    everything: bool = setting("edit every tensor, norms and biases too", False, exclusive="selection")
    scale: float = setting("how much of it to take back", 1.0, metavar="S")
    part: str = setting(
        "all of the increment, its principal part, or off-principal, the rest",
        "all",
        choices=PARTS,
        kind="part of the increment",
        metavar="PART",
    )
    rank: int = setting("k of the principal subspaces", 16, metavar="K")
