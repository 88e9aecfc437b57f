"""Where two models part: a measure by layer, or by token, beside what random changes of that size do."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.errors import NotFound
from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.heat import log_range
from mastlens.plots.honest import honest
from mastlens.plots.marks import whole_ticks
from mastlens.plots.measures import label_of
from mastlens.plots.tables import distinct, flags, need, numbers, rows_with, take, where, words
from mastlens.plots.template import COLOURWAY
from mastlens.statistics import claim

_PLACE = ("split", "layer", "site", "position")
_WRITER = "mastlens inside depart"


@honest
def plot_departure(
    table: pd.DataFrame, measure: str = "difference", *, title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw how far two models are apart: of the stream by layer, of what is said next by position in the solution.

    Args:
        table: ``inside_depart.parquet``.
        measure: A measure that it has, e.g. ``difference``, ``angle_deg``, ``cka_distance``, ``kl``.
        title: The point in plain words; by default how many rows are beyond their null.
        subtitle: Model, revision, dtype, seed.

    Raises:
        MastlensError: If the table lacks the measure, or has no row with it.
    """
    null, told = f"{measure}_null", f"{measure}_distinguishable"
    extra = [column for column in (f"{measure}_p",) if column in table]
    need(table, [*_PLACE, measure, null, told], figure="plot_departure", writer=_WRITER)
    drawn = take(table, [*_PLACE, measure, null, told, *extra])
    drawn = where(drawn, np.isfinite(numbers(drawn, measure)))
    if drawn.empty:
        raise NotFound(f"plot_departure was given a table in which {measure} was not measured. {_WRITER} measures it.")
    of_next = set(words(drawn, "site")) == {"logits"}
    single = of_next and bool((numbers(drawn, "position") >= 0).any())
    drawn = where(drawn, (numbers(drawn, "position") >= 0) == single).reset_index(drop=True)
    axis = "position" if single else "layer"
    fig = go.Figure()
    for split, colour in zip(distinct(drawn, "split"), COLOURWAY * len(drawn), strict=False):
        part = rows_with(drawn, "split", split).sort_values(axis, kind="stable")
        x, y, known = numbers(part, axis), numbers(part, measure), flags(part, told)
        hover = f"{plain(split)}, {axis} %{{x}}<br>%{{y:.4g}}; random changes %{{customdata:.4g}}<extra></extra>"
        fig.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines+markers",
                name=plain(split),
                line={"color": colour, "width": 2},
                marker={"color": colour, "size": 8, "symbol": ["circle" if one else "circle-open" for one in known]},
                customdata=numbers(part, null),
                hovertemplate=hover,
            )
        )
        if np.isfinite(numbers(part, null)).any():
            fig.add_trace(
                go.Scatter(
                    x=x,
                    y=numbers(part, null),
                    mode="lines",
                    name=f"{plain(split)}, random changes",
                    line={"color": colour, "width": 1.5, "dash": "dot"},
                    hovertemplate="random changes %{y:.4g}<extra></extra>",
                )
            )
    values = np.concatenate([numbers(drawn, measure), numbers(drawn, null)])
    spread = log_range(values) and not (values[np.isfinite(values)] <= 0).any()
    fig.update_yaxes(title_text=plain(label_of(measure)), type="log" if spread else "linear")
    if spread:
        # 1, 2 and 5 of each decade: plotly's own marks every digit; and 10^-4 rather than 100 µ
        fig.update_yaxes(dtick="D2", exponentformat="power")
    x_title = "position in the solution (tokens)" if single else "layer (−1: the embedding)"
    fig.update_xaxes(
        title_text="all tokens" if of_next and not single else x_title, **whole_ticks(numbers(drawn, axis))
    )
    found = claim(drawn, measure)
    noun = "position" if single else "split" if of_next else "stream reading"
    said = label_of(measure).split(" (")[0]
    return finish(
        fig,
        drawn,
        title=title or f"{said[:1].upper()}{said[1:]}: {found.sentence(noun)}",
        subtitle=subtitle,
        note="Dotted: random changes of the size of RLVR's, put into the SFT model (geometric mean). Open: not beyond "
        "them (two-sided, p ≥ 0.001 for each).",
        legend_rows=1,
        min_width=480,
    )
