"""What one projection's weights do: measured map, first-order prediction, groups, cumulative curves."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy import stats

from mastlens.errors import NotFound
from mastlens.plots.figure import Figure
from mastlens.plots.frame import colour_with, count, finish, plain, short
from mastlens.plots.heat import (
    BAR_SPACE,
    KEYS,
    CellGrid,
    add_map,
    add_ring_key,
    color_bar,
    color_scale,
    hover_text,
    once_per_cell,
)
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, numbers, records, rows_with, take, where, words
from mastlens.plots.template import BLUE, GREY, INK, PROJECTION_COLOURS, VERMILLION
from mastlens.statistics import rank_correlation

_SIDES = ("forget", "retain")
_DID = {
    "restore": "put back from the checkpoint before into the one after",
    "insert": "put from the checkpoint after into the one before",
}
_UNIT = "10⁻³ nats per token"
_MILLI = 1000.0
_WRITER = "mastlens causal-map"


@honest
def plot_causal_map(
    table: pd.DataFrame,
    *,
    direction: str = "restore",
    heads: bool = False,
    title: str | None = None,
    subtitle: str = "",
) -> Figure:
    """Draw the measured effect of each projection's weights: forget and retain, signed, with equal colours.

    Args:
        table: ``causal_map.parquet``; retain is drawn when it is there.
        direction: ``restore`` or ``insert``.
        heads: Draw the single heads instead of whole projections.
        title: The point in plain words; by default the largest effect on forget.
        subtitle: Model, revision, dtype, seed.
    """
    drawn, sides = _of_direction(table, direction, "plot_causal_map", heads=heads)
    if heads:
        pairs = zip(words(drawn, "projection"), words(drawn, "head"), strict=True)
        drawn["projection"] = [f"{projection}{head}" for projection, head in pairs]
    once_per_cell(drawn, "plot_causal_map")
    grid = CellGrid.of(drawn)
    fig = make_subplots(1, len(sides), subplot_titles=list(sides), horizontal_spacing=0.08)
    effects = {side: _MILLI * numbers(drawn, f"{side}_effect") for side in sides}
    fig.update_layout(coloraxis=color_scale(np.concatenate(list(effects.values())), signed=True))
    lines = {}
    for side in sides:
        interval = f"[{{{side}_effect_low:+.2e}}, {{{side}_effect_high:+.2e}}]"
        lines[f"{side} effect"] = f"{{{side}_effect:+.3e}} {interval} nats per token"
        lines[f"{side}, first order"] = f"{{{side}_first_order:+.3e}}"
        lines[f"{side}, a random change"] = f"±{{{side}_null_sd:.1e}}"
    hover = hover_text(drawn, lines)
    chance = {side: _covers_zero(drawn, side) for side in sides}
    for col, side in enumerate(sides, start=1):
        texts = ["" if np.isnan(e) else f"{e:+.2f}".replace("-", "−") for e in effects[side]]
        add_map(
            fig,
            drawn,
            effects[side],
            grid=grid,
            hover=hover,
            coloraxis="coloraxis",
            texts=texts,
            ringed=chance[side],
            col=col,
            layer_title=col == 1,
        )
    color_bar(fig, "coloraxis", grid=grid, title=f"change of the log-probability ({_UNIT})", to_col=len(sides))
    add_ring_key(fig, "95 % interval over problems holds 0")
    what = "head" if heads else "projection"
    if title is None:
        title = _map_title(drawn, np.where(chance["forget"], np.nan, effects["forget"]), what)
    total = _MILLI * numbers(drawn, "forget_total")[0]
    return finish(
        fig,
        drawn,
        title=title,
        subtitle=subtitle,
        note=f"Each {what}'s weights alone, {_DID[direction]}. All weights of the model together change forget by "
        f"{short(total)} · 10⁻³ nats per token.",
        plot_height=grid.height,
        legend_rows=1,
        panel_titles=True,
        bottom=BAR_SPACE,
        min_width=(360, 640)[len(sides) - 1],
    )


def _map_title(drawn: pd.DataFrame, known: np.ndarray, what: str) -> str:
    """Return how many effects are told from zero, and the largest of these."""
    told = np.isfinite(known)
    title = f"{int(told.sum()) or 'None'} of {count(len(drawn), what)} {'moves' if told.sum() < 2 else 'move'} forget "
    title += "beyond its interval" if told.sum() < 2 else "beyond their intervals"
    if not told.any():
        return title
    top = records(drawn)[int(np.nanargmax(np.abs(known)))]
    effect = short(_MILLI * top["forget_effect"])
    return f"{title}, most {plain(top['projection'])} of layer {top['layer']}: {effect} · 10⁻³ nats per token"


@honest
def plot_first_order(
    table: pd.DataFrame,
    *,
    direction: str = "restore",
    heads: bool = False,
    title: str | None = None,
    subtitle: str = "",
) -> Figure:
    """Draw the measured effects against what the gradient predicts, with the line on which they are equal.

    Args:
        table: ``causal_map.parquet``; retain is drawn when it is there.
        direction: ``restore`` or ``insert``.
        heads: Draw the single heads instead of whole projections.
        title: The point in plain words; by default the rank correlations.
        subtitle: Model, revision, dtype, seed.
    """
    drawn, sides = _of_direction(table, direction, "plot_first_order", heads=heads)
    fig = make_subplots(1, len(sides), subplot_titles=list(sides), horizontal_spacing=0.12)
    agreement = []
    for col, side in enumerate(sides, start=1):
        x, y = (_MILLI * numbers(drawn, f"{side}_{column}") for column in ("first_order", "effect"))
        low, high = (_MILLI * numbers(drawn, f"{side}_effect_{end}") for end in ("low", "high"))
        ends = [float(np.nanmin([x, y, low])), float(np.nanmax([x, y, high]))]
        band = 2 * _MILLI * float(np.median(numbers(drawn, f"{side}_null_sd")))
        line = {"color": INK, "width": 1.2, "dash": "dash"}
        fig.add_trace(
            go.Scatter(x=ends, y=ends, mode="lines", line=line, name="measured = predicted", showlegend=col == 1),
            row=1,
            col=col,
        )
        for projection in distinct(drawn, "projection"):
            of = np.asarray([found == projection for found in words(drawn, "projection")])
            colour = PROJECTION_COLOURS.get(projection, GREY)
            bars = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour_with(colour, 0.5)}
            fig.add_trace(
                go.Scatter(
                    x=x[of],
                    y=y[of],
                    mode="markers",
                    name=plain(projection),
                    legendgroup=projection,
                    showlegend=col == 1,
                    marker={"size": 8, "color": colour, "line": {"width": 0.8, "color": "#FFFFFF"}},
                    error_y={**bars, "array": (high - y)[of], "arrayminus": (y - low)[of]},
                    customdata=hover_text(where(drawn, of), {"head": "{head}"} if heads else {}),
                    hovertemplate="%{customdata}<br>predicted %{x:+.4f}, measured %{y:+.4f}<extra></extra>",
                ),
                row=1,
                col=col,
            )
        fill, place = colour_with(GREY, 0.25), {"x0": -band, "x1": band, "y0": ends[0], "y1": ends[1]}
        fig.add_shape(type="rect", fillcolor=fill, line={"width": 0}, layer="below", **place, row=1, col=col)
        fig.update_xaxes(title_text=f"first-order prediction<br>({_UNIT})", row=1, col=col)
        constant = np.ptp(x) == 0 or np.ptp(y) == 0
        correlation = rank_correlation(x, y)
        known = np.isfinite(x) & np.isfinite(y)
        # A pair of numbers, whatever else it is.
        p = float(tuple(stats.spearmanr(x[known], y[known]))[1]) if known.sum() > 2 and not constant else np.nan  # pyright: ignore[reportArgumentType]
        agreement.append(f"{side} {'–' if constant else short(float(correlation))}" + f" (p = {p:.2g})" * (p == p))
    fig.update_yaxes(title_text=f"measured ({_UNIT})", row=1, col=1)
    return finish(
        fig,
        drawn,
        title=title or f"Rank correlation of first-order prediction and measured effect: {', '.join(agreement)}",
        subtitle=subtitle,
        note=f"Weights {_DID[direction]}, one {'head' if heads else 'projection'} at a time. Bars: 95 % intervals over "
        "problems. Grey: two standard deviations of what is predicted for a change of the same size in a random "
        "direction (median).",
        plot_height=360,
        legend_rows=1,
        panel_titles=True,
        bottom=76,
        left=72,
        min_width=(400, 680)[len(sides) - 1],
    )


@honest
def plot_causal_groups(
    groups: pd.DataFrame, *, direction: str = "restore", title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw what whole groups of parameters do: whether what is looked for lies in attention at all.

    Args:
        groups: ``causal_groups.parquet``.
        direction: ``restore`` or ``insert``.
        title: The point in plain words; by default the share of attention's projections in the whole effect.
        subtitle: Model, revision, dtype, seed.
    """
    columns = ["direction", "group", "forget_effect", "forget_effect_low", "forget_effect_high"]
    need(groups, columns, figure="plot_causal_groups", writer=_WRITER)
    drawn = rows_with(groups, "direction", direction).reset_index(drop=True)
    if drawn.empty:
        raise NotFound(f"The table has no rows of the direction {direction!r}.")
    fig = go.Figure()
    for side, colour in zip(_SIDES, (BLUE, VERMILLION), strict=True):
        if f"{side}_effect" not in drawn:
            continue
        value, low, high = (_MILLI * numbers(drawn, f"{side}_effect{end}") for end in ("", "_low", "_high"))
        fig.add_trace(
            go.Bar(
                x=words(drawn, "group"),
                y=value,
                name=side,
                marker={"color": colour},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": high - value,
                    "arrayminus": value - low,
                    "thickness": 1.4,
                    "width": 4,
                    "color": INK,
                },
                hovertemplate="<b>%{x}</b><br>%{y:+.3f} · 10⁻³ nats per token<extra>" + side + "</extra>",
            )
        )
    fig.update_layout(barmode="group", bargap=0.3)
    fig.update_yaxes(title_text=f"change of the log-probability<br>({_UNIT})", zerolinewidth=1.5)
    if title is None:
        effect = dict(zip(words(drawn, "group"), _MILLI * numbers(drawn, "forget_effect"), strict=True))
        ends = [numbers(drawn, f"forget_effect_{end}") for end in ("low", "high")]
        beyond = [name for name, low, high in zip(effect, *ends, strict=True) if low > 0 or high < 0]
        moved = ", ".join(f"{name} {short(effect[name])}" for name in beyond)
        title = f"{len(beyond) or 'None'} of {count(len(drawn), 'group')} of weights "
        title += "move forget beyond their intervals" if len(beyond) > 1 else "moves forget beyond its interval"
        title += f": {moved} · 10⁻³ nats per token" if moved else ""
        if {"projections", "all"} <= set(effect):
            title = (
                f"The attention projections together change forget by {short(effect['projections'])} · 10⁻³ nats per "
                f"token, all weights by {short(effect['all'])}"
            )
    return finish(
        fig,
        drawn,
        title=title,
        subtitle=subtitle,
        note=f"Weights {_DID[direction]}, a whole group at a time. Groups need not add up. Bars: 95 % intervals over "
        "problems.",
        plot_height=320,
        legend_rows=1,
        left=84,
        min_width=480,
    )


@honest
def plot_cumulative(
    table: pd.DataFrame, areas: pd.DataFrame, *, title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw the cumulative curves of a ranking and of its reverse over the band of random orders.

    Args:
        table: ``cumulative.parquet``.
        areas: ``cumulative_areas.parquet``.
        title: The point in plain words; by default how the ranking's area lies to those of random orders.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, ["order", "draw", "k", "forget_effect"], figure="plot_cumulative", writer=f"{_WRITER} --ranking")
    need(areas, ["side", "above_random", "p_value"], figure="plot_cumulative", writer=f"{_WRITER} --ranking")
    sides = [side for side in _SIDES if f"{side}_effect" in table]
    fig = make_subplots(1, len(sides), subplot_titles=sides, shared_yaxes=True, horizontal_spacing=0.06)
    random = rows_with(table, "order", "random")
    for col, side in enumerate(sides, start=1):
        k = np.unique(numbers(random, "k"))
        values = _MILLI * numbers(random, f"{side}_effect").reshape(-1, len(k))
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": "random"}
        fig.add_trace(go.Scatter(x=k, y=values.min(axis=0), showlegend=False, **band), row=1, col=col)
        fig.add_trace(
            go.Scatter(
                x=k,
                y=values.max(axis=0),
                fill="tonexty",
                fillcolor=colour_with(GREY, 0.25),
                name=f"range of {count(len(values), 'random order')}",
                showlegend=col == 1,
                **band,
            ),
            row=1,
            col=col,
        )
        for order, colour, dash in (("ranking", BLUE, "solid"), ("reverse", VERMILLION, "dot")):
            rows = rows_with(table, "order", order)
            fig.add_trace(
                go.Scatter(
                    x=numbers(rows, "k"),
                    y=_MILLI * numbers(rows, f"{side}_effect"),
                    mode="lines+markers",
                    line={"color": colour, "width": 2, "dash": dash},
                    marker={"size": 6},
                    name={"ranking": "by the ranking", "reverse": "its reverse"}[order],
                    legendgroup=order,
                    showlegend=col == 1,
                    hovertemplate="%{x} projections: %{y:+.3f}<extra></extra>",
                ),
                row=1,
                col=col,
            )
        fig.update_xaxes(title_text="projections put over", row=1, col=col)
    fig.update_yaxes(title_text=f"change of the log-probability<br>({_UNIT})", row=1, col=1)
    forget = records(rows_with(areas, "side", "forget"))[0]
    if title is None:
        title = (
            f"The ranking's area lies {short(_MILLI * forget['above_random'])} · 10⁻³ nats per token from that of "
            f"random orders on forget (p = {forget['p_value']:.2g})"
        )
    note = "All orders end at the same point. Area: mean of the effect over the number of projections. "
    if "total" in forget:
        note += f"All weights of the model together: {short(_MILLI * forget['total'])} · 10⁻³ nats per token on forget."
    return finish(
        fig,
        table,
        title=title,
        subtitle=subtitle,
        note=note,
        plot_height=340,
        legend_rows=1,
        panel_titles=True,
        left=84,
        min_width=(400, 680)[len(sides) - 1],
    )


def _of_direction(
    table: pd.DataFrame, direction: str, figure: str, *, heads: bool
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows to draw, with the columns that are drawn, and the sides that are there."""
    parts = ("effect", "effect_low", "effect_high", "first_order", "null_sd", "total")
    need(table, ["direction", *KEYS, "head", *(f"forget_{p}" for p in parts)], figure=figure, writer=_WRITER)
    sides = tuple(side for side in _SIDES if f"{side}_effect" in table)
    rows = rows_with(table, "direction", direction)
    rows = where(rows, (numbers(rows, "head") >= 0) == heads)
    if rows.empty:
        hint = " Single heads are measured with heads=True (--heads)." if heads else ""
        raise NotFound(f"{figure}: the table has no rows of the direction {direction!r} to draw.{hint}")
    columns = ["direction", *KEYS, "head", *(f"{side}_{part}" for side in sides for part in parts)]
    return take(rows, columns), sides


def _covers_zero(table: pd.DataFrame, side: str) -> np.ndarray:
    low, high = (numbers(table, f"{side}_effect_{end}") for end in ("low", "high"))
    return (low <= 0) & (high >= 0)
