"""One projection's weights at work: its cell on the map, its measured effect, and what putting it back does."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.frame import colour_with, count, finish, plain, short
from mastlens.plots.heat import (
    BAR_SPACE,
    BELOW_FLOOR,
    KEYS,
    CellGrid,
    add_hatch,
    add_hatch_key,
    add_map,
    add_ring_key,
    color_bar,
    color_scale,
    doubling_ticks,
    hover_text,
    ratios,
)
from mastlens.plots.honest import honest
from mastlens.plots.projection import SIDE_COLOURS
from mastlens.plots.tables import distinct, every_few, flags, need, numbers, records, rows_with, take
from mastlens.plots.template import GREY, INK, MUTED

_MILLI = 1000.0
_UNIT = "10⁻³ nats per token"
_MOST = 5000  # points of a line
_LEAST_DOUBLINGS = 0.5  # a scale that ended nearer to chance would make noise look like a finding
_DID = {"restore": "put back into<br>RLVR", "insert": "put into<br>SFT"}


@honest
def plot_projection_map(
    table: pd.DataFrame,
    *,
    label: str,
    signed: bool = False,
    doublings: bool = False,
    over: np.ndarray | None = None,
    chosen: str | None = None,
    note: str = "",
    title: str | None = None,
    subtitle: str = "",
) -> go.Figure:
    """Draw one score of every projection, with what chance gives, and frame the chosen one.

    Every such figure has the same traces in the same order, so that one can take another's place.

    Args:
        table: One row a projection: ``layer``, ``projection``, ``name``, ``value``, ``chance`` (may be missing) and
            ``beyond_chance`` (missing where nothing says it); ``floor`` and ``below_floor`` where there is a precision
            floor: these cells are hatched.
        label: What the value is called, with its unit.
        signed: Whether 0 is the middle of the colours.
        doublings: Whether the values are doublings of what chance gives, to be written as ratios.
        over: Values that the colours range over, of maps to be compared; by default the table's.
        chosen: Name of the projection to frame.
        note: A line below the map.
        title: The point in plain words; by default how many are beyond chance, and the largest of these.
        subtitle: Model, revision, dtype, seed.
    """
    columns = [*KEYS, "value", "chance", "beyond_chance"]
    need(table, columns, figure="plot_projection_map", writer="explore(study)")
    drawn = take(table, [*columns, *(c for c in ("low", "high", "floor", "below_floor") if c in table)])
    grid, values = CellGrid.of(drawn), numbers(drawn, "value")
    below = flags(drawn, "below_floor") if "below_floor" in drawn else np.zeros(len(drawn), dtype=bool)
    inside = ~below & [beyond is not pd.NA and not beyond for beyond in drawn["beyond_chance"].tolist()]
    drawn["ratio"] = 2.0**values if doublings else np.nan
    lines = {plain(label): "{ratio:.3f} times" if doublings else "{value:.5g}", "by chance": "{chance:.5g}"}
    lines |= {"95 % interval": "{low:.4g} to {high:.4g}", "floor of the precision": "{floor:.4g}"}
    if doublings:
        del lines["by chance"]
    hover = [
        f"{text}{f'<br>{BELOW_FLOOR}' * bool(hatched)}<br><i>click to open</i>"
        for text, hatched in zip(hover_text(drawn, lines), below, strict=True)
    ]
    fig = make_subplots()
    add_map(
        fig,
        drawn,
        # No colour claims anything of a ratio below the floor.
        np.where(below, 0.0, values) if doublings else values,
        grid=grid,
        hover=hover,
        coloraxis="coloraxis",
        texts=ratios(values) if doublings else [short(value) for value in values],
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
    add_hatch(fig, grid, drawn, below)
    judged = bool(drawn["beyond_chance"].notna().any())
    add_ring_key(fig, "cannot be told from chance")
    add_hatch_key(fig)
    keys: Any = fig.data[-2:]
    for key, needed in zip(keys, (judged, below.any()), strict=True):
        key.showlegend = bool(needed)
    scale = color_scale(values if over is None else over, signed=signed, least=_LEAST_DOUBLINGS if doublings else 0.0)
    fig.update_layout(coloraxis=scale)
    color_bar(fig, "coloraxis", grid=grid, title=plain(label))
    if doublings:
        fig.update_layout(coloraxis_colorbar=doubling_ticks(float(scale["cmax"])))
    return finish(
        fig,
        drawn.drop(columns="ratio"),
        title=title or _map_title(drawn, label, judged, inside, below, doublings),
        subtitle=subtitle,
        note=note,
        plot_height=grid.height,
        legend_rows=int(judged or bool(below.any())),
        bottom=BAR_SPACE,
    )


def _map_title(
    drawn: pd.DataFrame, label: str, judged: bool, inside: np.ndarray, below: np.ndarray, doublings: bool
) -> str:
    """Return what a map says at first glance: how much is beyond chance, and the largest of that."""
    title = f"{label[:1].upper()}{label[1:]}"
    values = numbers(drawn, "value")
    open_to = np.isfinite(values) & ~below
    if judged:
        beyond = int((open_to & ~inside).sum())
        told = f"{beyond or 'none'} of {count(int(open_to.sum()), 'projection')} {'are' if beyond > 1 else 'is'}"
        title += f": {told} beyond chance"
    if below.any():
        title += f"{',' if judged else ':'} {count(int(below.sum()), 'projection')} below the precision floor"
    named = np.where(open_to & ~(inside & judged), values, np.nan)
    if np.isfinite(named).any():
        top = records(drawn)[int(np.nanargmax(np.abs(named)))]
        most = "farthest from chance" if doublings else "largest"
        title += f"{',' if judged or below.any() else ':'} {most} in layer {top['layer']}, {top['projection']}"
    return title


@honest
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
        f"{_effect_text(first['effect'], first['effect_low'], first['effect_high'])}{_beside_null(first)}",
        subtitle=subtitle,
        note="Bars: 95 % interval over problems. Crosses: first-order prediction. Grey: ± 2 sd of what a random change "
        "of the same size would do.",
        plot_height=260,
        legend_rows=1,
        left=84,
        bottom=76,
        min_width=420,
    )


@honest
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
        share, step = (np.arange(len(changes)) + 0.5) / max(1, len(changes)), every_few(len(changes), _MOST)
        fig.add_trace(
            go.Scatter(
                x=share[::step],
                y=changes[::step],
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
        f"{_effect_text(forget['effect'], forget['effect_low'], forget['effect_high'])}{_beside_null(forget)}",
        subtitle=subtitle,
        note=f"Measured now on the first {told}; under each side its log-probability a token before and after. "
        "Crosses: first-order prediction. Grey: ± 2 sd of what a random change of the same size would do."
        + f" Of the problems every {every_few(len(items), _MOST)}th is drawn."
        * (len(items) > _MOST),
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


def _beside_null(row: dict[str, Any]) -> str:
    """Return what a headline has to add to an effect that is no more than chance or a random change gives."""
    if row["effect_low"] <= 0 <= row["effect_high"]:
        return ", which can be none"
    null = 2 * row.get("null_sd", np.nan)
    return ", no more than a random change of that size would" if abs(row["effect"]) <= null else ""


def _level(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")
