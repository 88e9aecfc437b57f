"""One projection opened: head by head, and how its increment lies to the gradients."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.frame import finish, short
from mastlens.plots.honest import honest
from mastlens.plots.nulls import cosine_bound
from mastlens.plots.projection import INCREMENT_COLOURS, INCREMENTS, SIDE_COLOURS
from mastlens.plots.tables import distinct, flags, need, numbers, ordered, records, rows_with
from mastlens.plots.template import BLUE, GREY, MUTED, ORANGE, VERMILLION

_PAIRS = {
    "forget_cosine": ("forget gradient<br>and increment", BLUE),
    "retain_cosine": ("retain gradient<br>and increment", VERMILLION),
    "forget_retain_cosine": ("forget and<br>retain gradient", GREY),
}


@honest
def plot_projection_heads(
    heads: pd.DataFrame,
    *,
    place: str,
    coupling: pd.DataFrame | None = None,
    title: str | None = None,
    subtitle: str = "",
) -> go.Figure:
    """Draw one projection head by head: share of the energy, off-principal energy, coupling; each beside chance.

    Args:
        heads: One row an increment and head: ``increment``, ``head``, ``energy_share``, ``off_principal``, and of each
            ``_null`` and ``_distinguishable``.
        place: What the projection is called.
        coupling: One row a head: ``head``, ``rows``, ``cols``, ``forget_cosine`` and, where there is one,
            ``retain_cosine``.
        title: The point in plain words; by default the head with the largest share of the RLVR increment
            among those beyond chance.
        subtitle: Model, revision, dtype, seed.
    """
    measures = {"energy_share": "share of |Δ|²", "off_principal": "off-principal energy"}
    columns = [f"{m}{end}" for m in measures for end in ("", "_null", "_distinguishable")]
    need(heads, ["increment", "head", *columns], figure="plot_projection_heads", writer="mastlens geometry --heads")
    drawn = ordered(heads[["increment", "head", *columns]], "increment", "head")
    panels = [*measures.values(), *(["cosine of gradient and Δ"] if coupling is not None else [])]
    fig = make_subplots(1, len(panels), subplot_titles=panels, horizontal_spacing=0.1)
    present = sorted(distinct(drawn, "increment"), reverse=True)
    many = int(numbers(drawn, "head").max()) + 1
    for increment in present:
        part = rows_with(drawn, "increment", increment)
        colour, label = INCREMENT_COLOURS.get(increment, GREY), INCREMENTS.get(increment, increment)
        shift = 0.0 if len(present) == 1 else (0.16 if increment == "rlvr" else -0.16)
        place_of = numbers(part, "head") + shift
        for col, measure in enumerate(measures, start=1):
            beyond = flags(part, f"{measure}_distinguishable")
            _add_heads(fig, place_of, numbers(part, measure), beyond, colour, label, col, legend=col == 1)
    for col, measure in enumerate(measures, start=1):
        rlvr = rows_with(drawn, "increment", "rlvr" if "rlvr" in present else present[0])
        _add_chance(fig, numbers(rlvr, "head"), numbers(rlvr, f"{measure}_null"), col)
    if coupling is not None:
        sides = [side for side in SIDE_COLOURS if f"{side}_cosine" in coupling]
        bound = cosine_bound(numbers(coupling, "rows") * numbers(coupling, "cols"), comparisons=len(coupling))
        for side, shift in zip(sides, (-0.16, 0.16), strict=False):
            values = numbers(coupling, f"{side}_cosine")
            at, colour = numbers(coupling, "head") + shift, SIDE_COLOURS[side]
            beyond = np.abs(values) > bound
            if f"{side}_above_chance" in coupling:  # the table has judged by more than a line can show
                beyond &= flags(coupling, f"{side}_above_chance")
            _add_heads(fig, at, values, beyond, colour, side, 3, symbol="diamond")
        _add_chance(fig, numbers(coupling, "head"), bound, 3)
        _add_chance(fig, numbers(coupling, "head"), -bound, 3)
    step = next(step for step in (1, 4, 8, 16, 2**20) if many <= 12 * step)
    fig.update_xaxes(title_text="head", tickvals=list(range(0, many, step)), range=[-0.6, many - 0.4], zeroline=False)
    fig.update_yaxes(rangemode="tozero", row=1, col=1)
    if title is None:
        rlvr = records(rows_with(drawn, "increment", "rlvr")) or records(drawn)
        beyond = [row for row in rlvr if row["energy_share_distinguishable"]]
        title = f"{place}: no head's share of the RLVR increment's energy is beyond chance"
        if beyond:
            top = max(beyond, key=lambda row: row["energy_share"])
            title = (
                f"{place}: head {top['head']} holds {top['energy_share']:.0%} of the RLVR increment's energy "
                f"(chance {top['energy_share_null']:.0%})"
            )
    return finish(
        fig,
        drawn,
        title=title,
        subtitle=subtitle,
        note="Short lines: what chance gives (of cosines: what 95 % of random directions stay below). Open marks "
        "cannot be told from it. Of k and v a head is a key-value group.",
        plot_height=260,
        legend_rows=1,
        panel_titles=True,
        min_width=180 * len(panels),
    )


def _add_heads(
    fig: go.Figure,
    x: np.ndarray,
    y: np.ndarray,
    beyond: np.ndarray,
    colour: str,
    label: str,
    col: int,
    *,
    symbol: str = "circle",
    legend: bool = True,
) -> None:
    fill = [colour if far else "#FFFFFF" for far in beyond]
    fig.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="markers",
            marker={"size": 9, "symbol": symbol, "color": fill, "line": {"width": 1.8, "color": colour}},
            name=label,
            legendgroup=label,
            showlegend=legend,
            hovertemplate=f"{label}, head %{{x:.0f}}: %{{y:.4g}}<extra></extra>",
        ),
        row=1,
        col=col,
    )


def _add_chance(fig: go.Figure, heads: np.ndarray, values: np.ndarray, col: int) -> None:
    x = np.column_stack([heads - 0.35, heads + 0.35, np.full(len(heads), np.nan)]).ravel()
    y = np.column_stack([values, values, np.full(len(heads), np.nan)]).ravel()
    line = {"color": MUTED, "width": 1.6}
    fig.add_trace(
        go.Scatter(
            x=x, y=y, mode="lines", line=line, showlegend=False, hovertemplate="chance: %{y:.4g}<extra></extra>"
        ),
        row=1,
        col=col,
    )


@honest
def plot_projection_coupling(
    coupling: pd.DataFrame, *, place: str, level: float = 0.95, title: str | None = None, subtitle: str = ""
) -> go.Figure:
    """Draw the cosines between one projection's increment and gradients, with what chance leaves.

    Args:
        coupling: One row: ``rows``, ``cols``, ``forget_cosine`` and, where there are, the other cosines.
        place: What the projection is called.
        level: Share of random directions inside the band.
        title: The point in plain words; by default which way the forget loss goes along the increment.
        subtitle: Model, revision, dtype, seed.
    """
    need(coupling, ["rows", "cols", "forget_cosine"], figure="plot_projection_coupling", writer="mastlens couple")
    shown = {column: look for column, look in _PAIRS.items() if column in coupling.columns}
    drawn = coupling[["rows", "cols", *shown]].head(1).reset_index(drop=True)
    row = records(drawn)[0]
    bound = float(cosine_bound(row["rows"] * row["cols"], level=level, comparisons=len(shown)))
    drawn["chance_level"] = bound
    fig = go.Figure(
        go.Bar(
            x=list(range(len(shown))),
            y=[row[column] for column in shown],
            marker={"color": [colour for _, colour in shown.values()]},
            width=0.5,
            text=[f"{row[column]:+.3f}".replace("-", "−") for column in shown],
            textposition="outside",
            cliponaxis=False,
            hovertext=[label.replace("<br>", " ") for label, _ in shown.values()],
            hovertemplate="%{hovertext}: %{y:+.5f}<extra></extra>",
            showlegend=False,
        )
    )
    fig.update_xaxes(tickvals=list(range(len(shown))), ticktext=[label for label, _ in shown.values()])
    fig.add_hrect(y0=-bound, y1=bound, fillcolor=ORANGE, opacity=0.3, line_width=0, layer="below")
    end = 1.25 * max(bound, *(abs(row[column]) for column in shown))
    fig.update_yaxes(title_text="cosine", range=[-end, end], zerolinewidth=1.5)
    way = "falls" if row["forget_cosine"] < 0 else "rises"
    beyond = "more" if abs(row["forget_cosine"]) > bound else "no more"
    said = f"the forget loss {way} along the increment, {beyond} than by chance (cosine {short(row['forget_cosine'])})"
    return finish(
        fig,
        drawn,
        title=title or f"{place}: {said}",
        subtitle=subtitle,
        note=f"Band: what {level:.0%} of random directions stay within, all bars together (±{short(bound)}).",
        plot_height=240,
        min_width=360,
    )
