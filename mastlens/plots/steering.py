"""What a steered model says, dose by dose, beside random directions of the same length."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.marks import add_band, interval_bars, told_symbols
from mastlens.plots.measures import label_of
from mastlens.plots.tables import distinct, need, numbers, rows_with, take, words
from mastlens.plots.template import COLOURWAY
from mastlens.statistics import claim

_WRITER = "mastlens inside steer"
_ENDS = ("", "_low", "_high", "_chance_low", "_chance_high", "_null", "_distinguishable")


@honest
def plot_steering(table: pd.DataFrame, measure: str = "effect", *, subtitle: str = "") -> Figure:
    """Draw what steering does by dose, a line a split: dose-response of what is forgotten, collateral of what is kept.

    Args:
        table: ``inside_steer.parquet``.
        measure: ``effect`` (log-probability) or ``accuracy_change``.
        subtitle: Model, revision, dtype, seed.

    Raises:
        MastlensError: If the table lacks the measure.
    """
    columns = ["split", "how", "dose", *(f"{measure}{end}" for end in _ENDS)]
    extra = [one for one in (f"{measure}_p", "total") if one in table and (one != "total" or measure == "effect")]
    need(table, columns, figure="plot_steering", writer=_WRITER)
    drawn = take(table, [*columns, *extra])
    fig = go.Figure()
    for split, colour in zip(distinct(drawn, "split"), COLOURWAY * len(drawn), strict=False):
        part = rows_with(drawn, "split", split).sort_values("dose", kind="stable")
        _line(fig, part, measure, plain(split), colour)
        if "total" in part:
            fig.add_hline(y=float(numbers(part, "total")[0]), line={"color": colour, "width": 1, "dash": "dash"})
    project = words(drawn, "how")[0] == "project"
    fig.update_xaxes(title_text="share taken out" if project else "dose (lengths of the direction)")
    fig.update_yaxes(title_text=plain(label_of(measure)))
    said = "taken out" if project else "added"
    note = "Band: where 95 % of random directions of the same length lie. Bars: 95 % intervals over problems. "
    note += "Dashed: all of RLVR taken back. " if "total" in drawn else ""
    return finish(
        fig,
        drawn,
        title=f"A direction {said}: {claim(drawn, measure).sentence('dose')}",
        subtitle=subtitle,
        note=note + "Open: not beyond random directions (two-sided, p ≥ 0.001 for each).",
        legend_rows=1,
        min_width=480,
    )


def _line(fig: go.Figure, part: pd.DataFrame, measure: str, name: str, colour: str) -> None:
    x, y = numbers(part, "dose"), numbers(part, measure)
    low, high = (f"{measure}_chance_{end}" for end in ("low", "high"))
    if np.isfinite(numbers(part, low)).any():
        add_band(fig, part, "dose", low, high, colour)
    fig.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 8, "symbol": told_symbols(part, f"{measure}_distinguishable")},
            error_y=interval_bars(part, measure),
            customdata=numbers(part, f"{measure}_null"),
            hovertemplate=f"{name}, dose %{{x}}<br>%{{y:.4g}}; random directions %{{customdata:.4g}}<extra></extra>",
        )
    )
