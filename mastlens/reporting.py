"""What a report says: from the tables of a run's folder to the sections of its page."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from mastlens import plots
from mastlens.errors import MastlensError
from mastlens.evaluation import compare_tables
from mastlens.page import Section, write_page
from mastlens.runs import read_record
from mastlens.verdict import PARTS, SPLITS, recorded_costs, verdict_sentence

_DEMO_QUESTION = (
    "A small model was pre-trained, fine-tuned (SFT) and then rewarded for right answers (RLVR). Where in its "
    "attention projections did the reward put the skill on the forget side, and can exactly that be taken out again?"
)
_RUN_QUESTION = "Where in the attention projections does the RLVR increment lie, and which of them were selected?"
_EXAMPLES = 3


def report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` from the tables that a run's folder holds, and return its path.

    Works for a demo and for a folder with only some of the stages: what is there is told, in the order of the
    method.

    Args:
        folder: An output folder.

    Raises:
        MastlensError: If the folder holds no stage of a run.
    """
    folder = Path(folder)
    record = read_record(folder)
    if not record["stages"]:
        raise MastlensError(f"{folder} holds no run (no {folder / 'run.json'}). Run a stage with --out {folder} first.")
    is_demo = (folder / "summary.parquet").is_file()
    sections = [
        section
        for build in (_outcome, _geometry, _coupling, _selection, _unlearning, _evaluation, _items, _limits)
        if (section := build(folder, _subtitle(record))) is not None
    ]
    return write_page(
        folder / "report.html",
        title="What RLVR put where, and what taking it out again costs" if is_demo else f"Run {folder.name}",
        question=_DEMO_QUESTION if is_demo else _RUN_QUESTION,
        verdict=_verdict(folder),
        sections=sections,
        reproduce=_reproduce(record, is_demo),
    )


def _table(folder: Path, name: str) -> pd.DataFrame | None:
    path = folder / name
    return pd.read_parquet(path) if path.is_file() else None


def _subtitle(record: dict[str, Any]) -> str:
    lineage: dict[str, str] = {}
    for stage in record["stages"].values():
        lineage |= stage.get("lineage", {})
    return ", ".join(f"{role} {fingerprint[:8]}" for role, fingerprint in lineage.items())


def _verdict(folder: Path) -> str:
    summary, arms = _table(folder, "summary.parquet"), _table(folder, "arms.parquet")
    if summary is not None and arms is not None:
        return verdict_sentence(summary, arms)
    geometry, ranking = _table(folder, "geometry.parquet"), _table(folder, "ranking.parquet")
    said = []
    if geometry is not None:
        part = geometry[geometry["increment"] == "rlvr"]
        said.append(
            f"Off-principal energy of the RLVR increment is {part['off_principal'].min():.4f} to "
            f"{part['off_principal'].max():.4f} over {len(part)} projections, where a random increment gives "
            f"{part['off_principal_null'].min():.4f} to {part['off_principal_null'].max():.4f}."
        )
    if ranking is not None:
        said.append(f"{int(ranking['selected'].sum())} of {len(ranking)} projections are selected.")
    return " ".join(said) or "No geometry or ranking has been measured in this folder yet."


def outcome_figure(folder: Path, subtitle: str = "") -> go.Figure:
    """Return the figure of a demo's outcome: forgetting against collateral, one point an arm."""
    summary, arms = pd.read_parquet(folder / "summary.parquet"), pd.read_parquet(folder / "arms.parquet")
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


def _outcome(folder: Path, subtitle: str) -> Section | None:
    summary, arms = _table(folder, "summary.parquet"), _table(folder, "arms.parquet")
    if summary is None or arms is None:
        return None
    text = (
        "Each arm against the RLVR source, on the same items: accuracy points lost on the forget side, and on "
        "both retain splits together, with 95 % paired bootstrap intervals. The aim is a model that was trained "
        "with the same recipe but never rewarded on the forget side: falling further than that is over-forgetting.\n\n"
        "An arm that is 'matched' had the same grid of learning rates and saved steps and was stopped, on the "
        "calibration split, at its first checkpoint at or below the aim's forget accuracy; 'same strength' has the "
        "learning rate and steps of the selected edit."
    )
    return Section(
        "What came out",
        text,
        figures=(outcome_figure(folder, subtitle),),
        tables=(
            ("Accuracy by split, and the paired comparison with the RLVR source", _outcome_table(summary, SPLITS)),
            ("What was edited, and what the edit cost", _cost_table(folder, arms)),
        ),
    )


def _outcome_table(summary: pd.DataFrame, splits: Sequence[str]) -> pd.DataFrame:
    columns = ["label", "split", "n", "accuracy", "difference", "ci_low", "ci_high", "b", "c", "mcnemar_p"]
    return summary.loc[summary["split"].isin(splits), columns].rename(columns={"label": "arm"})


def _cost_table(folder: Path, arms: pd.DataFrame) -> pd.DataFrame:
    costs = [recorded_costs(folder, str(arm)) for arm in arms["arm"]]
    table = arms[["label", "tensors", "parameters", "lr", "step", "reached", "perplexity", "forget_worked"]]
    table = table.astype({"tensors": "Int64", "parameters": "Int64", "step": "Int64"})
    table = table.rename(columns={"label": "arm", "reached": "reached the aim", "forget_worked": "forget worked share"})
    return table.assign(
        seconds=pd.Series([cost.get("seconds") for cost in costs], index=table.index),
        peak_mb=pd.Series([cost.get("peak_mb") for cost in costs], index=table.index),
    )


def _geometry(folder: Path, subtitle: str) -> Section | None:
    geometry, spectra = _table(folder, "geometry.parquet"), _table(folder, "spectra.parquet")
    if geometry is None:
        return None
    figures = [
        plots.plot_off_principal(geometry, subtitle=subtitle),
        plots.plot_increment_magnitude(geometry, subtitle=subtitle),
    ]
    if spectra is not None:
        figures.append(plots.plot_spectra(spectra[spectra["increment"] == "rlvr"], subtitle=subtitle))
    text = (
        "Off-principal energy is the share of an increment that lies outside the base weight's top-k singular "
        "subspaces. A random increment of that shape already puts 1 - k^2/(rows x cols) outside: read the value "
        "against that null, never alone. The lift is the energy inside over what the null puts there."
    )
    return Section("Where the increment lies", text, figures=tuple(figures))


def _coupling(folder: Path, subtitle: str) -> Section | None:
    coupling = _table(folder, "coupling.parquet")
    if coupling is None:
        return None
    text = (
        "The cosine between the gradient of the forget (and retain) loss at the RLVR weights and the increment "
        "RLVR - SFT. Negative: moving on along the increment would lower the loss further. It says what goes "
        "together, not what causes what."
    )
    return Section(
        "How the forget gradient couples to it", text, figures=(plots.plot_coupling(coupling, subtitle=subtitle),)
    )


def _selection(folder: Path, subtitle: str) -> Section | None:
    ranking = _table(folder, "ranking.parquet")
    if ranking is None:
        return None
    figures = [plots.plot_selection(ranking, subtitle=subtitle)]
    made = read_record(folder)["stages"].get("rank", {}).get("settings", {})
    text = f"The rule is {made.get('rule', 'not recorded')}; mastlens rank --help says what it measures."
    if {"off_principal", "log1p_energy", "coupling_factor"} <= set(ranking):  # only MAST's score has these factors
        text = (
            "The MAST score of a projection is off-principal energy x log(1 + |increment|^2) x (1 + |coupling "
            "cosine|). The second figure shows which of the three factors told the projections apart."
        )
        figures.append(plots.plot_score_decomposition(ranking, subtitle=subtitle))
    return Section("Which projections were selected", text, figures=tuple(figures))


def _unlearning(folder: Path, subtitle: str) -> Section | None:
    steps = _table(folder, "steps.parquet")
    if steps is None:
        arms = _table(folder, "arms.parquet")
        labels = {} if arms is None else dict(zip(arms["arm"].map(str), arms["label"].map(str), strict=True))
        parts = []
        for arm in ("selected", "all-matched"):
            part = _table(folder / "arms" / arm, "steps.parquet")
            if arm in labels and part is not None and len(part):
                parts.append(part.assign(arm=labels[arm]))
        if not parts:
            return None
        steps = pd.concat(parts, ignore_index=True)
    if steps.empty:
        return None
    text = "Losses are those of each step's batch, before its update; the gradient norm is that before clipping."
    figure = plots.plot_unlearning_curve(steps.drop(columns=["lr"], errors="ignore"), subtitle=subtitle)
    return Section("The edit, step by step", text, figures=(figure,))


def _evaluation(folder: Path, subtitle: str) -> Section | None:
    summary = _table(folder, "summary.parquet")
    if summary is None:
        return None
    main = summary[summary["split"].isin(SPLITS)]
    drawn = main.drop(columns=["arm", "ci_low", "ci_high"]).rename(
        columns={"label": "arm", "accuracy_low": "ci_low", "accuracy_high": "ci_high"}
    )
    references = tuple(dict.fromkeys(main.loc[main["arm"].isin(["rlvr-retain", "sft"]), "label"]))
    text = (
        "Greedy responses, graded as mathematics; 95 % Wilson intervals. The retain side has subjects that SFT "
        "already solved and others that RLVR brought; the table tells them apart."
    )
    return Section(
        "Accuracy before and after",
        text,
        figures=(plots.plot_accuracy(drawn, references=references, subtitle=subtitle),),
        tables=(("The retain side, by how its subjects were learnt", _outcome_table(summary, PARTS)),),
    )


def _items(folder: Path, subtitle: str) -> Section | None:
    before, after = (_table(folder / "arms" / arm, "responses.parquet") for arm in ("rlvr", "selected"))
    if before is None or after is None:
        return None
    comparison = compare_tables(before, after)
    joined = before.merge(after, on=["split", "item"], suffixes=("_before", "_after"))
    lost = joined[joined["correct_before"] & ~joined["correct_after"] & (joined["split"] == "forget")]
    texts = tuple(
        (
            f"Forget item {row['item']}, gold answer {row['gold_before']}",
            f"{row['prompt_before'].strip()}\n\nbefore: {row['response_before']}\nafter:  {row['response_after']}",
        )
        for row in lost.head(_EXAMPLES).to_dict("records")
    )
    text = "Item by item: what the selected edit lost and gained. Below, the first of the forget items that it lost."
    return Section(
        "Items lost and gained",
        text,
        figures=(plots.plot_items(comparison.items, subtitle=subtitle),),
        texts=texts,
    )


def _limits(folder: Path, subtitle: str) -> Section | None:
    if _table(folder, "summary.parquet") is None:
        return None
    text = (
        "One model of under a million parameters, one seed of training, synthetic problems: a demonstration that "
        "every step works, not evidence about large models. Unlike the paper's pair, where RLVR and SFT lie within "
        "3 points on GSM8K, this one is not matched in accuracy: RLVR made it much better, so that there is "
        "something to unlearn.\n\n"
        "Intervals are over items, not over seeds. Three random selections are too few for a statement about "
        "selection rules. Nothing here says how long the forgetting lasts under relearning or quantisation."
    )
    return Section("Limits", text)


def _reproduce(record: dict[str, Any], is_demo: bool) -> dict[str, Any]:
    stages = record["stages"]
    lineage: dict[str, str] = {}
    versions: dict[str, str] = {}
    for stage in stages.values():
        lineage |= stage.get("lineage", {})
        versions |= stage.get("versions", {})
    settings = {name: stage.get("settings", {}) for name, stage in stages.items()}
    return {
        "command": "mastlens demo" if is_demo else "see run.json",
        "settings": settings,
        "checkpoints (SHA-256 over their tensors)": lineage,
        "versions": versions,
    }
