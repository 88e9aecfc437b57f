"""Settings of the commands that run whole studies."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from mastlens.evaluation.settings import JudgeChoice
from mastlens.runs.settings import REPORT, CheckpointPath, FilePath, Writing, declared, executing, path_to, setting

_ALIKE = "of all methods alike"
PROTOCOL = "protocol:"
_OF_PROTOCOL = "of a protocol alone"


def study_lines() -> list[str]:
    """Return the studies that belong to lineages, for the help."""
    from mastlens.organisms import study_names
    from mastlens.studies.published import protocol_names

    return [f"organism:{name}" for name in study_names()] + [f"{PROTOCOL}{name}" for name in protocol_names()]


def method_lines() -> list[str]:
    """Return the rows of R2MU's table, for the help."""
    from mastlens.studies.reasoning_methods import METHODS

    return [f"{name}: {method.label}" for name, method in METHODS.items()]


@dataclass(frozen=True, kw_only=True)
class RunSettings(Writing):
    """Settings of ``run``."""

    command, group = "run", REPORT
    summary = "a whole study from one file; run again, it continues where it stopped"
    example = "run organism:qwen2 --out study --workers 2"
    function = "mastlens.studies.runner:run_study"
    then = "report {out}"

    study: FilePath | Any = setting(
        "a TOML file, organism:NAME for the study of a lineage, or protocol:NAME for a published one on your model",
        positional=True,
        metavar="STUDY",
        listing=study_lines,
    )
    out: FilePath | None = setting("the run's output folder (the file's name)", None, metavar="DIR", placed=True)
    organism: str | None = setting(
        "another lineage, in place of the one that the study's file names", None, metavar="NAME"
    )
    workers: int | None = setting(
        "processes that make arms, with one thread each (default: 1; of a cluster, all that it has)", None, metavar="N"
    )
    executor: str = executing("arms are made")
    model: CheckpointPath | None = setting(
        path_to("the model that is unlearned"), None, metavar="PATH", group=_OF_PROTOCOL
    )
    source: FilePath | None = setting(
        "the benchmark: a folder laid out as its dataset on the hub, or that dataset (OWNER/NAME[@REVISION])",
        None,
        metavar="SOURCE",
        group=_OF_PROTOCOL,
    )
    sft: CheckpointPath | None = setting(
        path_to("the model before RLVR, for mast"), None, metavar="PATH", group=_OF_PROTOCOL
    )
    base: CheckpointPath | None = setting(
        path_to("the model before SFT, for mast"), None, metavar="PATH", group=_OF_PROTOCOL
    )
    reference: CheckpointPath | None = setting(
        path_to("a model that never saw what is forgotten"), None, metavar="PATH", group=_OF_PROTOCOL
    )
    limit: int | None = setting("only the first rows of each table", None, group=_OF_PROTOCOL)
    steps: int | None = setting("steps of unlearning (the protocol's)", None, group=_OF_PROTOCOL)
    batch_size: int | None = setting(
        "problems a step of unlearning and side (the protocol's)", None, group=_OF_PROTOCOL
    )
    max_new_tokens: int | None = setting(
        "where a response is cut off (the protocol's)", None, unit="tokens", group=_OF_PROTOCOL
    )
    where: str | None = setting(
        "which matrices are edited, a regular expression (the protocol's)", None, metavar="REGEX", group=_OF_PROTOCOL
    )
    layer: int | None = setting("the layer that is steered, for r2mu (the protocol's)", None, group=_OF_PROTOCOL)
    judged_by: JudgeChoice | None = setting(
        "what judges traces, for r2mu (the rule judge, where the source has facts.json)",
        None,
        flag="--judge",
        group=_OF_PROTOCOL,
        options={**JudgeChoice.OPTIONS, "facts": "--facts"},
    )

    @classmethod
    def protocol_only(cls) -> tuple[str, ...]:
        """Return the settings that a study's own file has no use for."""
        return tuple(one.name for one in fields(cls) if declared(one).group == _OF_PROTOCOL)


@dataclass(frozen=True, kw_only=True)
class ReasoningTableSettings(Writing):
    """Settings of ``reasoning-table``."""

    command, group = "reasoning-table", REPORT
    summary = "R2MU's table: every method and seed, judged"
    example = "reasoning-table --organism --out table"
    function = "mastlens.studies.reasoning:reasoning_table"
    then = "report {out}"

    study: Any = setting("a ReasoningStudy: models, files, settings", None, python_only=True, placed=True)
    organism: bool = setting("organism:think, its files and its settings", False)
    model: str | None = setting(path_to("the reasoning model"), None, metavar="PATH")
    reference: str | None = setting(path_to("a model that never learnt it"), None, metavar="PATH")
    forget: str | None = setting("texts to forget", None, metavar="FILE")
    retain: str | None = setting("texts to keep", None, metavar="FILE")
    cot: str | None = setting("problems with chains of thought to keep", None, metavar="FILE")
    questions: str | None = setting("multiple choice about what is to be forgotten", None, metavar="FILE")
    utility: str | None = setting("multiple choice about what is kept", None, metavar="FILE")
    maths: str | None = setting("problems whose solving is kept", None, metavar="FILE")
    facts: str | None = setting("facts.json of the rule judge", None, metavar="FILE")
    where: str | None = setting(f"which matrices are edited, a regular expression, {_ALIKE}", None, metavar="REGEX")
    layer: int | None = setting(f"the layer that is steered, {_ALIKE}", None)
    steps: int | None = setting(f"steps, {_ALIKE}", None)
    lr: float | None = setting(f"learning rate, {_ALIKE}", None)
    steering: float | None = setting(
        f"length of the control vector, {_ALIKE}", None, unit="median norms of the layer's activations"
    )
    retain_weight: float | None = setting(f"weight of the retain term, {_ALIKE}", None)
    methods: Sequence[str] | None = setting("rows (all)", None, metavar="NAME", listing=method_lines)
    seeds: int | Sequence[int] = setting("seeds a method, from --seed on; in Python also the seeds themselves", 3)
    judge: Any = setting("a Judge of the traces; the rule judge of the facts by default", None, python_only=True)
