"""What an edit takes back of RLVR's change, by layer, beside random changes of the edit's size."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.marks import interval_bars, told_symbols, whole_ticks
from mastlens.plots.measures import label_of
from mastlens.plots.tables import distinct, need, numbers, rows_with, take
from mastlens.plots.template import COLOURWAY
from mastlens.statistics import claim

_WRITER = "mastlens inside undo"
_MEASURES = ("back", "left")
_STREAM = "resid_post"
_FAR = 2.5  # shares of the answer beyond which a line would flatten all others


@honest
def plot_undoing(table: pd.DataFrame, site: str | None = None, measure: str = "back", *, subtitle: str = "") -> Figure:
    """Draw what an edit takes back of an activation by layer, a line a split, beside what it takes back of the answer.

    Args:
        table: ``inside_undo.parquet``.
        site: The activation; of one that lies by heads, each head is a mark. By default ``resid_post``, or the first
            that the table has where it has none.
        measure: ``back``, the share taken back, or ``left``, the distance to the reference that is left.
        subtitle: Model, revision, dtype, seed.

    Raises:
        MastlensError: For another measure, a site that the table does not have, or a table that lacks a column.
    """
    if measure not in _MEASURES:
        raise unknown("measure", measure, _MEASURES)
    wanted = [measure, f"{measure}_null", f"{measure}_distinguishable"]
    need(table, ["split", "layer", "site", "head", *wanted], figure="plot_undoing", writer=_WRITER)
    there = distinct(table, "site")
    site = site or (_STREAM if _STREAM in there else there[0])
    if site not in there:
        raise unknown("site", site, there)
    extra = [one for one in (f"{measure}_p", "back_low", "back_high", "said_back") if one in table]
    every = take(table, ["split", "layer", "site", "head", *wanted, *extra])
    drawn = rows_with(every, "site", site).reset_index(drop=True)
    fig, near, far = go.Figure(), False, []
    for split, colour in zip(distinct(drawn, "split"), COLOURWAY * len(drawn), strict=False):
        part = rows_with(drawn, "split", split).sort_values(["layer", "head"], kind="stable")
        _line(fig, part, measure, plain(split), colour)
        answers = numbers(rows_with(every, "split", split), "said_back") if "said_back" in every else np.zeros(0)
        if measure == "back" and np.isfinite(answers).any():
            height = float(answers[np.isfinite(answers)][0])
            if abs(height) > _FAR:
                far.append(f"{plain(split)} {height:.3g}")
                continue
            near = True
            fig.add_hline(y=height, line={"color": colour, "width": 1, "dash": "dash"})
    fig.update_yaxes(title_text=plain(label_of(measure)))
    fig.update_xaxes(title_text="layer (−1: the embedding)", **whole_ticks(numbers(drawn, "layer")))
    answer = "the solutions' log-probability"
    dashed = f"Dashed: of {answer}. " if near else ""
    dashed += f"Of {answer}, beyond the axis: {', '.join(far)}. " if far else ""
    return finish(
        fig,
        drawn.drop(columns="said_back", errors="ignore"),
        title=f"What the edit takes back of {plain(site)}: {claim(drawn, measure).sentence('reading')}",
        subtitle=subtitle,
        note=f"{dashed}Dotted: random changes of the edit's size (mean). Open: not beyond them (two-sided, p ≥ 0.001 "
        "for each).",
        legend_rows=1,
        min_width=480,
    )


def _line(fig: go.Figure, part: pd.DataFrame, measure: str, name: str, colour: str) -> None:
    x, y, null = numbers(part, "layer"), numbers(part, measure), numbers(part, f"{measure}_null")
    single = len(set(x)) == len(x)
    bars = {}
    if measure == "back" and "back_low" in part and single:
        bars = {"error_y": interval_bars(part, "back")}
    fig.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines+markers" if single else "markers",
            name=name,
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 8, "symbol": told_symbols(part, f"{measure}_distinguishable")},
            customdata=np.stack([numbers(part, "head"), null], axis=1),
            hovertemplate=f"{name}, layer %{{x}}, head %{{customdata[0]:.0f}}<br>%{{y:.4g}}; random changes "
            "%{customdata[1]:.4g}<extra></extra>",
            **bars,
        )
    )
    if single and np.isfinite(null).any():
        fig.add_trace(
            go.Scatter(
                x=x,
                y=null,
                mode="lines",
                name=f"{name}, random changes",
                line={"color": colour, "width": 1.5, "dash": "dot"},
                hovertemplate="random changes %{y:.4g}<extra></extra>",
            )
        )
