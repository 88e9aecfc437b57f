"""Forgetting against collateral, with both paired intervals."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.plots.frame import count, finish, plain
from mastlens.plots.tables import need, need_unique, numbers, records, take, where, words
from mastlens.plots.template import COLOURWAY, GREEN, GREY

_SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "x",
    "cross",
    "pentagon",
    "star",
)  # one more than colours: pairs differ
_TRADEOFF = (
    "arm",
    "forget_difference",
    "forget_low",
    "forget_high",
    "retain_difference",
    "retain_low",
    "retain_high",
)


def plot_tradeoff(
    summary: pd.DataFrame,
    *,
    target: float | None = None,
    target_label: str = "what unlearning aims at",
    title: str | None = None,
    subtitle: str = "",
) -> go.Figure:
    """Draw what each arm forgot against what it cost, with both paired intervals, in percentage points.

    Args:
        summary: One row per arm; differences are after minus before, as fractions, as ``mastlens compare``
            gives them. The axes show points *lost*, so signs are turned around.
        target: The forget difference to aim at (a negative fraction), e.g. that of a model never rewarded on
            the forget side; forgetting beyond it is over-forgetting.
        target_label: What the target is.
        title: The point in plain words; by default which arms forgot for certain and cost nothing certain.
        subtitle: Model, revision, dtype, seed.
    """
    need(summary, _TRADEOFF, figure="plot_tradeoff", writer="mastlens compare")
    drawn = take(summary, _TRADEOFF)
    need_unique(drawn, ["arm"], figure="plot_tradeoff")
    lost = {
        side: -100 * np.stack([numbers(drawn, f"{side}_{part}") for part in ("difference", "low", "high")], axis=1)
        for side in ("forget", "retain")
    }
    fig = go.Figure()
    fig.add_hline(y=0, line={"color": GREY, "width": 1.2})
    fig.add_vline(x=0, line={"color": GREY, "width": 1.2})
    if target is not None:
        fig.add_vline(x=-100 * target, line={"color": GREEN, "width": 2, "dash": "dash"})
        line = {"color": GREEN, "width": 2, "dash": "dash"}
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=plain(target_label)))
    for i, row in enumerate(records(drawn)):
        x, y = lost["forget"][i], lost["retain"][i]
        colour = COLOURWAY[i % len(COLOURWAY)]
        error = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 3}
        fig.add_trace(
            go.Scatter(
                x=[x[0]],
                y=[y[0]],
                mode="markers",
                name=plain(row["arm"]),
                marker={"size": 12, "color": colour, "symbol": _SYMBOLS[i % len(_SYMBOLS)]},
                # Turning the sign swaps the ends: the low end of a difference is the high end of a loss.
                error_x={**error, "array": [x[1] - x[0]], "arrayminus": [x[0] - x[2]]},
                error_y={**error, "array": [y[1] - y[0]], "arrayminus": [y[0] - y[2]]},
                hovertemplate=f"<b>{plain(row['arm'])}</b>"
                f"<br>forgotten: {x[0]:.1f} points [{x[2]:.1f}, {x[1]:.1f}]"
                f"<br>collateral: {y[0]:.1f} points [{y[2]:.1f}, {y[1]:.1f}]<extra></extra>",
            )
        )
    fig.update_xaxes(title_text="forgotten: accuracy lost on forget (percentage points)", zeroline=False)
    fig.update_yaxes(title_text="collateral: accuracy lost on retain<br>(percentage points)", zeroline=False)
    return finish(
        fig,
        drawn,
        title=title or _tradeoff_title(drawn),
        subtitle=subtitle,
        note="Further right is more forgotten, further down costs less. Bars: paired intervals over items.",
        plot_height=380,
        legend_rows=-(-(len(drawn) + (target is not None)) // 5),
        left=84,
        min_width=440,
    )


def _tradeoff_title(drawn: pd.DataFrame) -> str:
    forgot = where(drawn, numbers(drawn, "forget_high") < 0)
    harmless = where(forgot, numbers(forgot, "retain_high") >= 0)
    if forgot.empty:
        return "No arm forgot more than its interval allows for"
    if harmless.empty:
        return f"{len(forgot)} of {count(len(drawn), 'arm')} forgot, and each of them cost accuracy on retain"
    which = words(harmless, "arm")[0] if len(harmless) == 1 else f"{len(harmless)} of {len(drawn)} arms"
    return f"Forgetting without a loss on retain beyond chance: {which}"
