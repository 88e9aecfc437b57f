"""Forgetting against collateral, with both paired intervals."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.pareto import FRONT_NOTE, front_line, pareto_front
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
FORGOTTEN = "forgotten: accuracy lost on forget (percentage points)"
COLLATERAL = "collateral: accuracy lost on retain<br>(percentage points)"
_TRADEOFF = (
    "arm",
    "forget_difference",
    "forget_low",
    "forget_high",
    "retain_difference",
    "retain_low",
    "retain_high",
)


@honest
def plot_tradeoff(
    summary: pd.DataFrame,
    *,
    target: float | None = None,
    target_label: str = "what unlearning aims at",
    title: str | None = None,
    subtitle: str = "",
) -> Figure:
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
    lost = {side: points_lost(drawn, side) for side in ("forget", "retain")}
    drawn["on_front"] = pareto_front(lost["forget"][:, 0], lost["retain"][:, 0])
    several = int(drawn["on_front"].sum()) > 1
    fig = go.Figure()
    fig.add_hline(y=0, line={"color": GREY, "width": 1.2})
    fig.add_vline(x=0, line={"color": GREY, "width": 1.2})
    if target is not None:
        fig.add_vline(x=-100 * target, line={"color": GREEN, "width": 2, "dash": "dash"})
        line = {"color": GREEN, "width": 2, "dash": "dash"}
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=plain(target_label)))
    if several:
        fig.add_trace(front_line(lost["forget"][:, 0], lost["retain"][:, 0]))
    for i, row in enumerate(records(drawn)):
        x, y = lost["forget"][i], lost["retain"][i]
        hover = (
            f"forgotten: {x[0]:.1f} points [{x[1]:.1f}, {x[2]:.1f}]"
            f"<br>collateral: {y[0]:.1f} points [{y[1]:.1f}, {y[2]:.1f}]"
        )
        fig.add_trace(arm_point(i, str(row["arm"]), x, y, hover))
    fig.update_xaxes(title_text=FORGOTTEN, zeroline=False)
    fig.update_yaxes(title_text=COLLATERAL, zeroline=False)
    return finish(
        fig,
        drawn,
        title=title or _tradeoff_title(drawn),
        subtitle=subtitle,
        note="Further right is more forgotten, further down costs less. Bars: paired intervals over items."
        + (f" {FRONT_NOTE}" if several else ""),
        plot_height=380,
        legend_rows=1,
        left=84,
        min_width=440,
    )


def points_lost(table: pd.DataFrame, side: str) -> np.ndarray:
    """Return percentage points lost (rows, 3): value, low and high end.

    Differences are after - before, so turning the sign swaps the ends.
    """
    return -100 * np.stack([numbers(table, f"{side}_{part}") for part in ("difference", "high", "low")], axis=1)


def arm_point(number: int, arm: str, x: np.ndarray, y: np.ndarray, hover: str, *, legend: bool = True) -> go.Scatter:
    """Return an arm as one point with its bars.

    Args:
        number: Which arm; it decides colour and symbol.
        arm: Its name.
        x: Value, low and high end.
        y: Value, low and high end.
        hover: What the pointer shows below the name; plotly's tags are kept.
        legend: Whether this is the arm's entry in the legend.
    """
    error = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 3}
    bars = [{**error, "array": [e[2] - e[0]], "arrayminus": [e[0] - e[1]]} for e in (x, y)]
    marker = {"size": 12, "color": arm_colour(number), "symbol": _SYMBOLS[number % len(_SYMBOLS)]}
    return go.Scatter(
        x=[x[0]],
        y=[y[0]],
        mode="markers",
        name=plain(arm),
        legendgroup=str(number),
        showlegend=legend,
        marker=marker,
        error_x=bars[0],
        error_y=bars[1],
        hovertemplate=f"<b>{plain(arm)}</b><br>{hover}<extra></extra>",
    )


def arm_colour(number: int) -> str:
    """Return the colour of an arm."""
    return COLOURWAY[number % len(COLOURWAY)]


def _tradeoff_title(drawn: pd.DataFrame) -> str:
    forgot = where(drawn, numbers(drawn, "forget_high") < 0)
    harmless = where(forgot, numbers(forgot, "retain_high") >= 0)
    if forgot.empty:
        return "No arm forgot more than its interval allows for"
    if harmless.empty:
        return f"{len(forgot)} of {count(len(drawn), 'arm')} forgot, and each of them cost accuracy on retain"
    which = words(harmless, "arm")[0] if len(harmless) == 1 else f"{len(harmless)} of {len(drawn)} arms"
    return f"Forgetting without a loss on retain beyond chance: {which}"
