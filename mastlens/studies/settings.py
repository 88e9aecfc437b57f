"""The study file: what is compared with what, read from TOML and checked before anything runs."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mastlens.decoding.graders import find_grader, recorded
from mastlens.errors import BadSetting, unknown
from mastlens.runs.reading import is_folder, read_toml
from mastlens.studies.reading import from_table
from mastlens.unlearning.matching import Grid
from mastlens.unlearning.settings import FIRST, TAKEN, OwnResponses

FORGET = "forget"
"""The split that is unlearned; every other one is kept."""

RETAIN = "retain"
"""The training problems to keep, and every retain split together in tables."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_ORGANISM = "organism:"
_REGIONS = ("train", "calibration", "eval")
_KEPT = ("all", "chosen", "none")
_CROSSINGS = ("crossed", "cycled")
SOURCE, SFT = STARTS = ("source", "sft")
"""Where a run begins: at the edited checkpoint's own values, or at those of before RLVR in what is selected."""


@dataclass(frozen=True)
class LineageSettings:
    """Checkpoints: folders (relative to the study file), hub ids, or ``organism:NAME/STAGE``.

    Attributes:
        rlvr: The one that is edited.
        sft: The one that RLVR started from.
        base: The one whose subspaces count as principal.
        reference: The model that never learnt it: what unlearning aims at.
    """

    rlvr: str
    sft: str
    base: str
    reference: str | None = None


@dataclass(frozen=True)
class DecodingSettings:
    """How responses are generated.

    Attributes:
        max_new_tokens: Where a response ends.
        batch_size: Items a batch.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        grader: What is right, by its name: ``NAME`` or ``NAME:ARGUMENT``. A study runs no code, so no path to a file.
    """

    max_new_tokens: int = 1024
    batch_size: int = 32
    chat_template: bool = True
    grader: str = "mathematics"

    def __post_init__(self):
        find_grader(self.grader, code=False)

    @property
    def summary(self) -> dict[str, Any]:
        """Everything, as JSON can hold it; the default grader left out, as in records from before there were others."""
        told = asdict(self)
        del told["grader"]
        return told | recorded(find_grader(self.grader, code=False))


@dataclass(frozen=True)
class TargetSettings:
    """When an arm has forgotten enough, judged on the calibration files.

    Attributes:
        forget_accuracy: To reach; None for the reference's.
        forget_items: Look at so many forget problems at most; None for all.
        retain_items: At so many of each retain split; None for all.
    """

    forget_accuracy: float | None = None
    forget_items: int | None = None
    retain_items: int | None = None


@dataclass(frozen=True)
class SelectionSettings:
    """What an arm edits, in exactly one way.

    Attributes:
        rule: A ranking rule or a control.
        among: A regular expression over the names that a rule chooses from; None for all that were measured.
        planted: What moved in a planted lineage: the truth.
        where: A regular expression over the names of weight matrices.
        names: The matrices themselves.
        all_parameters: Every weight matrix.
        top: How many a rule selects; None for the study's.
        match: The rule whose selection a matched control is matched to.
        parameters: Parameters of the rule.
    """

    rule: str | None = None
    where: str | None = None
    names: tuple[str, ...] | None = None
    all_parameters: bool = False
    planted: bool = False
    among: str | None = None
    top: int | None = None
    match: str = "mast"
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        named = [self.rule is not None, self.where is not None, self.names is not None]
        if sum([*named, self.all_parameters, self.planted]) != 1:
            raise BadSetting("say what to edit in exactly one way: rule, where, names, all_parameters or planted.")
        if self.among is not None and self.rule is None:
            raise BadSetting("among is what a rule chooses from: it goes with rule alone.")
        for pattern in (self.among, self.where):
            check_pattern(pattern)


@dataclass(frozen=True)
class ComparisonSettings:
    """Arms at matched forgetting: every objective with every selection and seed.

    Attributes:
        objectives: Names of objectives, or of tables under ``[objectives]``.
        selections: Names of rules and controls, or of tables under ``[selections]``; ``all-parameters``.
        retain_weight: Weight of the retain term; None for none, unless the objective needs one.
        seeds: Of the batches; None for the study's.
        draws: Of each random selection; None for the study's.
        draw_seeds: ``crossed``: every draw with every seed; ``cycled``: each draw with one of them, in turn.
        grid: Instead of the study's.
        start: Where runs begin: at the ``source``, or at the values of ``sft`` in what is selected (put back, then
            restore).
        take: ``first`` of a run's checkpoints that forgot enough, or the ``best``: the one that kept the most.
        suffix: Put behind the objective's name: tells two comparisons apart that differ in grid or weight alone.
    """

    objectives: tuple[str, ...]
    selections: tuple[str, ...]
    retain_weight: float | None = None
    seeds: tuple[int, ...] | None = None
    draws: int | None = None
    draw_seeds: str = "crossed"
    grid: Grid | None = None
    start: str = SOURCE
    take: str = FIRST
    suffix: str = ""

    def __post_init__(self):
        if not self.objectives or not self.selections:
            raise BadSetting("a comparison needs at least one objective and one selection.")
        if self.draw_seeds not in _CROSSINGS:
            raise unknown("draw_seeds", self.draw_seeds, _CROSSINGS)
        if self.start not in STARTS:
            raise unknown("start", self.start, STARTS)
        if self.take not in TAKEN:
            raise unknown("take", self.take, TAKEN)
        if not _LABEL.fullmatch(f"x{self.suffix}"):
            raise BadSetting(f"the suffix {self.suffix!r} ends a folder's name: letters, digits and _ . + - only.")


@dataclass(frozen=True)
class NegationSettings:
    """Edits without a gradient: RLVR - scale * (RLVR - SFT) on some tensors.

    Attributes:
        selections: As in a comparison.
        parts: ``all`` of the increment, its ``principal`` or its ``off-principal`` part.
        scales: How much of it to take back.
        draws: Of each random selection; None for the study's.
    """

    selections: tuple[str, ...]
    parts: tuple[str, ...] = ("all",)
    scales: tuple[float, ...] = (1.0,)
    draws: int | None = None


@dataclass(frozen=True)
class StudySettings:
    """A whole study.

    Attributes:
        lineage: The checkpoints.
        train: ``forget`` and ``retain`` to file: what gradients may see.
        calibration: Split to file: what settings are chosen on.
        eval: Split to file: opened once for each arm, to report.
        name: In titles.
        neutral: File of neutral texts; None for no perplexity.
        refusals: File of refusals, one a line, for objectives that prefer one; None for the package's.
        decoding: How responses are generated.
        grid: Learning rates and saved steps.
        target: When an arm has forgotten enough.
        seeds: Of the batches.
        draws: Random selections.
        top: How many tensors a rule selects.
        rank: k of the principal subspaces.
        candidates: A regular expression over the names of the weight matrices that rules measure; None for attention's
            projections, ``.`` for all, embeddings included.
        own_responses: How models' own responses are drawn, for objectives that learn from them; None for one a problem
            at temperature 1, as long as the evaluation's.
        keep_edits: Whose edit files stay: ``all``, ``chosen`` (not those of random draws), ``none``.
        objectives: Label to an objective's name and coefficients, as ``make_objective`` takes them.
        selections: Label to a selection.
        compare: Comparisons at matched forgetting.
        negate: Edits without a gradient.
    """

    lineage: LineageSettings
    train: Mapping[str, str]
    calibration: Mapping[str, str]
    eval: Mapping[str, str]
    name: str = ""
    neutral: str | None = None
    refusals: str | None = None
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    grid: Grid = field(default_factory=lambda: Grid(learning_rates=(3e-6, 1e-5, 3e-5), steps=50, every=5))
    target: TargetSettings = field(default_factory=TargetSettings)
    seeds: tuple[int, ...] = (0, 1, 2)
    draws: int = 20
    top: int = 96
    rank: int = 16
    candidates: str | None = None
    own_responses: OwnResponses | None = None
    keep_edits: str = "chosen"
    objectives: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    selections: Mapping[str, SelectionSettings] = field(default_factory=dict)
    compare: tuple[ComparisonSettings, ...] = ()
    negate: tuple[NegationSettings, ...] = ()

    def __post_init__(self):
        if set(self.train) != {FORGET, RETAIN}:
            raise BadSetting(
                f"[train] names one file for 'forget' and one for 'retain'; it has {', '.join(self.train) or 'none'}."
            )
        for kind, splits in {"calibration": self.calibration, "eval": self.eval}.items():
            if RETAIN in splits:
                raise BadSetting(f"[{kind}] calls a split 'retain', which stands for all of them. Rename it.")
            if FORGET not in splits or len(splits) < 2:
                raise BadSetting(
                    f"[{kind}] names a file for 'forget' and for at least one retain split; it has "
                    f"{', '.join(splits) or 'none'}."
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise BadSetting(f"seeds are different numbers, at least one; they are {list(self.seeds)}.")
        if self.keep_edits not in _KEPT:
            raise unknown("keep_edits", self.keep_edits, _KEPT)
        if self.draws < 1:
            raise BadSetting(f"draws is at least 1; it is {self.draws}.")
        check_pattern(self.candidates)
        if not self.compare and not self.negate:
            raise BadSetting("there is nothing to do: write at least one [[compare]] or [[negate]].")
        for label in (*self.objectives, *self.selections):
            if not _LABEL.fullmatch(label):
                raise BadSetting(f"{label!r} names a folder: letters, digits and _ . + - only.")

    @property
    def drawn(self) -> OwnResponses:
        """How models' own responses are drawn."""
        return self.own_responses or OwnResponses(max_new_tokens=self.decoding.max_new_tokens)

    @property
    def summary(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self) | {"decoding": self.decoding.summary}


def check_pattern(pattern: str | None) -> None:
    """Raise unless it is a regular expression, or None.

    Raises:
        MastlensError: With what is wrong.
    """
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise BadSetting(f"{pattern!r} is no regular expression: {error}.") from error


def study_file(study: str | os.PathLike[str]) -> Path:
    """Return the file of a study: a path, or ``organism:NAME`` for the one that belongs to a lineage.

    Raises:
        MastlensError: If there is none.
    """
    text = os.fspath(study)
    if text.startswith(_ORGANISM):
        from mastlens.organisms import ORGANISMS, study_names

        name, named = text.removeprefix(_ORGANISM), study_names()
        if name in named:
            return named[name]
        if name in ORGANISMS:
            own = ORGANISMS[name].command
            raise BadSetting(
                f"organism:{name} has no study file. "
                + (f"Its study is made by: {own}. " if own else "")
                + f"With a study file: {', '.join(_ORGANISM + other for other in named)}."
            )
        raise unknown("shipped study", name, named)
    path = Path(study)
    if not path.is_file():
        raise BadSetting(f"There is no study file {path}. Start from a shipped one: {_ORGANISM}qwen2.")
    return path


def read_study(study: str | os.PathLike[str], organism: str | None = None) -> StudySettings:
    """Read a study file and check it. Paths in it are relative to its folder.

    Args:
        study: A TOML file, or ``organism:NAME`` for the study of a lineage.
        organism: Another lineage, in place of the one that the file names.

    Raises:
        MastlensError: If it is missing, no TOML, or says something that makes no sense, with the place.
    """
    path = study_file(study)
    if organism is None and os.fspath(study).startswith(_ORGANISM):
        from mastlens.organisms import ORGANISMS

        named = os.fspath(study).removeprefix(_ORGANISM)
        organism = named if named in ORGANISMS else None  # lineages of one kind share a file
    return parse_study(read_toml(path), where=path.name, folder=path.parent, organism=organism)


def parse_study(
    table: Mapping[str, Any], *, where: str = "the study", folder: Path | None = None, organism: str | None = None
) -> StudySettings:
    """Return the settings that a parsed study file describes.

    Args:
        table: As ``tomllib`` returns it. ``organism = "NAME"`` stands for its lineage, files and decoding limit.
        where: What to call it in a message.
        folder: What relative paths are relative to.
        organism: Another lineage, in place of the one that it names.

    Raises:
        MastlensError: As ``read_study``.
    """
    folder = folder or Path()
    table = dict(table)
    name = table.pop("organism", None)
    if organism is not None:
        if name is None:
            raise BadSetting(f"{where} names its own checkpoints and files and no organism: leave --organism out.")
        name = table["name"] = organism
    if name is not None:
        table = _of_organism(str(name)) | table
    missing = [key for key in ("lineage", "train", "calibration", "eval") if key not in table]
    if missing:
        raise BadSetting(
            f"{where}: [{missing[0]}] is missing. Say organism = NAME for a shipped lineage and its files, or name the "
            "checkpoints in [lineage] and the files in [train], [calibration] and [eval]."
        )
    settings = from_table(StudySettings, table, where)

    def checkpoint(spec: str | None) -> Any:
        return str(folder / spec) if spec and is_folder(folder / spec) else spec

    def file(path: str | None) -> Any:
        return None if path is None else str(folder / path)

    lineage = LineageSettings(**{role: checkpoint(spec) for role, spec in asdict(settings.lineage).items()})
    files = {
        kind: {split: file(path) for split, path in getattr(settings, kind).items()}
        for kind in ("train", "calibration", "eval")
    }
    return replace(settings, lineage=lineage, neutral=file(settings.neutral), refusals=file(settings.refusals), **files)


def _of_organism(name: str) -> dict[str, Any]:
    """Return what ``organism = NAME`` stands for.

    Raises:
        MastlensError: If there is no such lineage, or it lacks a stage that a study compares.
    """
    from mastlens.organisms import ORGANISMS, lineage_folder

    organism = ORGANISMS.named(name)
    if not {"base", "sft", "rlvr"} <= set(organism.roles):
        others = [one.name for one in ORGANISMS.values() if {"base", "sft", "rlvr"} <= set(one.roles) and one.present]
        raise BadSetting(f"organism:{name} lacks a base, SFT or RLVR stage. Take organism = {' or '.join(others)}.")
    lineage_folder(name)
    region = {region: {split: str(file) for split, file in organism.files(region).items()} for region in _REGIONS}
    neutral = region["eval"].pop("neutral", None)
    decoding = {"decoding": dict(organism.decoding)} if organism.decoding else {}
    return {"lineage": organism.specs(), **region, **({"neutral": neutral} if neutral else {}), **decoding}
