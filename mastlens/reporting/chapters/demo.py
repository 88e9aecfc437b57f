"""The chapters of a demo: what came out, the controls, accuracy by split."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from mastlens import plots
from mastlens.plots.page import Section
from mastlens.reporting.folder import Findings, RunFolder
from mastlens.studies.verdict import PARTS, SPLITS, recorded_costs, verdict_sentence

_LIMITS = (
    "One model of under a million parameters, one seed of training, synthetic problems: a demonstration that every "
    "step works, not evidence about large models.",
    "Unlike the paper's pair, where RLVR and SFT lie within 3 points on GSM8K, this one is not matched in accuracy: "
    "RLVR made it much better, so that there is something to unlearn.",
    "Nothing here says how long the forgetting lasts under relearning or quantisation: mastlens attack does.",
)


def tables_of(run: RunFolder) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return a demo's summary and arms, or None where the folder is no demo."""
    summary, arms = run.table("summary.parquet"), run.table("arms.parquet")
    if summary is None or arms is None or "label" not in summary:
        return None
    return summary, arms


def outcome_figure(summary: pd.DataFrame, arms: pd.DataFrame, subtitle: str = "") -> go.Figure:
    """Return the figure of a demo's outcome: forgetting against collateral, one point an arm."""
    arms = arms[arms["arm"] != "rlvr"]
    parts = {side: summary[summary["split"] == side].set_index("arm").loc[arms["arm"]] for side in ("forget", "retain")}
    columns = {"difference": "difference", "low": "ci_low", "high": "ci_high"}
    traded = pd.DataFrame(
        {
            "arm": arms["label"].to_numpy(),
            **{f"{side}_{k}": part[c].to_numpy() for side, part in parts.items() for k, c in columns.items()},
        }
    )
    aim = float(parts["forget"]["difference"].to_dict()["rlvr-retain"])
    return plots.plot_tradeoff(traded, target=aim, target_label="RLVR never rewarded on forget", subtitle=subtitle)


def outcome(run: RunFolder) -> Findings | None:
    """Tell what the demo's arms forgot and what it cost."""
    tables = tables_of(run)
    if tables is None:
        return None
    summary, arms = tables
    text = (
        "Each arm against the RLVR source, on the same items: accuracy points lost on the forget side, and on "
        "both retain splits together, with 95 % paired intervals. The aim is a model that was trained "
        "with the same recipe but never rewarded on the forget side: falling further than that is over-forgetting.\n\n"
        "An arm that is 'matched' had the same grid of learning rates and saved steps and was stopped, on the "
        "calibration split, at its first checkpoint at or below the aim's forget accuracy; 'same strength' has the "
        "learning rate and steps of the selected edit."
    )
    section = Section(
        "What came out",
        text,
        figures=(outcome_figure(summary, arms, run.subtitle),),
        tables=(
            ("Accuracy by split, and the paired comparison with the RLVR source", _outcome_table(summary, SPLITS)),
            ("What was edited, and what the edit cost", _cost_table(run, arms)),
        ),
    )
    return Findings(section, verdict_sentence(summary, arms), _LIMITS)


def _outcome_table(summary: pd.DataFrame, splits: Sequence[str]) -> pd.DataFrame:
    columns = ["label", "split", "n", "accuracy", "difference", "ci_low", "ci_high", "b", "c", "mcnemar_p"]
    return summary.loc[summary["split"].isin(splits), columns].rename(columns={"label": "arm"})


def _cost_table(run: RunFolder, arms: pd.DataFrame) -> pd.DataFrame:
    # Seconds and memory stay in run.json: equal runs give equal pages.
    reached = [recorded_costs(run.path, str(arm)).get("reached") for arm in arms["arm"]]
    table = arms[["label", "tensors", "parameters", "lr", "step", "perplexity", "forget_worked"]]
    table = table.astype({"tensors": "Int64", "parameters": "Int64", "step": "Int64"})
    table = table.rename(columns={"label": "arm", "forget_worked": "forget worked share"})
    return table.assign(**{"reached the aim": pd.Series(reached, index=table.index)})


def controls(run: RunFolder) -> Findings | None:
    """Tell how the demo's selection stands beside its controls."""
    tables = tables_of(run)
    if tables is None:
        return None
    summary, arms = tables
    kinds = {
        "sft": "before any reward",
        "rlvr-retain": "never rewarded on forget: the aim",
        "all-matched": "no selection, at matched forgetting",
        "all-same-strength": "no selection, same strength",
        "negated": "the increment itself taken back",
    }
    rows = []
    for arm in arms["arm"].astype(str):
        kind = "another selection of its size" if arm.startswith("random-") else kinds.get(arm)
        if kind is None and arm != "selected":
            continue
        ours = summary[summary["arm"] == arm].set_index("split")
        forget, retain = ours.loc["forget"], ours.loc["retain"]
        rows.append(
            {
                "arm": forget["label"],
                "what it controls for": kind or "the edit in question",
                "forget_accuracy": forget["accuracy"],
                "retain_difference": retain["difference"],
                "retain_difference_low": retain["ci_low"],
                "retain_difference_high": retain["ci_high"],
            }
        )
    text = (
        "A selection is worth what it does better than the same steps on everything, and than selections of its size "
        "that were drawn at random. The same learning rates and saved steps were tried for every matched arm."
    )
    return Findings(Section("Controls", text, tables=(("Each control beside the edit", pd.DataFrame(rows)),)))


def accuracy(run: RunFolder) -> Findings | None:
    """Tell the accuracy of the demo's arms on every split."""
    tables = tables_of(run)
    if tables is None:
        return None
    summary, _ = tables
    main = summary[summary["split"].isin(SPLITS)]
    drawn = main.drop(columns=["arm", "ci_low", "ci_high"]).rename(
        columns={"label": "arm", "accuracy_low": "ci_low", "accuracy_high": "ci_high"}
    )
    references = tuple(dict.fromkeys(main.loc[main["arm"].isin(["rlvr-retain", "sft"]), "label"]))
    text = (
        "Greedy responses, graded as mathematics; 95 % Wilson intervals. The retain side has subjects that SFT "
        "already solved and others that RLVR brought; the table tells them apart."
    )
    figure = plots.plot_accuracy(drawn, references=references, subtitle=run.subtitle)
    parts = ("The retain side, by how its subjects were learnt", _outcome_table(summary, PARTS))
    return Findings(Section("Accuracy before and after", text, figures=(figure,), tables=(parts,)))
