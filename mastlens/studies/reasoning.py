"""R2MU's table: what each method leaves in the answers and in the traces, and what it costs (arXiv:2506.12963)."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.checkpoints.computing import Computing
from mastlens.decoding.answering import answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.prompts import Prompt
from mastlens.decoding.reflection import reflection_penalty
from mastlens.edits.edited import EditedCheckpoint
from mastlens.errors import BadSetting, unknown
from mastlens.evaluation.judges import Judge
from mastlens.evaluation.traces import RuleJudge, evaluate_traces, read_questions
from mastlens.plots.cards.carded import Carded
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table, write_text
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, remembered
from mastlens.statistics import Interval, seed_interval, wilson
from mastlens.studies.commands import ReasoningTableSettings
from mastlens.unlearning import OBJECTIVES, TokenWeights, unlearn
from mastlens.unlearning import traces as tracing
from mastlens.unlearning.objectives import Needs

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

ARMS, SUMMARY, CATEGORIES = "r2mu_arms.parquet", "r2mu.parquet", "r2mu_categories.parquet"
DRAWN, SOLVED = "r2mu.csv", "solved.parquet"
MEASURES = ("fa_ua", "rt_ua", "avg_ua", "forget_accuracy", "maths", "utility", "utility_accuracy")
"""What is measured of an arm. Final-answer and reasoning-trace unlearning accuracy and their mean, and the accuracy of
the answer behind a trace: lower is better. What should stay: mathematics, options and answers about the rest."""


_DRAWN = {
    "fa_ua": "right option likeliest, no thinking (FA-UA, share)",
    "rt_ua": "trace reveals it (RT-UA, share)",
    "maths": "mathematics solved (share)",
    "utility_accuracy": "other people's facts, behind a trace (share)",
}
"""Measure to what it is called in the figure."""


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


@dataclass(frozen=True, repr=False)
class ReasoningTable(Carded):
    """R2MU's table.

    Attributes:
        arms: One row a method and seed: ``method``, ``label``, ``seed``, and ``MEASURES`` as fractions.
        table: One row a method: ``method``, ``label``, ``seeds``, and each measure X with ``X_low`` and ``X_high``: the
            mean over seeds with Student's t-interval over seeds, cut at 0 and 1; of a model as it is, Wilson's.
        categories: One row a method, seed and category C1 to C4: ``count``, ``n``, ``share``.
        settings: What made it.
    """

    arms: pd.DataFrame
    table: pd.DataFrame
    categories: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.edits import reasoning_card

        return reasoning_card(self.table)

    @property
    def measures(self) -> pd.DataFrame:
        """One row a method and measure, for the figure: ``arm``, ``measure``, ``value``, ``ci_low``, ``ci_high``."""
        return pd.DataFrame(
            [
                {
                    "arm": row["label"],
                    "measure": name,
                    "value": row[key],
                    "ci_low": row[f"{key}_low"],
                    "ci_high": row[f"{key}_high"],
                }
                for row in self.table.to_dict("records")
                for key, name in _DRAWN.items()
            ]
        )

    def plot(self) -> "go.Figure":
        """Draw the table, a panel a measure."""
        from mastlens.plots import plot_reasoning

        return plot_reasoning(self.measures)

    def plot_categories(self) -> "go.Figure":
        """Draw the shares of the categories by method, over all seeds."""
        from mastlens.plots.trace_categories import plot_trace_categories

        return plot_trace_categories(pooled_categories(self.categories))


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


@takes(ReasoningTableSettings)
def reasoning_table(settings: ReasoningTableSettings) -> ReasoningTable:
    """Unlearn by every method and seed, judge the traces, and put it into one table.

    Run again, it continues where it stopped: every edit and every exam has a folder of its own under ``out``.

    Raises:
        MastlensError: If a method does not exist, or something that it needs is missing.
    """
    methods = tuple(METHODS) if settings.methods is None else tuple(settings.methods)
    for name in methods:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    seeds = settings.seeds
    if isinstance(seeds, int):
        if seeds < 1:
            raise BadSetting(f"--seeds is at least 1, it is {seeds}.")
        seeds = range(settings.seed, settings.seed + seeds)
    study, judge = study_of(settings), settings.judge
    if settings.out is None:
        raise BadSetting("Say where the table goes: out.")
    if judge is None:
        if study.facts is None:
            raise BadSetting("Traces need a judge: give one, or the facts that the rule judge knows (facts).")
        judge = RuleJudge.open(study.facts)
    folder = Path(settings.out)
    common = {
        "device": settings.device,
        "dtype": "float32",
        "overwrite": settings.overwrite,
        "progress": settings.progress,
    }
    traces = tracing.traces(
        model=study.model,
        forget=study.forget,
        **study.tracing,
        max_new_tokens=study.max_new_tokens,
        out=folder / "traces",
        **common,
    )
    rows, shares = [], []
    for name in methods:
        method = METHODS[name]
        if method.stage == "reference" and study.reference is None:
            continue
        for seed in seeds if method.objective else seeds[:1]:
            edit = _edit(study, method, seed, folder, common) if method.objective else None
            row, categories = _exam(study, method, edit, judge, folder / "exams" / f"{name}-{seed}", common)
            rows.append({"method": name, "label": method.label, "seed": seed, **row})
            shares.append(categories.assign(method=name, label=method.label, seed=seed))
    arms, categories = pd.DataFrame(rows), pd.concat(shares, ignore_index=True)
    result = ReasoningTable(
        arms, summarise_methods(arms), categories, {**asdict(study), "seeds": list(seeds), "traces": traces.summary}
    )
    for file, table in ((ARMS, result.arms), (SUMMARY, result.table), (CATEGORIES, result.categories)):
        write_table(folder / file, table)
    write_text(folder / DRAWN, result.measures.to_csv(index=False, lineterminator="\n"))
    return result


def _edit(study: ReasoningStudy, method: Method, seed: int, folder: Path, common: Mapping[str, Any]) -> Path:
    """Make an edit, or find it, and return its file; methods that differ in how they are asked share it."""
    needs = OBJECTIVES[method.objective].needs
    steered = {"traces": folder / "traces" / tracing.FILE} if needs.traces else {}
    if needs.cot:
        steered["cot"] = Path(study.cot)
    extra = "".join(f"-{key}" for key in method.settings if key == "token_weights")
    target = folder / "edits" / f"{method.objective}{extra}-{seed}"
    unlearn(
        rlvr=study.model,
        forget=study.forget,
        retain=study.retain,
        objective=method.objective,
        where=study.where,
        layer=study.layer,
        steps=study.steps,
        lr=study.lr,
        batch_size=study.batch_size,
        allow_overlap=True,
        seed=seed,
        out=target,
        **study.coefficients(needs),
        **steered,
        **method.settings,
        **common,
    )
    return target / "edit.safetensors"


def _exam(
    study: ReasoningStudy,
    method: Method,
    edit: Path | None,
    judge: Judge,
    folder: Path,
    common: Mapping[str, Any],
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the measures of one model with their intervals over items, and the shares of the categories."""
    model = study.reference if method.stage == "reference" else study.model
    assert model is not None
    judged = evaluate_traces(
        model=model,
        edit=edit,
        questions={"forget": study.questions, "utility": study.utility},
        judge=judge,
        think=method.think,
        choices_ask=study.ask,
        reflection=method.penalty,
        max_new_tokens=study.max_new_tokens,
        batch_size=80,
        out=folder,
        **common,
    )
    splits = judged.summary.set_index("split").to_dict("index")
    forget, utility = splits["forget"], splits["utility"]
    asking = {"think": method.think, "reflection": method.penalty, "limit": study.max_new_tokens}
    solved = _solved_problems(model, study.maths, edit, **asking, out=folder, **common)
    right = wilson(int(solved["correct"].sum()), len(solved))
    row: dict[str, float] = {}
    for key, part, column in (
        ("fa_ua", forget, "fa"),
        ("rt_ua", forget, "rt"),
        ("avg_ua", forget, "avg"),
        ("forget_accuracy", forget, "accuracy"),
        ("utility", utility, "fa"),
        ("utility_accuracy", utility, "accuracy"),
    ):
        value = part[column if column == "accuracy" else f"{column}_ua"]
        row |= {
            key: float(value),
            f"{key}_low": float(part[f"{column}_low"]),
            f"{key}_high": float(part[f"{column}_high"]),
        }
    row |= {"maths": float(solved["correct"].mean()), "maths_low": right.low, "maths_high": right.high}
    categories = judged.categories
    return row, categories[categories["split"] == "forget"].drop(columns="split")


def _solved_problems(
    model: str,
    file: str,
    edit: Path | None = None,
    *,
    think: str,
    reflection: float,
    limit: int,
    out: Path,
    device: str,
    dtype: str,
    overwrite: bool,
    progress: bool,
) -> pd.DataFrame:
    """Return ``item``, ``response`` and ``correct`` of a file's problems, answered in a think mode."""
    tested = EditedCheckpoint.open(model, edit)
    settings = {"think": think, "reflection": reflection, "max_new_tokens": limit}

    def compute() -> pd.DataFrame:
        asked = read_questions(file)
        with tested.loaded(Computing.of(device, dtype)) as (loaded, tokenizer):
            penalty = reflection_penalty(tokenizer, reflection) if reflection else None
            replies = answer(
                HuggingFaceEngine(loaded, tokenizer),
                [Prompt.of(one.content, tokenizer, name=str(item), think=think) for item, one in enumerate(asked)],
                Decoding(limit, batch_size=80, penalty=penalty),
                progress="maths" if progress else None,
            )
        return pd.DataFrame(
            {
                "item": range(len(asked)),
                "response": [reply.response.text for reply in replies],
                "correct": [one.correct(reply.answer) for one, reply in zip(asked, replies, strict=True)],
            }
        )

    return remembered(
        out,
        "solve",
        outputs=[SOLVED],
        lineage=tested.lineage,
        behaviour=tested.behaviour,
        inputs=hash_inputs({"problems": file}) | tested.inputs,
        settings=settings,
        device=device,
        overwrite=overwrite,
        compute=compute,
        write=lambda table, folder: write_table(folder / SOLVED, table),
        read=lambda folder: read_table(folder / SOLVED),
    )


def summarise_methods(arms: pd.DataFrame) -> pd.DataFrame:
    """Return one row a method: means over seeds with intervals (see ``ReasoningTable.table``)."""
    rows = []
    for (method, label), part in arms.groupby(["method", "label"], sort=False):
        row: dict[str, Any] = {"method": method, "label": label, "seeds": len(part)}
        for measure in MEASURES:
            if len(part) > 1:
                reach = seed_interval(part[measure])
                interval = Interval(max(reach.low, 0.0), min(reach.high, 1.0))
            else:
                interval = Interval(float(part[f"{measure}_low"].iloc[0]), float(part[f"{measure}_high"].iloc[0]))
            row |= {measure: part[measure].mean(), f"{measure}_low": interval.low, f"{measure}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def pooled_categories(categories: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of the categories over all seeds, with Wilson intervals, as the figure takes them."""
    pooled = categories.groupby(["label", "category"], sort=False)[["count", "n"]].sum().reset_index()
    intervals = [wilson(int(count), int(n)) for count, n in zip(pooled["count"], pooled["n"], strict=True)]
    return pooled.assign(
        split="forget",
        arm=pooled["label"],
        share=pooled["count"] / pooled["n"],
        ci_low=[interval.low for interval in intervals],
        ci_high=[interval.high for interval in intervals],
    )


def with_settings(study: ReasoningStudy, **given: Any) -> ReasoningStudy:
    """Return the study with what is given and not None."""
    return replace(study, **{key: value for key, value in given.items() if value is not None})
