"""Chapters on what a model answers: accuracy, what an edit lost and gained, and the responses themselves."""

import pandas as pd

from mastlens import plots
from mastlens.evaluation import Comparison, Evaluation, compare, compare_tables
from mastlens.plots.page import Pair, Section
from mastlens.plots.response_browser import Responses
from mastlens.reporting.folder import Findings, RunFolder
from mastlens.reporting.wording import listed, p_value, points, share

EXAMPLES = 3
"""Items of a kind that are shown with their responses."""

_RESPONSES = "responses.parquet"
_BOTH = "Every item with both responses: lost, gained or the same"


def evaluation(run: RunFolder) -> Findings | None:
    """Tell the accuracy on every split, with examples of responses."""
    table = run.table(_RESPONSES)
    if table is None:
        return None
    accuracy = Evaluation(table).accuracy
    figure = plots.plot_accuracy(accuracy.assign(arm="model"), subtitle=run.subtitle)
    settings = run.settings("evaluate")
    how = "sampled" if settings.get("sampling") else "greedy"
    text = (
        f"Responses ({how}, at most {settings.get('max_new_tokens', '?')} tokens), graded as mathematics; 95 % Wilson "
        "intervals over items. A truncated response reached the limit before its end."
    )
    accuracies = listed(
        f"{row['split']} {share(row['accuracy'], row['ci_low'], row['ci_high'])} of {int(row['n'])}"
        for row in accuracy.to_dict("records")
    )
    tables = [("Accuracy by split", accuracy)]
    if table["subject"].nunique() > 1:
        keys = ["split", "subject"]
        by_subject = table.groupby(keys, sort=False).agg(n=("correct", "size"), accuracy=("correct", "mean"))
        tables.append(("By subject", by_subject.reset_index()))
    return Findings(
        Section(
            "What the model answers",
            text,
            (figure,),
            tuple(tables),
            texts=_examples(table),
            responses=(Responses("Every response, right or wrong", table),),
        ),
        f"Right answers: {accuracies}.",
        ("Intervals are over items, not over training seeds.",),
    )


def _examples(table: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Return the first right and the first wrong response of each split."""
    texts = []
    for split, part in table.groupby("split", sort=False):
        for right, word in ((True, "right"), (False, "wrong")):
            for row in part[part["correct"].astype(bool) == right].head(1).to_dict("records"):
                caption = f"{split}, item {row['item']}, {word}; gold answer {row['gold']}"
                texts.append((caption, f"{str(row['prompt']).strip()}\n\n{row['response']}"))
    return tuple(texts)


def comparison(run: RunFolder) -> Findings | None:
    """Tell what changed against the evaluation before, item by item."""
    if run.before is None or run.table(_RESPONSES) is None:
        return None
    compared = compare(run.before, run.path)
    rows = compared.table.to_dict("records")
    statements = []
    for row in rows:
        none = "" if row["holm_p"] <= 0.05 else ", not distinguishable from no change"
        change = points(row["difference"], row["ci_low"], row["ci_high"])
        statements.append(
            f"{row['split']} {change} ({share(row['before'])} to {share(row['after'])}; {p_value(row['holm_p'])}{none})"
        )
    text = (
        f"The same items before ({run.before.name}) and after ({run.path.name}). b: right before and wrong after; c: "
        "the other way. Exact McNemar test, Holm's correction over the splits, paired intervals (Bonett and Price); "
        "detectable is the smallest difference that these items could have shown with 80 % power."
    )
    section = Section(
        "What changed",
        text,
        (plots.plot_items(compared.items, subtitle=run.subtitle),),
        (("The paired comparison", compared.table),),
        pairs=changed_pairs(compared),
        responses=(Responses(_BOTH, compared.items),),
    )
    return Findings(section, f"Accuracy after minus before: {listed(statements)}.")


def changed_pairs(compared: Comparison, splits: list[str] | None = None) -> tuple[Pair, ...]:
    """Return the first items lost and gained of every split, with both responses beside each other.

    Args:
        compared: The comparison.
        splits: Which splits; all by default.
    """
    changed = compared.changed
    pairs = []
    for split in splits or list(dict.fromkeys(changed["split"])):
        for change in ("lost", "gained"):
            part = changed[(changed["split"] == split) & (changed["change"] == change)]
            for row in part.head(EXAMPLES).to_dict("records"):
                sides = (("before", str(row["response_before"])), ("after", str(row["response_after"])))
                caption = f"{change.capitalize()}: {split}, item {row['item']}; gold answer {row['gold']}"
                pairs.append(Pair(caption, str(row["prompt"]).strip(), sides))
    return tuple(pairs)


def demo_items(run: RunFolder) -> Findings | None:
    """Tell, of a demo, which items the selected edit lost and gained."""
    before, after = (run.table(f"arms/{arm}/responses.parquet") for arm in ("rlvr", "selected"))
    if before is None or after is None:
        return None
    compared = compare_tables(before, after)
    figure = plots.plot_items(compared.items, subtitle=run.subtitle)
    text = (
        "Item by item: what the selected edit lost and gained, with both responses; on paper the first items of each "
        "split."
    )
    section = Section(
        "Items lost and gained",
        text,
        figures=(figure,),
        pairs=changed_pairs(compared),
        responses=(Responses(_BOTH, compared.items),),
    )
    return Findings(section)


def harness(run: RunFolder) -> Findings | None:
    """Tell what tasks of lm-evaluation-harness gave."""
    table = run.table("harness.parquet")
    if table is None:
        return None
    text = "Tasks of lm-evaluation-harness, run on the model in memory; their own metrics and filters."
    return Findings(Section("Public tasks", text, tables=(("Values by task", table),)))
