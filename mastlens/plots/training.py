"""How RLVR went, step by step: accuracy, entropy, response length and the divergence from SFT."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, need_unique, numbers, rows_with, take
from mastlens.plots.tradeoff import arm_colour

_PANELS = {
    "accuracy": ("accuracy (%)", 100.0),
    "entropy": ("entropy (nat a token)", 1.0),
    "response_tokens": ("response (tokens)", 1.0),
    "kl_sft": ("KL to SFT (nat a token)", 1.0),
}
_COLUMNS = ("lineage", "step", "responses", *_PANELS)


@honest
def plot_training(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw accuracy, entropy, response length and KL to SFT of sampled responses over the steps, a line a lineage.

    Args:
        table: One stage's rows of ``training.parquet``, with ``lineage``, as ``read_training`` gives it.
        title: The point in plain words; by default how far entropy went in each lineage.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, _COLUMNS, figure="plot_training", writer="mastlens.read_training")
    drawn = take(table, _COLUMNS)
    need_unique(drawn, ["lineage", "step"], figure="plot_training")
    fig = make_subplots(1, len(_PANELS), horizontal_spacing=0.075)
    for number, lineage in enumerate(distinct(drawn, "lineage")):
        part = rows_with(drawn, "lineage", lineage)
        for column, (name, (label, scale)) in enumerate(_PANELS.items(), start=1):
            values = scale * numbers(part, name)
            there = np.isfinite(values)  # KL is measured in some rounds only
            line = go.Scatter(
                x=numbers(part, "step")[there],
                y=values[there],
                mode="lines+markers" if there.sum() < 30 else "lines",
                marker={"size": 4},
                line={"color": arm_colour(number), "width": 1.6},
                name=plain(lineage),
                legendgroup=lineage,
                showlegend=column == 1,
                hovertemplate=f"<b>{plain(lineage)}</b><br>step %{{x}}<br>{label}: %{{y:.4g}}<extra></extra>",
            )
            fig.add_trace(line, row=1, col=column)
    for column, (label, _) in enumerate(_PANELS.values(), start=1):
        fig.update_yaxes(title_text=label, row=1, col=column)
        fig.update_xaxes(title_text="optimiser step", row=1, col=column)
    return finish(
        fig,
        drawn,
        title=title or _title(drawn),
        subtitle=subtitle,
        note="Of responses sampled at each step, at temperature 1; every prompt is new. One run a line: no interval.",
        plot_height=300,
        legend_rows=1,
        left=70,
        min_width=1000,
    )


def _title(drawn: pd.DataFrame) -> str:
    """Return how far entropy went: a statement on what was measured, and none on what made it so."""
    said = []
    for lineage in distinct(drawn, "lineage"):
        entropy = numbers(rows_with(drawn, "lineage", lineage), "entropy")
        entropy = entropy[np.isfinite(entropy)]
        if len(entropy):
            said.append(f"{plain(lineage)} {entropy[0]:.2f} → {entropy[-1]:.2f}")
    shown = "; ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")
    return f"Entropy over training, nat a token: {shown}" if said else "Nothing was recorded"
