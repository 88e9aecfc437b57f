"""Chapters on the edit itself: which projections were selected, the steps, the token weights."""

import pandas as pd

from mastlens import plots
from mastlens.plots.page import Section
from mastlens.reporting.folder import Findings, RunFolder
from mastlens.reporting.wording import plain, signed

_FACTORS = {"off_principal", "log1p_energy", "coupling_factor"}
_WEIGHED = 2  # problems whose token weights are shown


def selection(run: RunFolder) -> Findings | None:
    """Tell which projections were selected, and what decided it."""
    ranking = run.table("ranking.parquet")
    if ranking is None:
        return None
    figures = [plots.plot_selection(ranking, subtitle=run.subtitle)]
    rule = run.settings("rank").get("rule", "not recorded")
    text = f"The rule is {rule}; mastlens rank --help says what it measures."
    if set(ranking) >= _FACTORS:  # only MAST's score has these factors
        text = (
            "The MAST score of a projection is off-principal energy x log(1 + |increment|^2) x (1 + |coupling "
            "cosine|). The second figure shows which of the three factors told the projections apart."
        )
        figures.append(plots.plot_score_decomposition(ranking, subtitle=run.subtitle))
    chosen = ranking[ranking["selected"].astype(bool)]
    size = f" with {int(chosen['numel'].sum()):,} parameters" if "numel" in chosen else ""
    kinds = chosen["projection"].value_counts(sort=False).sort_index()
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    finding = f"The rule {rule} selects {len(chosen)} of {len(ranking)} projections{size} ({counts})."
    shown = ranking.drop(columns=["name"]) if "name" in ranking else ranking
    return Findings(
        Section("Which projections were selected", text, tuple(figures), (("The ranking", shown),)),
        finding,
        ("A selection is a hypothesis: it counts for as much as it does better than random ones of its size.",),
    )


def steps(run: RunFolder) -> Findings | None:
    """Tell how losses and probes went, step by step; of a demo, of its main arms."""
    table = run.table("steps.parquet")
    if table is None:
        table = _arm_steps(run)
    if table is None:
        return None
    text = "Losses are those of each step's batch, before its update; the gradient norm is that before clipping."
    figure = plots.plot_unlearning_curve(table.drop(columns=["lr"], errors="ignore"), subtitle=run.subtitle)
    settings = run.settings("unlearn")
    finding = ""
    if settings and "arm" not in table:
        objective = settings.get("objective", {})
        name = objective.get("name", "?") if isinstance(objective, dict) else objective
        loss = table["forget_loss"]
        finding = (
            f"{name} took {len(table)} steps at learning rate {settings.get('lr')} on {settings.get('tensors')} tensors"
            f": the forget loss went from {signed(loss.iloc[0], 3)} to {signed(loss.iloc[-1], 3)}"
        )
        if "retain_loss" in table and table["retain_loss"].notna().any():
            retain = table["retain_loss"]
            finding += f", the retain loss from {signed(retain.iloc[0], 3)} to {signed(retain.iloc[-1], 3)}"
        finding += ". Losses of batches are no verdict: that is what an evaluation is for."
    return Findings(Section("The edit, step by step", text, (figure,)), finding)


def _arm_steps(run: RunFolder) -> pd.DataFrame | None:
    arms = run.table("arms.parquet")
    if arms is None:
        return None
    labels = dict(zip(arms["arm"].map(str), arms["label"].map(str), strict=True))
    parts = []
    for arm in ("selected", "all-matched"):
        part = run.table(f"arms/{arm}/steps.parquet")
        if arm in labels and part is not None:
            parts.append(part.assign(arm=labels[arm]))
    return pd.concat(parts, ignore_index=True) if parts else None


def token_weights(run: RunFolder) -> Findings | None:
    """Tell which forget tokens the scorer chose to forget."""
    table = run.table("token_weights.parquet")
    if table is None:
        return None
    items = [int(item) for item in sorted(table["item"].unique())[:_WEIGHED]]
    fragment = str(plots.token_weights_html(table, items=items))
    weight = table["weight"]
    text = (
        "A small scorer learnt which tokens of the forget solutions to forget (ATWU); a token counts in the forget "
        f"term by its weight. Over {len(weight):,} tokens the mean weight is {plain(weight.mean(), 3)}, the median "
        f"{plain(weight.median(), 3)}; {plain(100 * float((weight > 0.5).mean()), 1)} % have more than one half."
    )
    caption = "Forget solutions, coloured by weight"
    return Findings(Section("Which tokens were to be forgotten", text, fragments=((caption, fragment),)))
