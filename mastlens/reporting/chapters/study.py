"""The chapters of a study: every arm at matched forgetting, and selections against random ones of their size."""

import pandas as pd

from mastlens import plots
from mastlens.plots.page import Section
from mastlens.reporting.folder import Findings, RunFolder
from mastlens.reporting.wording import interval, listed, out_of, p_value, plain, share, signed
from mastlens.statistics import holm

_MEASURE = "retain_accuracy"
_LEVEL = 0.05
_NAMED = 6  # selections that a sentence names


def study(run: RunFolder) -> Findings | None:
    """Tell what every arm of a study forgot and what it cost."""
    table, summary = run.table("study.parquet"), run.table("summary.parquet")
    if table is None:
        return None
    edited = table[table["kind"] != "model"]
    if edited.empty:
        return None
    # A missing truth value cannot be asked for; None can. Arms that had no target to reach have none.
    table = table.assign(reached=table["reached"].astype(object).where(table["reached"].notna(), None))
    figures = [plots.plot_study(table, subtitle=run.subtitle)]
    matched = edited[edited["kind"] == "matched"]
    for objective in _matched_objectives(table):
        if matched.loc[matched["objective"] == objective, "selection"].nunique() > 1:
            figures.append(plots.plot_study_selections(table, objective=objective, subtitle=run.subtitle))
    text = (
        "Every arm had the same grid of learning rates and saved steps and was stopped, on the calibration files, at "
        "its first checkpoint at or below the target's forget accuracy; the evaluation files were opened once for "
        "each arm, at its end. Means are over seeds of the batches, intervals Student's t over those means."
    )
    tables = [("The models at either end", _ends(table))]
    if summary is not None and "measure" in summary:
        rows = summary[summary["objective"].isin(_matched_objectives(table))]
        tables.append(("Retain accuracy at matched forgetting", _matched(rows)))
    reached = int(matched["reached"].eq(True).sum())
    stopped = f"{out_of(reached, len(matched), 'matched arm')} reached the target"
    return Findings(
        Section("What every arm cost", text, tuple(figures), tuple(tables)),
        f"{stopped[:1].upper()}{stopped[1:]}. {_best(summary, _matched_objectives(table))}".strip(),
        (f"A study over {edited['seed'].nunique()} seeds of the batches; one training run made its checkpoints.",),
    )


def _matched_objectives(arms: pd.DataFrame) -> list[str]:
    """Return the objectives whose arms were stopped at the target."""
    return list(dict.fromkeys(arms.loc[arms["kind"] == "matched", "objective"].astype(str)))


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["arm", "forget_accuracy", "retain_accuracy", "forget_kl", "retain_kl", "perplexity"]
    return table.loc[table["kind"] == "model", [column for column in columns if column in table]]


def _matched(summary: pd.DataFrame) -> pd.DataFrame:
    """Return one row an objective and selection: retain accuracy, and the forget accuracy that went with it."""
    retain, forget = (summary[summary["measure"] == measure] for measure in (_MEASURE, "forget_accuracy"))
    also = forget[["objective", "selection", "mean"]].rename(columns={"mean": "forget_accuracy"})
    joined = retain.merge(also, on=["objective", "selection"], how="left")
    shown = joined[["objective", "selection", "seeds", "reached", "mean", "ci_low", "ci_high"]]
    shown = shown.rename(columns={"mean": "retain_accuracy", "reached": "reached_share"})
    for column in ("forget_accuracy", "draws", "draw_min", "draw_max"):
        shown[column] = joined[column]
    return shown


def _best(summary: pd.DataFrame | None, objectives: list[str]) -> str:
    if summary is None:
        return ""
    rows = summary[(summary["measure"] == _MEASURE) & summary["mean"].notna() & summary["objective"].isin(objectives)]
    if rows.empty:
        return ""
    best = rows.sort_values("mean", ascending=False, kind="stable").iloc[0]
    ends = "" if best["ci_low"] != best["ci_low"] else f" {_percent(best['ci_low'], best['ci_high'])}"
    seeds = int(best["seeds"])
    return (
        f"Most of retain is kept by editing {best['selection']} under {best['objective']}: {share(best['mean'])}{ends} "
        f"over {seeds} seed{'s' * (seeds > 1)}."
    )


def _percent(low: float, high: float) -> str:
    return f"[{plain(100 * low, 1)}, {plain(100 * high, 1)}]"


def contrasts(run: RunFolder) -> Findings | None:
    """Tell which selections do better than random ones of their size: a study's control."""
    table = run.table("contrasts.parquet")
    if table is None:
        return None
    arms = run.table("study.parquet")
    rows = table[(table["measure"] == _MEASURE) & table["permutation_p"].notna()]
    if arms is not None:  # what was not stopped at the target forgot more or less, and compares with nothing
        rows = rows[rows["objective"].isin(_matched_objectives(arms))]
    if rows.empty:
        return None
    rows = rows.assign(holm_p=holm(rows["permutation_p"]))
    text = (
        "Each selection against random selections of MAST's size under the same objective: mean is over seeds of the "
        "selection minus the draws' mean at the same seed, as good counts the draws that do at least as well, and p is "
        "(as good + 1) / (draws + 1), one-sided. It cannot be smaller than 1 / (draws + 1), so that few draws can show "
        "little. The last column is Holm's correction over the whole table."
    )
    columns = ["objective", "selection", "control", "mean", "ci_low", "ci_high", "seeds", "draws", "as_good"]
    shown = rows[[*columns, "permutation_p", "holm_p"]].rename(columns={"mean": "difference"})
    return Findings(
        Section("Controls: against random selections", text, tables=(("Retain accuracy", shown),)),
        f"{_mast(rows)} {_any(rows)}".strip(),
    )


def _any(rows: pd.DataFrame) -> str:
    single, together = ((rows[column] <= _LEVEL).sum() for column in ("permutation_p", "holm_p"))
    statement = (
        f"Of all {len(rows)} comparisons of a selection with random draws, {int(single)} have p at or below 0.05"
    )
    if single:
        names = rows.loc[rows["permutation_p"] <= _LEVEL].drop_duplicates(["selection", "objective"])
        named = ", ".join(f"{row['selection']} under {row['objective']}" for row in names.to_dict("records")[:_NAMED])
        statement += f" ({named}{', ...' if len(names) > _NAMED else ''})"
    return f"{statement}; corrected for their number, {int(together) or 'none'}."


def _as_good(draws: int) -> str:
    return f"{draws or 'no'} draw{'s' * (draws > 1)} {'do' if draws > 1 else 'does'} as well"


def _mast(rows: pd.DataFrame) -> str:
    """Return the sentence on MAST's selection, or the first one: against its largest sets of draws."""
    name = "mast" if (rows["selection"] == "mast").any() else str(rows["selection"].iloc[0])
    ours = rows[rows["selection"] == name]
    draws = int(ours["draws"].max())
    most = ours[ours["draws"] == draws].drop_duplicates("objective")
    differences = listed(
        f"{signed(100 * row['mean'], 1)}"
        + ("" if row["ci_low"] != row["ci_low"] else f" {interval(100 * row['ci_low'], 100 * row['ci_high'], 1)}")
        + f" under {row['objective']} ({_as_good(int(row['as_good']))}, {p_value(row['permutation_p'])})"
        for row in most.to_dict("records")
    )
    beyond = int((most["permutation_p"] <= _LEVEL).sum())
    verdict = "not distinguishable from chance" if not beyond else f"beyond chance under {beyond} of {len(most)}"
    return (
        f"Against {draws} random selections of its size, the selection {name} keeps more of retain by, in points, "
        f"{differences}: {verdict}."
    )
