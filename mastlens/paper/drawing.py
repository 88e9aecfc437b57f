"""How the figures of the paper's counterparts are drawn from their sources, where it takes more than one call."""

from collections.abc import Callable

import pandas as pd

from mastlens import plots
from mastlens.paper.sources import SOURCE, PaperSources, diagnostics, main_splits, measures_of
from mastlens.plots import Figure

R2MU = "r2mu.csv"
"""Rows as ``plot_measures`` takes them, where R2MU was measured: arm, measure, value, ci_low, ci_high, n."""


def draw_outcome(sources: PaperSources, subtitle: str) -> Figure:
    """Draw what every arm of the demo forgot and what it cost."""
    summary = sources.summary
    rows = []
    for arm, label in sources.labels.items():
        if arm == SOURCE:
            continue
        row: dict[str, str | float] = {"arm": label}
        for side in ("forget", "retain"):
            part = summary[(summary["arm"] == arm) & (summary["split"] == side)].iloc[0]
            row |= {f"{side}_difference": part["difference"], f"{side}_low": part["ci_low"]}
            row |= {f"{side}_high": part["ci_high"]}
        rows.append(row)
    aim = summary[(summary["arm"] == "rlvr-retain") & (summary["split"] == "forget")]["difference"].iloc[0]
    label = "RLVR never rewarded on forget"
    return plots.plot_tradeoff(pd.DataFrame(rows), target=float(aim), target_label=label, subtitle=subtitle)


def draw_accuracy(sources: PaperSources, subtitle: str) -> Figure:
    """Draw the accuracy of every arm of the demo on every split."""
    rows = main_splits(sources.summary)
    drawn = rows.drop(columns=["arm", "ci_low", "ci_high"]).rename(
        columns={"label": "arm", "accuracy_low": "ci_low", "accuracy_high": "ci_high"}
    )
    references = tuple(sources.labels[arm] for arm in ("rlvr-retain", "sft") if arm in sources.labels)
    return plots.plot_accuracy(drawn, references=references, subtitle=subtitle)


def draw_strength(sources: PaperSources, subtitle: str) -> Figure:
    """Draw forgetting over the saved steps of every matched arm."""
    return plots.plot_search(sources.searches, subtitle=subtitle)


def draw_diagnostics(sources: PaperSources, subtitle: str) -> Figure:
    """Draw what both increments did to tokens, and how they lie in the weights."""
    table = diagnostics(sources.tokens, sources.geometry, sources.coupling)
    return plots.plot_measures(
        table,
        nulls={
            "mean Δ log p (nats a token)": 0.0,
            "tokens with Δ log p > 0 (share)": 0.5,
            "cosine of forget gradient and increment (−1 to 1)": 0.0,
        },
        title="What each increment did to the text, and how it lies in the weights",
        subtitle=subtitle,
        note="Bars: 95 % intervals, items resampled whole. Lines: no change. Of all attention projections together.",
    )


def of_study(name: str, draw: Callable[[pd.DataFrame, str], Figure]) -> Callable[[PaperSources, str], Figure | None]:
    """Return the drawing of a table of the study, which gives None where there is no study."""

    def drawn(sources: PaperSources, subtitle: str) -> Figure | None:
        table = sources.studied(name)
        return None if table is None else draw(table, subtitle)

    return drawn


def draw_objectives(summary: pd.DataFrame, subtitle: str) -> Figure:
    """Draw MAST's selection under every objective whose arms reached the target."""
    measures = {
        "forget accuracy (%)": ("forget_accuracy", 100.0),
        "retain accuracy (%)": ("retain_accuracy", 100.0),
        "KL(reference || arm) on retain (nats a token)": ("retain_kl", 1.0),
    }
    chosen = measures_of(summary, "objective", lambda t: (t["selection"] == "mast") & (t["reached"] > 0), measures)
    objectives = chosen["arm"].nunique()
    return plots.plot_measures(
        chosen,
        title=f"MAST's selection under {objectives} objectives, at matched forgetting",
        subtitle=subtitle,
        note="Bars: 95 % t-intervals over seeds, wide for three of them; none where there is one seed.",
    )


def draw_controls(contrasts: pd.DataFrame, subtitle: str) -> Figure:
    """Draw MAST's selection minus random draws of its size, under every objective."""
    part = contrasts[(contrasts["selection"] == "mast") & (contrasts["measure"] == "retain_accuracy")]
    part = part[part["control"] == "random-matched"]
    table = pd.DataFrame(
        {
            "arm": part["objective"],
            "measure": (measure := "MAST − random draws of its size: retain accuracy (points)"),
            "value": 100 * part["mean"],
            "ci_low": 100 * part["ci_low"],
            "ci_high": 100 * part["ci_high"],
            "n": part["draws"],
        }
    )
    better = int((table["ci_low"] > 0).sum())
    return plots.plot_measures(
        table,
        nulls={measure: 0.0},
        title=f"Under {better} of {len(table)} objectives MAST keeps more than random draws, beyond its interval",
        subtitle=subtitle,
        note="Bars: 95 % t-intervals over the seeds' differences, not corrected for the number of objectives; "
        "none where there is one seed. Line: no better than chance.",
    )


def draw_r2mu(sources: PaperSources, subtitle: str) -> Figure | None:
    """Draw the table of R2MU, where there is one."""
    path = sources.study / R2MU
    if not path.is_file():
        return None
    return plots.plot_measures(
        pd.read_csv(path),
        reference="original",
        title="What is left in answers and in reasoning traces after R2MU and its relatives, and what it cost",
        subtitle=subtitle.replace("qwen2", "think"),
        note="Bars: 95 % intervals as r2mu.csv has them.",
    )
