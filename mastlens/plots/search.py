"""Strength: forget accuracy on the calibration items over the saved steps of every arm and learning rate."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, need_unique, numbers, ordered, rows_with, take, where, words
from mastlens.plots.template import COLOURWAY, GREEN, MUTED
from mastlens.statistics import wilson

_COLUMNS = ("arm", "lr", "step", "correct", "items")
_DASHES = ("solid", "dash", "dot", "dashdot")


@honest
def plot_search(
    table: pd.DataFrame, *, target: float | None = None, title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw how strong an edit gets: forget accuracy over the saved steps, one panel a learning rate.

    Args:
        table: The ``search.parquet`` of several arms below each other, with a column ``arm``: ``lr``, ``step``,
            ``correct`` of ``items`` calibration items.
        target: The forget accuracy that a matched edit is taken at, as a fraction.
        title: The point in plain words; by default how many arms reached the target.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, _COLUMNS, figure="plot_search", writer="mastlens demo (arms/*/search.parquet)")
    drawn = ordered(take(table, _COLUMNS), "lr", "step")
    need_unique(drawn, ["arm", "lr", "step"], figure="plot_search")
    drawn["accuracy"] = numbers(drawn, "correct") / numbers(drawn, "items")
    pairs = zip(drawn["correct"].tolist(), drawn["items"].tolist(), strict=True)
    ends = [wilson(int(right), int(n)) for right, n in pairs]
    drawn["accuracy_low"], drawn["accuracy_high"] = ([getattr(one, end) for one in ends] for end in ("low", "high"))
    arms, rates = list(dict.fromkeys(words(table, "arm"))), distinct(drawn, "lr")
    fig = make_subplots(
        1,
        len(rates),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[f"learning rate {float(rate):g}" for rate in rates],
    )
    last = float(numbers(drawn, "step").max())
    for col, rate in enumerate(rates, start=1):
        place: dict[str, Any] = {"row": 1, "col": col}
        for number, arm in enumerate(arms):
            rows = rows_with(rows_with(drawn, "lr", rate), "arm", arm)
            if rows.empty:
                continue
            low, value, high = (100 * numbers(rows, f"accuracy{end}") for end in ("_low", "", "_high"))
            hover = [
                f"<b>{plain(arm)}</b><br>step {step}: {here:.1f}% of {n} [{a:.1f}, {b:.1f}]"
                for step, here, n, a, b in zip(rows["step"], value, rows["items"], low, high, strict=True)
            ]
            line = {"color": COLOURWAY[number % len(COLOURWAY)], "width": 2, "dash": _DASHES[number // len(COLOURWAY)]}
            fig.add_trace(
                go.Scatter(
                    x=numbers(rows, "step"),
                    y=value,
                    mode="lines+markers",
                    marker={"size": 6},
                    line=line,
                    name=plain(arm),
                    legendgroup=arm,
                    showlegend=col == 1,
                    customdata=hover,
                    hovertemplate="%{customdata}<extra></extra>",
                ),
                **place,
            )
        if target is not None:
            line = {"color": GREEN, "width": 2, "dash": "dash"}
            ends_of = {"x": [0, last], "y": [100 * target] * 2, "name": "target", "hoverinfo": "skip"}
            fig.add_trace(go.Scatter(**ends_of, mode="lines", line=line, showlegend=col == 1), **place)
        fig.update_xaxes(title_text="unlearning step", range=[0, 1.03 * last], zeroline=False, **place)
    fig.update_yaxes(range=[-3, 103], dtick=25, zeroline=False)
    fig.update_yaxes(title_text="forget accuracy, calibration (%)", row=1, col=1)
    fig.update_xaxes(gridcolor="rgba(0,0,0,0)", linecolor=MUTED)
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, arms, target),
        subtitle=subtitle,
        note=f"Greedy answers to {_range(numbers(drawn, 'items'))} calibration items at every saved step: a search "
        "stops counting where a step is clearly short of its target. The pointer shows each point's Wilson interval.",
        plot_height=320,
        legend_rows=1,
        panel_titles=True,
        left=76,
        min_width=140 + 300 * len(rates),
    )


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _title(drawn: pd.DataFrame, arms: list[str], target: float | None) -> str:
    if target is None:
        last = where(drawn, numbers(drawn, "step") == numbers(drawn, "step").max())
        ends = [100 * end for end in (np.nanmin(numbers(last, "accuracy")), np.nanmax(numbers(last, "accuracy")))]
        return f"{count(len(arms), 'arm')}: at the last step {ends[0]:.0f} to {ends[1]:.0f}% of forget is still right"
    there = set(words(where(drawn, np.asarray(drawn["accuracy"], dtype=float) <= target), "arm"))
    return f"{len(there)} of {count(len(arms), 'arm')} forgot down to {100 * target:.0f}% on the calibration items"
