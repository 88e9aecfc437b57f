"""One projection's weights at work: its cell on the map, its measured effect, and what putting it back does."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.frame import colour_with, count, finish, plain, short
from mastlens.plots.heat import BAR_SPACE, KEYS, CellGrid, add_map, add_ring_key, color_bar, color_scale, hover_text
from mastlens.plots.projection import SIDE_COLOURS
from mastlens.plots.tables import distinct, need, numbers, records, rows_with, take
from mastlens.plots.template import GREY, INK, MUTED

_MILLI = 1000.0
_UNIT = "10⁻³ nats per token"
_DID = {"restore": "put back into<br>RLVR", "insert": "put into<br>SFT"}


def plot_projection_map(
    table: pd.DataFrame,
    *,
    label: str,
    signed: bool = False,
    chosen: str | None = None,
    note: str = "",
    title: str | None = None,
    subtitle: str = "",
) -> go.Figure:
    """Draw one score of every projection, with what chance gives, and frame the chosen one.

    Every such figure has the same traces in the same order, so that one can take another's place.

    Args:
        table: One row a projection: ``layer``, ``projection``, ``name``, ``value``, ``chance`` (may be missing) and
            ``beyond_chance`` (missing where nothing says it).
        label: What the value is called, with its unit.
        signed: Whether 0 is the middle of the colours.
        chosen: Name of the projection to frame.
        note: A line below the map.
        title: The point in plain words; by default the largest magnitude and how many cells are chance.
        subtitle: Model, revision, dtype, seed.
    """
    columns = [*KEYS, "value", "chance", "beyond_chance"]
    need(table, columns, figure="plot_projection_map", writer="explore(study)")
    extra = [column for column in ("low", "high") if column in table]
    drawn = take(table, [*columns, *extra])
    grid, values = CellGrid.of(drawn), numbers(drawn, "value")
    inside = np.asarray([beyond is not pd.NA and not beyond for beyond in drawn["beyond_chance"].tolist()])
    lines = {plain(label): "{value:.5g}", "by chance": "{chance:.5g}"}
    if extra:
        lines["95 % interval"] = "{low:.4g} to {high:.4g}"
    fig = make_subplots()
    add_map(
        fig,
        drawn,
        values,
        grid=grid,
        hover=[f"{text}<br><i>click to open</i>" for text in hover_text(drawn, lines)],
        coloraxis="coloraxis",
        texts=[short(value) for value in values],
        ringed=inside if grid.annotated else None,
    )
    places = grid.positions(drawn)
    dots = [] if grid.annotated else [place for place, ring in zip(places, inside, strict=True) if ring]
    ring = {"symbol": "circle", "size": 8, "color": "#FFFFFF", "line": {"width": 1.5, "color": INK}}
    framed = [place for place, row in zip(places, records(drawn), strict=True) if row["name"] == chosen]
    frame = {"symbol": "square-open", "size": 26, "color": "#000000", "line": {"width": 3, "color": "#000000"}}
    for marks, look in ((dots, ring), (framed, frame)):
        x, y = [j for _, j in marks], [i for i, _ in marks]
        fig.add_trace(
            go.Scatter(x=x, y=y, mode="markers", marker=look, showlegend=False, hoverinfo="skip"), row=1, col=1
        )
    add_ring_key(fig, "cannot be told from chance")
    fig.update_layout(coloraxis=color_scale(values, signed=signed))
    color_bar(fig, "coloraxis", grid=grid, title=plain(label))
    if title is None:
        top = records(drawn)[int(np.nanargmax(np.abs(values)))]
        title = f"{label[:1].upper()}{label[1:]}: largest in layer {top['layer']}, {top['projection']}"
        if inside.any():
            title += f"; {inside.sum()} of {count(len(drawn), 'projection')} cannot be told from chance"
    return finish(
        fig,
        drawn,
        title=title,
        subtitle=subtitle,
        note=note,
        plot_height=grid.height,
        legend_rows=1,
        bottom=BAR_SPACE,
    )


def plot_projection_effect(
    causal: pd.DataFrame, *, place: str, title: str | None = None, subtitle: str = ""
) -> go.Figure:
    """Draw the measured effect of one projection's weights in both directions, with interval, prediction and chance.

    Args:
        causal: Rows of one projection of ``causal_map.parquet``, whole (``head`` -1).
        place: What the projection is called.
        title: The point in plain words; by default the effect on forget of putting it back.
        subtitle: Model, revision, dtype, seed.
    """
    parts = ("effect", "effect_low", "effect_high", "first_order", "null_sd")
    need(causal, ["direction", *(f"forget_{p}" for p in parts)], figure="plot_projection_effect", writer="causal-map")
    sides = [side for side in SIDE_COLOURS if f"{side}_effect" in causal]
    directions = [direction for direction in _DID if direction in distinct(causal, "direction")]
    rows = []
    for direction in directions:
        row = records(rows_with(causal, "direction", direction))[0]
        rows += [{"direction": direction, "side": s, **{p: row[f"{s}_{p}"] for p in parts}} for s in sides]
    drawn = pd.DataFrame(rows)
    fig = go.Figure()
    _add_effects(fig, drawn, [f"{row['side']},<br>{_DID[row['direction']]}" for row in rows])
    first = rows[0]
    return finish(
        fig,
        drawn,
        title=title
        or f"{place}: {'put back' if first['direction'] == 'restore' else 'put in'} alone it changes forget by "
        f"{_effect_text(first['effect'], first['effect_low'], first['effect_high'])}",
        subtitle=subtitle,
        note="Bars: 95 % interval over problems. Crosses: first-order prediction. Grey: ± 2 sd of what a random change "
        "of the same size would do.",
        plot_height=260,
        legend_rows=1,
        left=84,
        bottom=76,
        min_width=420,
    )


def plot_put_back(
    items: pd.DataFrame,
    effects: pd.DataFrame,
    *,
    place: str,
    stage: str = "sft",
    title: str | None = None,
    subtitle: str = "",
) -> go.Figure:
    """Draw what putting one projection back does to every problem's log-probability, and to all of them together.

    Args:
        items: One row a side and problem: ``side``, ``item``, ``change`` (nats per token).
        effects: One row a side: ``side``, ``problems``, ``before``, ``after``, ``effect``, ``effect_low``,
            ``effect_high``, ``first_order``, ``null_sd``.
        place: What the projection is called.
        stage: Whose weights were put back.
        title: The point in plain words; by default the effect on forget with its interval.
        subtitle: Model, revision, dtype, seed.
    """
    need(items, ["side", "item", "change"], figure="plot_put_back", writer="the explorer")
    need(effects, ["side", "effect", "effect_low", "effect_high"], figure="plot_put_back", writer="the explorer")
    sides = distinct(effects, "side")
    fig = make_subplots(
        1, 2, column_widths=[0.42, 0.58], subplot_titles=["all problems together", "problem by problem"],
        horizontal_spacing=0.14,
    )  # fmt: skip
    rows = records(effects)
    labels = [f"{row['side']}<br>{_level(row['before'])} →<br>{_level(row['after'])}" for row in rows]
    _add_effects(fig, effects, labels, panel=True)
    for side in sides:
        changes = np.sort(_MILLI * numbers(rows_with(items, "side", side), "change"))
        fig.add_trace(
            go.Scatter(
                x=(np.arange(len(changes)) + 0.5) / len(changes),
                y=changes,
                mode="lines+markers",
                line={"color": colour_with(SIDE_COLOURS.get(side, GREY), 0.5), "width": 1},
                marker={"size": 6, "color": SIDE_COLOURS.get(side, GREY)},
                name=side,
                hovertemplate=f"{side}: %{{y:+.3f}} · 10⁻³ nats per token<extra></extra>",
            ),
            row=1,
            col=2,
        )
    fig.add_hline(y=0, line={"color": MUTED, "width": 1}, row=1, col=2)  # pyright: ignore[reportArgumentType]
    fig.update_xaxes(title_text="share of problems, sorted", tickformat=".0%", range=[-0.02, 1.02], row=1, col=2)
    forget = rows[0]
    told = ", ".join(count(row["problems"], f"{row['side']} problem") for row in rows)
    table = items.merge(effects.drop(columns=["before", "after"]), on="side", how="left")
    return finish(
        fig,
        table,
        title=title
        or f"{place} put back to {stage.upper()}: {forget['side']} changes by "
        f"{_effect_text(forget['effect'], forget['effect_low'], forget['effect_high'])}",
        subtitle=subtitle,
        note=f"Measured now on the first {told}; under each side its log-probability a token before and after. "
        "Crosses: first-order prediction. Grey: ± 2 sd of what a random change of the same size would do.",
        plot_height=280,
        legend_rows=1,
        panel_titles=True,
        left=84,
        bottom=80,
        min_width=560,
    )


def _add_effects(fig: go.Figure, effects: pd.DataFrame, labels: list[str], *, panel: bool = False) -> None:
    """Add effects with interval, first-order prediction and the band of chance."""
    where: dict[str, Any] = {"row": 1, "col": 1} if panel else {}
    x = np.arange(len(labels))
    value, low, high, predicted, sd = (
        _MILLI * numbers(effects, column)
        for column in ("effect", "effect_low", "effect_high", "first_order", "null_sd")
    )
    for i, band in enumerate(2 * sd):
        corners = {"x0": i - 0.3, "x1": i + 0.3, "y0": -band, "y1": band}
        fill = {"fillcolor": colour_with(GREY, 0.28), "line": {"width": 0}, "layer": "below"}
        fig.add_shape(type="rect", **corners, **fill, **where)
    colours = [SIDE_COLOURS.get(row["side"], GREY) for row in records(effects)]
    for i, colour in enumerate(colours):
        bars = {"type": "data", "symmetric": False, "array": [high[i] - value[i]], "arrayminus": [value[i] - low[i]]}
        fig.add_trace(
            go.Scatter(
                x=[i],
                y=[value[i]],
                mode="markers",
                marker={"size": 11, "color": colour},
                error_y={**bars, "thickness": 2, "width": 6, "color": colour},
                showlegend=False,
                hovertemplate=f"measured %{{y:+.4f}} [{low[i]:+.4f}, {high[i]:+.4f}] · {_UNIT}<extra></extra>",
            ),
            **where,
        )
    fig.add_trace(
        go.Scatter(
            x=x + 0.16,
            y=predicted,
            mode="markers",
            marker={"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": INK}},
            name="first-order prediction",
            hovertemplate="predicted %{y:+.4f}<extra></extra>",
        ),
        **where,
    )
    fig.update_xaxes(
        tickvals=list(x), ticktext=labels, tickangle=0, range=[-0.6, len(labels) - 0.4], showgrid=False, **where
    )
    fig.update_yaxes(title_text=f"change of log-probability<br>({_UNIT})", zerolinewidth=1.5, **where)


def _effect_text(value: float, low: float, high: float) -> str:
    ends = f" [{short(_MILLI * low)}, {short(_MILLI * high)}]" if np.isfinite([low, high]).all() else ""
    return f"{short(_MILLI * value)}{ends} · {_UNIT}"


def _level(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")
