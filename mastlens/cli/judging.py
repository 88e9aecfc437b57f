"""What commands that judge what a model answers tell."""

from typing import TYPE_CHECKING, Any

from mastlens.cli.outcome import Outcome
from mastlens.cli.tables import show

if TYPE_CHECKING:
    import pandas as pd

    from mastlens.evaluation.benchmarks import ProblemFiles
    from mastlens.evaluation.collateral import Collateral
    from mastlens.evaluation.comparison import Comparison
    from mastlens.evaluation.depth.scoring import Depth
    from mastlens.evaluation.depth.settings import DepthScoreSettings
    from mastlens.evaluation.forgetting import EditComparison
    from mastlens.evaluation.metrics.comparing import MetricComparison
    from mastlens.evaluation.metrics.settings import CompareMetricsSettings
    from mastlens.evaluation.multiple_choice import ChoiceScores
    from mastlens.evaluation.responses import Evaluation
    from mastlens.evaluation.safety import SafetyEvaluation
    from mastlens.evaluation.settings import (
        ChoicesSettings,
        CollateralSettings,
        CompareEditsSettings,
        CompareSettings,
        CompareTracesSettings,
        EvaluateSafetySettings,
        EvaluateSettings,
        EvaluateTracesSettings,
        MastBenchmarksSettings,
        TakeBenchmarkSettings,
    )
    from mastlens.evaluation.suites.settings import ConvertBenchmarkSettings, ListBenchmarksSettings
    from mastlens.evaluation.traces import TraceComparison, TraceEvaluation


def evaluate(result: "Evaluation", settings: "EvaluateSettings") -> Outcome:
    """Tell accuracies, and what the harness measured."""
    texts, summary = [], dict[str, Any](out=str(settings.out))
    if settings.splits:
        texts.append(show(result.accuracy))
        summary |= {"splits": result.accuracy.to_dict("records"), "hints": result.hints}
        texts += ["\n".join(result.hints)] if result.hints else []
    if result.harness is not None:
        texts.append(show(result.harness.table))
        summary["harness"] = result.harness.table.to_dict("records")
    failed = {} if result.metrics is None else result.metrics.failed
    if result.metrics is not None:
        known = result.metrics.table[result.metrics.table["failed"] == ""]
        texts.append(show(known.drop(columns=["failed", "note"]), rows=80))
        notes = [f"{row['metric']}, {row['split']}: {row['note']}" for row in known.to_dict("records") if row["note"]]
        texts += ["\n".join(dict.fromkeys(notes))] if notes else []
        summary |= {"metrics": known.drop(columns="failed").to_dict("records"), "failed": failed}
    said = "\n".join(f"no {name}: {why}" for name, why in failed.items())
    return Outcome("\n\n".join(texts), summary, failed=f"{said}\nAll else was measured and kept." if said else "")


def compare_metrics(result: "MetricComparison", settings: "CompareMetricsSettings") -> Outcome:
    """Tell what changed of metrics."""
    columns = ["metric", "split", "aggregate", "n", "before", "after", "difference", "ci_low", "ci_high", "p", "holm_p"]
    columns += ["reference", "to_reference"] if result.table["reference"].notna().any() else []
    return Outcome(show(result.table, columns, rows=80), {"metrics": result.table.to_dict("records")})


def compare(result: "Comparison", settings: "CompareSettings") -> Outcome:
    """Tell what changed between two evaluations."""
    said = "; ".join(f"{row['split']}: {row['verdict']}" for row in result.table.to_dict("records"))
    last = f"{said} (smallest difference of interest: {settings.smallest:g}; Holm's p over splits is holm_p)"
    return Outcome(show(result.table), {"splits": result.table.to_dict("records")}, last)


def measure_collateral(result: "Collateral", settings: "CollateralSettings") -> Outcome:
    """Tell what an edit did beside its purpose."""
    summary = {"collateral": result.table.to_dict("records"), "out": str(settings.out)}
    return Outcome(show(result.table, rows=80), summary)


def depth_score(result: "Depth", settings: "DepthScoreSettings") -> Outcome:
    """Tell how deep an edit goes."""
    columns = ["split", "layer", "items", "encoding", "reference_drop", "edited_drop"]
    columns += ["erased", "erased_low", "erased_high"]
    summary = {"depth": result.table.to_dict("records"), "out": None if settings.out is None else str(settings.out)}
    return Outcome(show(result.table, columns, rows=80), summary)


def compare_edits(result: "EditComparison", settings: "CompareEditsSettings") -> Outcome:
    """Tell what edits forgot and what it cost, in one table."""
    parts = ("before", "after", "b", "c", "holm_p", "difference", "low", "high")
    columns = ["arm", *(f"{side}_{part}" for side in ("forget", "retain") for part in parts)]
    columns += ["kl", "perplexity_ratio", "after_attack", "after_attack_difference"]
    text = show(result.table, columns).rstrip()
    if len(result.contrasts):
        contrasts = ["arm", "reference", "side", "n", "b", "c", "holm_p", "difference", "low", "high"]
        text += f"\n\nagainst {result.contrasts['reference'].iloc[0]}:\n{show(result.contrasts, contrasts)}"
    if (result.attacks["attack"] != "").any():
        columns = ["arm", "attack", "variant", "step", "null", "forgotten", "retain_kept", "came_back", "came_back_low"]
        text += f"\n\ndoes it stay:\n{show(result.attacks, [*columns, 'came_back_high', 'beyond_chance'])}"
    tables = {"edits": result.table, "contrasts": result.contrasts, "attacks": result.attacks}
    return Outcome(
        text,
        {
            **{name: table.to_dict("records") for name, table in tables.items()},
            **result.settings["splits"],
            "out": None if settings.out is None else str(settings.out),
        },
    )


def choices(result: "ChoiceScores", settings: "ChoicesSettings") -> Outcome:
    """Tell accuracies on multiple choice."""
    text = "\n\n".join([show(result.accuracy), *result.hints])
    splits = result.accuracy.to_dict("records")
    return Outcome(text, {"splits": splits, "hints": result.hints, "out": str(settings.out)})


def evaluate_traces(result: "TraceEvaluation", settings: "EvaluateTracesSettings") -> Outcome:
    """Tell what traces reveal."""
    columns = ["split", "n", "unjudged", "rt_ua", "rt_low", "rt_high", "fa_ua", "avg_ua", "accuracy", "truncated"]
    shares = result.categories.pivot(index="split", columns="category", values="share").reset_index()
    text = f"{show(result.summary, columns)}\n\n{show(shares)}"
    if settings.prm is not None:
        text += f"\n\n{show(result.summary, ['split', 'steps_n', 'steps_bad', 'steps_low', 'steps_high'])}"
    tables = {"splits": result.summary, "categories": result.categories}
    summary = {name: table.to_dict("records") for name, table in tables.items()}
    return Outcome(text, summary | {"out": str(settings.out)})


def compare_traces(result: "TraceComparison", settings: "CompareTracesSettings") -> Outcome:
    """Tell what two models' traces reveal, paired."""
    tables = {"splits": result.table, "transitions": result.transitions}
    text = f"{show(result.table)}\n\n{show(result.transitions)}"
    if result.steps is not None:
        tables["steps"] = result.steps
        text += f"\n\nResponses with a bad step:\n{show(result.steps)}"
    return Outcome(text, {name: table.to_dict("records") for name, table in tables.items()})


def evaluate_safety(result: "SafetyEvaluation", settings: "EvaluateSafetySettings") -> Outcome:
    """Tell how often requests were refused."""
    return Outcome(show(result.summary), {"data": result.summary.to_dict("records"), "out": str(settings.out)})


def mast_benchmarks(result: "ProblemFiles", settings: "MastBenchmarksSettings") -> Outcome:
    """Tell which problem sets were written."""
    files = {name: str(path) for name, path in result.files.items()}
    return Outcome(show(result.table), {"files": files, "splits": result.table.to_dict("records")})


def take_benchmark(result: "ProblemFiles", settings: "TakeBenchmarkSettings") -> Outcome:
    """Tell how many problems were written."""
    count, path = int(result.table["n"].sum()), next(iter(result.files.values()))
    return Outcome(f"Wrote {count} problems to {path}", {"n": count, "file": str(path)})


def list_benchmarks(result: "pd.DataFrame", settings: "ListBenchmarksSettings") -> Outcome:
    """Tell which benchmarks of unlearning can be read."""
    parts = []
    for row in result.to_dict("records"):
        parts.append(f"{row['benchmark']}: {row['summary']} ({row['source']})")
        told = {"hub": row["hub"], "licence": row["licence"], "size": row["size"], "parts": row["parts"]}
        told |= {"asks for": row["asks"], "note": row["note"]}
        parts += [f"    {name}: {value}" for name, value in told.items() if value]
    return Outcome("\n".join(parts), {"benchmarks": result.to_dict("records")})


def convert_benchmark(result: "ProblemFiles", settings: "ConvertBenchmarkSettings") -> Outcome:
    """Tell which files were written, and what takes each."""
    files = {name: str(path) for name, path in result.files.items()}
    return Outcome(
        show(result.table, ["split", "n", "option"]), {"files": files, "splits": result.table.to_dict("records")}
    )
