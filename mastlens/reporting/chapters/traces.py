"""Chapters on reasoning: what traces still show, and which option is the likeliest without thinking."""

from mastlens import plots
from mastlens.plots.page import Section
from mastlens.reporting.folder import Findings, RunFolder
from mastlens.reporting.wording import listed, share

_SHOWN = 3  # traces of a split that are shown


def traces(run: RunFolder) -> Findings | None:
    """Tell what judged traces still show: RT-UA with its categories, FA-UA and their mean."""
    table = run.table("trace_judgements.parquet")
    if table is None:
        return None
    from mastlens.evaluation.traces import TraceEvaluation, compare_traces

    evaluation = TraceEvaluation(table, run.settings("evaluate-traces"))
    statements = []
    for row in evaluation.summary.to_dict("records"):
        part = f"{row['split']}: {share(row['rt_ua'], row['rt_low'], row['rt_high'])} of {row['n']} traces reveal"
        if row["fa_ua"] == row["fa_ua"]:
            part += f", the right option is the likeliest in {share(row['fa_ua'], row['fa_low'], row['fa_high'])}"
        statements.append(part)
    text = (
        "Each trace is judged: C1 reveals nothing of the fact, C2 states another true fact, C3 rules out a wrong "
        "option, C4 states or implies the answer. RT-UA is the share of C2 to C4, FA-UA the share of questions whose "
        "right option is the likeliest without thinking, Avg-UA their mean: for what was to be forgotten, less is "
        "better."
    )
    fragments = []
    for split, part in table.groupby("split", sort=False):
        items = [int(item) for item in sorted(part["item"].unique())[:_SHOWN]]
        fragments.append((f"Traces of {split}, sentence by sentence", str(evaluation.html(items, split=str(split)))))
    tables = [("By split", evaluation.summary), ("Shares of the categories", evaluation.categories)]
    if run.before is not None and (run.before / "trace_judgements.parquet").is_file():
        tables.append((f"Against {run.before.name}, on the same questions", compare_traces(run.before, run.path).table))
    section = Section(
        "What the traces still show", text, (evaluation.plot(),), tuple(tables), fragments=tuple(fragments)
    )
    judge = "A judge's categories are its reading of a text: the exact rule knows the organism's sentences only."
    return Findings(section, f"{listed(statements)}.", (judge,))


def choices(run: RunFolder) -> Findings | None:
    """Tell the accuracy of multiple choice by the options' log-probabilities, beside guessing."""
    table = run.table("choices.parquet")
    if table is None:
        return None
    from mastlens.evaluation.multiple_choice import ChoiceScores

    scores = ChoiceScores(table, run.settings("choices"))
    statements = []
    for row in scores.accuracy.to_dict("records"):
        none = ", not distinguishable from guessing" if row["ci_low"] <= row["chance"] <= row["ci_high"] else ""
        right = share(row["accuracy"], row["ci_low"], row["ci_high"])
        statements.append(f"{row['split']} {right} of {row['n']}, guessing gives {share(row['chance'])}{none}")
    figure = plots.plot_accuracy(scores.accuracy.assign(arm="model"), subtitle=run.subtitle)
    text = "The option with the highest log-probability, without thinking; Wilson intervals, and what guessing gives."
    section = Section("Multiple choice", text, (figure,), (("Accuracy by split", scores.accuracy),))
    return Findings(section, f"The likeliest option is the right one: {listed(statements)}.")


def generated(run: RunFolder) -> Findings | None:
    """Tell which traces were generated to unlearn from."""
    table = run.table("traces.parquet")
    if table is None or not {"item", "segment", "prompt", "trace", "truncated"} <= set(table):
        return None
    length = table["tokens"] if "tokens" in table else table["trace"].astype(str).str.len()
    text = (
        f"{len(table):,} traces of {table['item'].nunique():,} documents, {table.groupby('item').size().median():.0f} "
        f"segments each (median), {length.median():.0f} {'tokens' if 'tokens' in table else 'characters'} long "
        f"(median); {int(table['truncated'].sum())} reached the limit before their end."
    )
    texts = tuple(
        (f"Document {row['item']}, segment {row['segment']}", f"{row['prompt']}\n\n{row['trace']}")
        for row in table.head(_SHOWN).to_dict("records")
    )
    return Findings(Section("The traces to be unlearned", text, texts=texts))
