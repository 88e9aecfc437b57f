"""R2MU's table: what each method leaves in the answers and in the traces, and what it costs (arXiv:2506.12963)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
from mastlens.studies.reasoning_methods import METHODS, Method, ReasoningStudy, study_of
from mastlens.unlearning import OBJECTIVES, unlearn
from mastlens.unlearning import traces as tracing

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
