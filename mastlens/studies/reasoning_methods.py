"""What R2MU's table compares (arXiv:2506.12963): its rows, and the models and files of a study of them."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from mastlens.errors import BadSetting
from mastlens.studies.commands import ReasoningTableSettings
from mastlens.unlearning import TokenWeights
from mastlens.unlearning.objectives import Needs


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        label: What it is called.
        objective: What is trained; empty for a model as it is.
        think: The think mode in which it answers: ZeroThink is RMU's edit asked with ``empty``.
        settings: Further arguments of ``unlearn``.
        stage: ``source`` or ``reference``, where nothing is trained.
        penalty: Taken off the logits of reflection tokens when it answers (CyclicReflex takes 3).
    """

    label: str
    objective: str = ""
    think: str = "free"
    settings: Mapping[str, Any] = field(default_factory=dict)
    stage: str = "source"
    penalty: float = 0.0


METHODS: dict[str, Method] = {
    "original": Method("original"),
    "reference": Method("never learnt it", stage="reference"),
    "rmu": Method("RMU", "rmu"),
    "rmu-zt": Method("RMU + ZeroThink", "rmu", think="empty"),
    "rmu-penalty": Method("RMU + penalty in decoding", "rmu", penalty=3.0),
    "rmu-rtp": Method("RMU + reflection penalty", "rmu-rtp", settings={"reflection_weight": 1.0}),
    "r2mu-v0": Method("R2MU-v0", "r2mu-v0"),
    "r2mu": Method("R2MU", "r2mu"),
    "r2mu-atwu": Method("R2MU, weighted trace tokens", "r2mu", settings={"token_weights": TokenWeights()}),
}
"""Name to row; the last is not in the paper."""


@dataclass(frozen=True)
class ReasoningStudy:
    """Where the models and files of a study lie, and the settings that all methods share.

    Attributes:
        model: The reasoning model that knows what is to be forgotten.
        forget: Texts to forget.
        retain: Texts whose activations stay.
        cot: Problems with chains of thought to keep.
        questions: Multiple choice about what is to be forgotten.
        utility: Multiple choice about what is kept.
        maths: Problems whose solving is kept.
        facts: What the rule judge knows; None with another judge.
        reference: A model that never learnt it.
        where: Which matrices are edited.
        layer: The layer that is steered.
        steps: Steps.
        lr: Learning rate.
        batch_size: Texts a step and side.
        steering: Length of the control vector in median norms.
        retain_weight: Weight of the retain term (the released code's alpha).
        unthink_weight: Weight of the trace term (the paper's alpha).
        cot_weight: Weight of the term that keeps chains of thought (the paper's beta).
        segments: Traces a forget text.
        segment_tokens: Longest piece of a text that a trace is about.
        max_new_tokens: Longest response.
        ask: How options are scored without thinking (see ``score_choices``).
        preset: Whose coefficients, texts and traces, ``paper`` or ``release``, in place of steering, weights and
            segments; empty for these.
    """

    model: str
    forget: str
    retain: str
    cot: str
    questions: str
    utility: str
    maths: str
    facts: str | None = None
    reference: str | None = None
    where: str = r"layers\.[123]\.mlp\.down_proj"
    layer: int = 3
    steps: int = 150
    lr: float = 1e-3
    batch_size: int = 8
    steering: float = 2.0
    retain_weight: float = 20.0
    unthink_weight: float = 1.0
    cot_weight: float = 20.0
    segments: int = 2
    segment_tokens: int = 512
    max_new_tokens: int = 128
    ask: str = "letter"
    preset: str = ""

    @property
    def tracing(self) -> dict[str, Any]:
        """How the model is asked to reason about the forget texts."""
        if self.preset:
            return {"preset": self.preset}
        return {"segments": self.segments, "segment_tokens": self.segment_tokens}

    def coefficients(self, needs: Needs) -> dict[str, Any]:
        """Return what is given to an objective with these needs."""
        if self.preset:
            return {"preset": self.preset}
        given: dict[str, Any] = {"steering": self.steering, "retain_weight": self.retain_weight}
        given |= {"unthink_weight": self.unthink_weight} if needs.traces else {}
        return given | ({"cot_weight": self.cot_weight} if needs.cot else {})


def organism_study(region: str = "eval") -> ReasoningStudy:
    """Return the study of ``organism:think`` on its evaluation files, or on those for calibration."""
    from mastlens.organisms import get_organism, lineage_folder

    organism, folder = get_organism("think"), lineage_folder("think")
    return ReasoningStudy(
        model=organism.spec("rlvr"),
        reference=organism.spec("reference"),
        forget=str(folder / "forget-text.jsonl"),
        retain=str(folder / "retain-text.jsonl"),
        cot=str(folder / "maths-cot.jsonl"),
        questions=str(folder / f"forget-choices-{region}.jsonl"),
        utility=str(folder / f"retain-choices-{region}.jsonl"),
        maths=str(folder / f"maths-{region}.jsonl"),
        facts=str(folder / "facts.json"),
        ask="option",  # a model of this size does not find the letter that stands before an option
    )


def study_of(settings: ReasoningTableSettings) -> ReasoningStudy:
    """Return the study that is asked for: one that is given, the shipped one, or one of files; with what is set beside.

    Raises:
        MastlensError: If files are missing.
    """
    given = {each.name: getattr(settings, each.name, None) for each in fields(ReasoningStudy)}
    if settings.study is not None:
        return with_settings(settings.study, **given)
    if settings.organism:
        return with_settings(organism_study(), **given)
    needed = [each.name for each in fields(ReasoningStudy) if each.default is MISSING]
    missing = [f"--{name}" for name in (*needed, "facts") if given[name] is None]
    if missing:
        raise BadSetting(f"{', '.join(missing)}: missing. Or take the shipped lineage: --organism.")
    return ReasoningStudy(**{key: value for key, value in given.items() if value is not None})


def with_settings(study: ReasoningStudy, **given: Any) -> ReasoningStudy:
    """Return the study with what is given and not None."""
    return replace(study, **{key: value for key, value in given.items() if value is not None})
