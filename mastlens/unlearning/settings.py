"""Settings of the commands that unlearn; the coefficients are those that the objectives declare."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from mastlens.errors import BadSetting, unknown
from mastlens.problems.settings import AUTO, DTYPES, ForgetRetain, Reading
from mastlens.runs.settings import EDIT, CheckpointPath, FilePath, number, path_to, setting
from mastlens.runs.tracking import TRACKERS
from mastlens.selection.settings import Selecting
from mastlens.unlearning.anchor import GROUP as HELD
from mastlens.unlearning.anchor import Anchor
from mastlens.unlearning.objectives import OBJECTIVES, coefficient_names
from mastlens.unlearning.objectives.describing import objective_lines
from mastlens.unlearning.objectives.objective import OutputObjective
from mastlens.unlearning.objectives.steering import TRIGGER
from mastlens.unlearning.robustness import GROUP as STAYING
from mastlens.unlearning.robustness import Robustness
from mastlens.unlearning.token_weights import TokenWeights

C = TypeVar("C", bound=type)

CACHE_MB = 2000.0
SCHEDULES = ("constant", "linear", "cosine")
OPTIMIZERS = ("adamw", "adamw-8bit", "paged-adamw", "paged-adamw-8bit")
SWITCH = ("auto", "on", "off")
CHOICES = ("last", "pareto")
PLACES = ("before", "after")

_PROBING = "looking while it runs"
_WEIGHTS = "token weights (ATWU)"
_STEERING = "steering activations"
_BEFORE = "the model before RLVR"
STARTS = ("source", "sft", "noise")


@dataclass(frozen=True)
class ProbeSettings:
    """What to look at while a run goes on, and when to stop.

    Attributes:
        forget: File of calibration problems to forget.
        retain: File of calibration problems to keep.
        every: Steps between two looks.
        items: Problems of each side, the first ones of the file.
        max_kl: Stop when KL(source || edited) on the retain problems is above this, in nats a token.
        max_repetition: Stop when more than this share of 4-grams in responses repeats an earlier one.
        choose: ``last``: the last step inside the guards; ``pareto``: of the steps that no other beats in both
            forgetting and retain KL, the one that stands out most from the line between the extremes (``knee``).
        new_tokens: Length of the responses in which repetition is looked for.
    """

    forget: FilePath = setting("calibration problems to forget", metavar="FILE")
    retain: FilePath = setting("calibration problems to keep", metavar="FILE")
    every: int = setting("steps between two looks", 10)
    items: int = setting("problems of each", 32)
    max_kl: float = setting("stop above this KL(source || edited) on retain", 1.0, unit="nats a token")
    max_repetition: float = setting("stop above this share of repeated 4-grams in responses", 0.5)
    choose: str = setting("the last step, or pareto: the knee of the front", "last", choices=CHOICES, metavar="HOW")
    new_tokens: int = setting("length of those responses", 48, unit="tokens")

    def __post_init__(self):
        if self.choose not in CHOICES:
            raise unknown("choice of step", self.choose, CHOICES)
        if self.every < 1 or self.items < 1 or self.new_tokens < 1:
            raise BadSetting("Probes look every so many steps at so many items: each at least 1.")
        if not (self.max_kl > 0 and self.max_repetition > 0):
            raise BadSetting("The guards (max_kl, max_repetition) must be above 0; use inf for no guard.")

    @property
    def files(self) -> dict[str, FilePath]:
        """Role to file."""
        return {"probe_forget": self.forget, "probe_retain": self.retain}

    def settings(self) -> dict[str, Any]:
        """Return what decides the result, without the files, whose contents are hashed."""
        return {key: value for key, value in asdict(self).items() if key not in ("forget", "retain")}


FIRST, BEST = TAKEN = ("first", "best")
"""Which checkpoint of a run is taken of those that forgot enough: the first, or the one that kept the most."""


@dataclass(frozen=True)
class OwnResponses:
    """How the responses are drawn that models give themselves: the whole distribution, nothing cut from it.

    Attributes:
        samples: Responses a problem.
        temperature: What logits are divided by.
        max_new_tokens: Where a response is cut off.
    """

    samples: int = setting("responses a problem", 1)
    temperature: float = setting("of sampling", 1.0)
    max_new_tokens: int = setting("where a response is cut off", 1024, unit="tokens")

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_new_tokens < 1:
            raise BadSetting("A problem has at least one response of its own, of at least one token.")
        if not self.temperature > 0:
            raise BadSetting(f"The temperature of a model's own responses is above 0, it is {self.temperature:g}.")


def preset_lines() -> list[str]:
    """Return every preset with the objectives that it says something of."""
    presets: dict[str, list[str]] = {}
    for name, kind in OBJECTIVES.items():
        for preset in kind.presets:
            presets.setdefault(preset, []).append(name)
    return [f"{preset}: {', '.join(names)}" for preset, names in presets.items()]


def _wrapped(lines: list[str]) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, 88, subsequent_indent="    ")]


def with_coefficients(settings: C) -> C:
    """Add a setting for each coefficient that some objective has and that the class does not declare itself."""
    for key, names in coefficient_names(OBJECTIVES.shipped).items():
        if key in settings.__annotations__:
            continue
        known = [OBJECTIVES.shipped[name].coefficients()[key] for name in names]
        meanings: dict[str, list[str]] = {}
        for name, one in zip(names, known, strict=True):
            meanings.setdefault(one.said.help, []).append(name)
        several = len(meanings) > 1
        text = "; ".join(f"{said} ({', '.join(having)})" if several else said for said, having in meanings.items())
        defaults, units = {one.shown for one in known}, {one.said.unit for one in known}
        steers = not any(issubclass(OBJECTIVES.shipped[name], OutputObjective) for name in names)
        settings.__annotations__[key] = known[0].type | None
        said = setting(
            text,
            None,
            unit=units.pop() if len(units) == 1 else "",
            choices=known[0].said.choices,
            kind=known[0].said.kind,
            shown_default=defaults.pop() if len(defaults) == 1 else "",
            group=_STEERING if steers else "",
        )
        setattr(settings, key, said)
    return settings


@dataclass(frozen=True, kw_only=True)
@with_coefficients
class UnlearnSettings(ForgetRetain, Selecting):
    """Settings of ``unlearn``; ``beta``, ``layer`` and the like are those that the objectives declare."""

    command, group = "unlearn", EDIT
    summary = "unlearn the forget problems by editing selected tensors"
    example = (
        "unlearn --rlvr organism:qwen2/rlvr --ranking run/ranking.parquet --forget forget.jsonl --retain retain.jsonl "
        "--objective npo --preset mast --steps 50 --lr 5e-6 --out run"
    )
    function = "mastlens.unlearning.editing:unlearn"
    over_ranks = True
    then = "evaluate --model {rlvr} --edit {out}/edit.safetensors --split forget=forget-eval.jsonl --out after"

    rlvr: CheckpointPath = setting(path_to("the checkpoint to edit"), metavar="PATH")
    forget: FilePath = setting(
        "problems to forget, JSON lines; objectives that steer activations take texts, too", metavar="FILE"
    )
    objective: str = setting(
        "what is minimised; path/to/file.py:Name for one of your own",
        metavar="NAME",
        listing=lambda given: _wrapped(objective_lines(given.get("objective"))),
    )
    steps: int = setting("number of steps")
    lr: float = setting("learning rate; constant unless there is a schedule or warm-up")
    batch_size: int = setting("problems a step and side", 8)
    preset: str | None = setting("take the coefficients of a source", None, metavar="NAME", listing=preset_lines)
    coefficients: Mapping[str, float] | None = setting(
        "coefficients of an objective of your own", None, flag="--coefficient", metavar="NAME=NUMBER"
    )
    refusals: FilePath | None = setting("refusals for dpo, one a line (default: ours)", None, metavar="FILE")
    allow_overlap: bool = setting("let problems stand on both sides", False)
    dtype: str = setting(
        "of the model in memory; what is learnt is float32 in each. auto: bfloat16 where the device is fast at it and "
        "the checkpoint has 16 bits, else float32",
        AUTO,
        choices=DTYPES,
        metavar="DTYPE",
        deprecated=("precision",),
    )
    schedule: str = setting(
        "of the learning rate: constant, or to 0 by a line or a cosine", "constant", choices=SCHEDULES, metavar="NAME"
    )
    warmup: int = setting("steps in which the learning rate rises to --lr", 0, unit="steps")
    optimizer: str = setting(
        "AdamW, its state in float32, in 8 bits (bitsandbytes or torchao), or in pages that leave the GPU "
        "(bitsandbytes): another rounding of the same method",
        "adamw",
        choices=OPTIMIZERS,
        kind="optimizer",
        metavar="NAME",
    )
    orthogonal_to_retain: int = setting(
        "take of each forget gradient what is orthogonal to the latest N retain gradients (geometric disentanglement)",
        0,
        metavar="N",
    )
    micro_batch: int | str = setting(
        "problems of a step that go through the model at a time, or auto, by their length; the step stays the same",
        "auto",
        metavar="N",
        parse=number,
    )
    checkpoint_activations: str = setting(
        "compute the inside of layers again on the way back, for less memory; auto: where one text alone needs it",
        "auto",
        choices=SWITCH,
        metavar="WHEN",
    )
    track: str | None = setting(
        "send each step's numbers to a tracker, which decides nothing", None, choices=TRACKERS, metavar="NAME"
    )
    cache_mb: float = setting("memory for what the layers below the selection give", CACHE_MB, unit="MB", metavar="MB")
    traces: FilePath | None = setting(
        "traces.parquet of the forget file (mastlens traces), for r2mu", None, group=_STEERING, metavar="FILE"
    )
    cot: FilePath | None = setting(
        "chains of thought to keep, JSON lines, for r2mu", None, group=_STEERING, metavar="FILE"
    )
    sft: CheckpointPath | None = setting(
        path_to("the model before RLVR, whose behaviour is wanted back (rewind, --start sft)"),
        None,
        group=_BEFORE,
        metavar="PATH",
    )
    start: str = setting(
        "values that the selected tensors begin at: the source's, the SFT model's (put back, then restore what that "
        "cost), or the source's with noise",
        "source",
        choices=STARTS,
        kind="start",
        group=_BEFORE,
    )
    noise: float = setting(
        "share of the way to noise of a tensor's own scale, for --start noise", 0.5, flag="--start-noise", group=_BEFORE
    )
    own_responses: OwnResponses | None = setting(
        "how models' own responses are drawn, for rewind",
        None,
        group=_BEFORE,
        options={"samples": "--own-samples", "temperature": "--own-temperature", "max_new_tokens": "--own-tokens"},
    )
    responses: FilePath | None = setting(
        "rewind.parquet of an earlier run: its responses, instead of drawing them anew",
        None,
        group=_BEFORE,
        metavar="FILE",
    )
    robust: Robustness | None = setting(
        "harden the forget term against what would bring the forgotten back, in one way",
        None,
        group=STAYING,
        options={
            "sharpness": "--sharpness",
            "smoothing": "--smoothing",
            "draws": "--smoothing-draws",
            "latent_noise": "--latent-noise",
            "latent_layer": "--latent-layer",
            "latent_steps": "--latent-steps",
        },
    )
    anchor: Anchor | None = setting(
        "hold what the forget side shares with the rest to the source, the harder the further it has drifted",
        None,
        group=HELD,
        options={"strength": "--anchor", "block": "--anchor-block", "keep": "--anchor-keep"},
    )
    token_weights: TokenWeights | bool | None = setting(
        TokenWeights.summary,
        None,
        group=_WEIGHTS,
        switch=True,
        options={
            "budget": "--budget",
            "lr": "--scorer-lr",
            "every": "--scorer-every",
            "budget_weight": "--scorer-budget-weight",
            "entropy_weight": "--scorer-entropy-weight",
            "decay": "--scorer-decay",
            "preset": "--token-preset",
        },
    )
    probes: ProbeSettings | None = setting(
        "look at calibration problems while it runs, stop in time, choose the step",
        None,
        group=_PROBING,
        options={
            "forget": "--probe-forget",
            "retain": "--probe-retain",
            "every": "--probe-every",
            "items": "--probe-items",
            "max_kl": "--max-kl",
            "max_repetition": "--max-repetition",
            "choose": "--choose",
            "new_tokens": "--probe-tokens",
        },
    )

    @property
    def given_coefficients(self) -> dict[str, Any]:
        """Name to value of the coefficients that were given."""
        named = {key: getattr(self, key) for key in coefficient_names(OBJECTIVES.shipped)}
        named["token_weights"] = TokenWeights() if self.token_weights is True else self.token_weights or None
        return named | dict(self.coefficients or {})


@dataclass(frozen=True)
class Tracing:
    """How the model is asked to reason about a text.

    Attributes:
        segments: Windows of a text (N).
        segment_tokens: Length of a window.
        trigger: What makes it reason.
        trigger_place: ``before`` or ``after`` the segment.
        max_new_tokens: Where a trace is cut off.
    """

    segments: int = 3
    segment_tokens: int = 512
    trigger: str = TRIGGER
    trigger_place: str = "before"
    max_new_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.trigger_place not in PLACES:
            raise unknown("place of the trigger", self.trigger_place, PLACES)
        if self.segments < 1 or self.segment_tokens < 1:
            raise BadSetting(
                f"Segments and their tokens are at least 1; they are {self.segments} and {self.segment_tokens}."
            )


TRACING: dict[str, Tracing] = {"paper": Tracing(), "release": Tracing(segments=1, trigger_place="after")}
"""Preset to settings: the paper's text, and the released code, which asks about the first 512 tokens alone."""


@dataclass(frozen=True, kw_only=True)
class TracesSettings(Reading):
    """Settings of ``traces``."""

    command, group = "traces", EDIT
    summary = "let a model reason about the forget texts, for unlearn --objective r2mu"
    example = "traces --model organism:think/think --forget forget.jsonl --max-new-tokens 64 --out traces"
    function = "mastlens.unlearning.traces:traces"
    then = (
        "unlearn --rlvr {model} --ranking run/ranking.parquet --forget {forget} --retain retain.jsonl "
        "--objective r2mu --traces {out}/traces.parquet --steps 50 --lr 5e-6 --out run"
    )

    model: CheckpointPath = setting(path_to("the checkpoint that will be edited"), metavar="PATH")
    forget: FilePath = setting(
        "texts or problems to forget, JSON lines; a problem is asked as it stands, in one piece", metavar="FILE"
    )
    preset: str = setting(
        "paper (three windows of a text, the trigger before each) or release (its first window, the trigger behind): "
        "what is not given below",
        "paper",
        choices=tuple(TRACING),
        kind="preset of traces",
        metavar="NAME",
    )
    segments: int | None = setting("windows of a text; they begin an N-th of it apart (paper 3, release 1)", None)
    segment_tokens: int | None = setting("length of a window (512)", None, unit="tokens")
    trigger: str | None = setting("what makes the model reason", None)
    trigger_place: str | None = setting(
        "before (paper) or after (release) the window",
        None,
        choices=PLACES,
        kind="place of the trigger",
        metavar="WHERE",
    )
    max_new_tokens: int | None = setting("where a response is cut off (1024)", None, unit="tokens")

    @property
    def tracing(self) -> Tracing:
        """How the model is asked: the preset, and what is given."""
        given = {key: getattr(self, key) for key in Tracing.__dataclass_fields__}
        return Tracing(**{**asdict(TRACING[self.preset]), **{k: v for k, v in given.items() if v is not None}})
