"""A study: what every arm forgot against what it cost, and each selection beside random ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import colour_with, count, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, need_unique, numbers, records, rows_with, take, where, words
from mastlens.plots.template import BLUE, COLOURWAY, GREEN, GREY, INK, MUTED
from mastlens.statistics import seed_interval

_WRITER = "mastlens run"
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "pentagon", "hexagon")
_KEYS = ("arm", "kind", "objective", "selection", "draw", "seed")
_SIDES = ("forget", "retain")
_PER_ROW, _PANEL, _GAP = 3, 260, 74  # panels a row, pixels of one, pixels between two rows
_LABELS = {
    "retain_accuracy": ("accuracy on retain (%)", 100.0),
    "forget_accuracy": ("accuracy on forget (%)", 100.0),
    "retain_agreement": ("answers on retain that are the reference's (%)", 100.0),
    "forget_agreement": ("answers on forget that are the reference's (%)", 100.0),
    "retain_kl": ("KL(reference || arm) on retain (nats a token)", 1.0),
    "forget_kl": ("KL(reference || arm) on forget (nats a token)", 1.0),
    "perplexity": ("perplexity on neutral text", 1.0),
}
"""Measure to its axis title and what it is multiplied by."""


@honest
def plot_study(
    table: pd.DataFrame,
    *,
    objectives: Sequence[str] | None = None,
    title: str | None = None,
    subtitle: str = "",
) -> Figure:
    """Draw what every arm forgot against what it cost, one panel an objective, random draws as a cloud.

    Args:
        table: ``study.parquet``.
        objectives: Which to draw, in this order; all by default.
        title: The point in plain words; by default how many arms reached the target.
        subtitle: Model, revision, dtype, seed.
    """
    spans = [f"{side}_{part}" for side in _SIDES for part in ("difference", "low", "high")]
    columns = [*_KEYS, "reached", *spans]
    need(table, columns, figure="plot_study", writer=_WRITER)
    drawn = take(table, columns)
    need_unique(drawn, ["arm"], figure="plot_study")
    edited = where(drawn, [kind != "model" for kind in words(drawn, "kind")])
    need(edited, columns, figure="plot_study", writer=_WRITER)
    reference = rows_with(drawn, "arm", "reference")
    there = distinct(edited, "objective")
    if wrong := [name for name in objectives or () if name not in there]:
        raise unknown("objective", wrong[0], there)
    objectives = list(objectives or there)
    edited = where(edited, [name in objectives for name in words(edited, "objective")])
    selections = distinct(edited, "selection")
    across = min(_PER_ROW, len(objectives))
    down = -(-len(objectives) // across)
    fig = make_subplots(
        down,
        across,
        subplot_titles=[plain(name) for name in objectives],
        shared_xaxes="all",  # pyright: ignore[reportArgumentType] - typed as bool, documented to take this
        shared_yaxes="all",  # pyright: ignore[reportArgumentType]
        horizontal_spacing=0.03,
        vertical_spacing=_GAP / _height(down) if down > 1 else 0,
    )
    shown: set[str] = set()
    for i, objective in enumerate(objectives):
        place: dict[str, Any] = {"row": i // across + 1, "col": i % across + 1}
        part = rows_with(edited, "objective", objective)
        fig.add_hline(y=0, line={"color": GREY, "width": 1}, **place)
        for trace in _clouds(part, selections, shown) + _points(part, selections, shown):
            fig.add_trace(trace, **place)
        if len(reference):
            fig.add_trace(_aim(reference, first=i == 0), **place)
        fig.update_xaxes(showticklabels=True, **place)
    fig.update_xaxes(title_text="accuracy lost on forget (points)", row=down)
    fig.update_yaxes(title_text="accuracy lost on retain<br>(points)", col=1)
    missed = where(edited, [reached is False or reached == "False" for reached in edited["reached"].tolist()])
    return finish(
        fig,
        drawn,
        title=title or _study_title(edited, missed),
        subtitle=subtitle,
        note="Further down costs less. Bars: paired 95 % intervals over items, one point a seed. Small dots: random "
        "draws, one a draw and seed. Open marks never reached the target on the calibration items.",
        plot_height=_height(down),
        legend_rows=1,
        panel_titles=True,
        left=84,
        min_width=300 + 220 * (across - 1),
    )


def _height(down: int) -> int:
    return _PANEL * down + _GAP * (down - 1)


def _lost(part: pd.DataFrame, side: str) -> np.ndarray:
    """Return accuracy lost in points, with what its interval reaches beyond it on both sides: (3, rows)."""
    value, low, high = (-100 * numbers(part, f"{side}_{column}") for column in ("difference", "low", "high"))
    return np.stack([value, low - value, value - high])


def _style(selections: list[str], name: str) -> tuple[str, str]:
    i = selections.index(name)
    return COLOURWAY[i % len(COLOURWAY)], _SYMBOLS[i % len(_SYMBOLS)]


def _hover(part: pd.DataFrame) -> list[str]:
    return [
        f"<b>{plain(row['selection'])}</b>, {f'draw {drawn}, ' if (drawn := row['draw']) else ''}seed {row['seed']}"
        f"<br>{plain(row['arm'])}"
        for row in records(part)
    ]


def _clouds(part: pd.DataFrame, selections: list[str], shown: set[str]) -> list[go.Scatter]:
    random = where(part, numbers(part, "draw") > 0)
    return [
        _scatter(rows_with(random, "selection", s), s, selections, shown, True) for s in distinct(random, "selection")
    ]


def _points(part: pd.DataFrame, selections: list[str], shown: set[str]) -> list[go.Scatter]:
    fixed = where(part, numbers(part, "draw") == 0)
    return [
        _scatter(rows_with(fixed, "selection", s), s, selections, shown, False) for s in distinct(fixed, "selection")
    ]


def _scatter(part: pd.DataFrame, name: str, selections: list[str], shown: set[str], cloud: bool) -> go.Scatter:
    colour, symbol = _style(selections, name)
    x, y = _lost(part, "forget"), _lost(part, "retain")
    missed = [value is False or value == "False" for value in part["reached"].tolist()]
    marker: dict[str, Any] = {"color": colour_with(colour, 0.35), "size": 6}
    bars: dict[str, Any] = {}
    if not cloud:
        marker = {"color": colour, "size": 8}
        bar = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour_with(colour, 0.4)}
        bars = {
            "error_x": {**bar, "array": x[1], "arrayminus": x[2]},
            "error_y": {**bar, "array": y[1], "arrayminus": y[2]},
        }
    marker["symbol"] = [f"{symbol}-open" if open_mark else symbol for open_mark in missed]
    first = name not in shown
    shown.add(name)
    return go.Scatter(
        x=x[0],
        y=y[0],
        mode="markers",
        name=plain(name),
        legendgroup=name,
        showlegend=first,
        marker=marker,
        text=_hover(part),
        hovertemplate="%{text}<br>forgotten: %{x:.1f} points<br>lost on retain: %{y:.1f} points<extra></extra>",
        **bars,
    )


def _aim(reference: pd.DataFrame, *, first: bool) -> go.Scatter:
    return go.Scatter(
        x=_lost(reference, "forget")[0],
        y=_lost(reference, "retain")[0],
        mode="markers",
        name="reference: never learnt it",
        legendgroup="reference",
        showlegend=first,
        marker={"symbol": "star", "size": 13, "color": GREEN, "line": {"color": INK, "width": 1}},
        hovertemplate="reference<br>%{x:.1f} points lower on forget<br>%{y:.1f} on retain<extra></extra>",
    )


def _study_title(edited: pd.DataFrame, missed: pd.DataFrame) -> str:
    lost = -100 * numbers(edited, "retain_difference")
    said = f"{count(len(edited), 'arm')}: they cost {np.nanmin(lost):.0f} to {np.nanmax(lost):.0f} points on retain"
    said = said.replace("-", "−")
    return said + (f", and {len(missed)} never forgot enough" if len(missed) else "")


@honest
def plot_study_selections(
    table: pd.DataFrame,
    *,
    objective: str,
    measure: str = "retain_accuracy",
    title: str | None = None,
    subtitle: str = "",
) -> Figure:
    """Draw one measure of every selection under one objective, with its interval over seeds, beside random draws.

    Args:
        table: ``study.parquet``.
        objective: Which one.
        measure: A column of it, e.g. ``retain_accuracy``, ``retain_kl``.
        title: The point in plain words; by default how many selections stand outside the random draws.
        subtitle: Model, revision, dtype, seed.
    """
    columns = [*dict.fromkeys([*_KEYS, "reached", measure])]
    need(table, columns, figure="plot_study_selections", writer=_WRITER)
    part = rows_with(take(table, columns), "objective", objective)
    if part.empty:
        raise unknown("objective", objective, distinct(table, "objective"))
    label, scale = _LABELS.get(measure, (measure, 1.0))
    part[measure] = scale * numbers(part, measure)
    rows = [_selection_row(name, rows_with(part, "selection", name), measure) for name in distinct(part, "selection")]
    rows.sort(key=lambda row: row["mean"])
    names = [plain(row["selection"]) for row in rows]
    fig = go.Figure()
    random = [row for row in rows if row["draws"]]
    if random:
        widest = max(random, key=lambda row: row["draws"])
        low, high = np.percentile(widest["values"], [2.5, 97.5])
        fig.add_vrect(x0=low, x1=high, fillcolor=colour_with(GREY, 0.14), line_width=0, layer="below")
    for drawn, colour, name in ((False, BLUE, "one seed"), (True, GREY, "one random draw, its mean over seeds")):
        dots = [
            (value, names[i]) for i, row in enumerate(rows) if bool(row["draws"]) == drawn for value in row["values"]
        ]
        if dots:
            fig.add_trace(
                go.Scatter(
                    x=[x for x, _ in dots],
                    y=[y for _, y in dots],
                    mode="markers",
                    name=name,
                    marker={"size": 7, "color": colour_with(colour, 0.45)},
                    hovertemplate="%{y}: %{x:.3g}<extra></extra>",
                )
            )
    fixed = [(row, name) for row, name in zip(rows, names, strict=True) if not row["draws"]]
    if fixed:
        fig.add_trace(
            go.Scatter(
                x=[row["mean"] for row, _ in fixed],
                y=[name for _, name in fixed],
                mode="markers",
                name="mean, 95 % t-interval over seeds",
                marker={"symbol": "line-ns", "size": 15, "line": {"width": 2.5, "color": INK}},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [row["high"] - row["mean"] for row, _ in fixed],
                    "arrayminus": [row["mean"] - row["low"] for row, _ in fixed],
                    "color": MUTED,
                    "thickness": 1.5,
                    "width": 4,
                },
                hovertemplate="%{y}: %{x:.3g}<extra></extra>",
            )
        )
    values = np.concatenate([row["values"] for row in rows])
    room = 0.06 * max(float(np.nanmax(values) - np.nanmin(values)), 1e-9)
    fig.update_xaxes(title_text=label, range=[np.nanmin(values) - room, np.nanmax(values) + room])
    fig.update_yaxes(categoryorder="array", categoryarray=names, showgrid=True)
    return finish(
        fig,
        part,
        title=title or _selections_title(rows, random, objective),
        subtitle=subtitle,
        note="Grey band: where 95 % of the random draws lie. An interval over three seeds is wide, and may go on "
        "beyond the figure.",
        plot_height=max(160, 26 * len(rows)),
        legend_rows=1,
        left=24 + 8 * max(map(len, names)),
        min_width=640,
    )


def _selection_row(name: str, part: pd.DataFrame, measure: str) -> dict[str, Any]:
    drawn = (numbers(part, "draw") > 0).any()
    means = part.groupby("draw" if drawn else "seed")[measure].mean().to_numpy(float)
    row = {"selection": name, "values": means, "mean": float(means.mean()), "draws": len(means) if drawn else 0}
    interval = seed_interval(means) if len(means) > 1 else None
    return {**row, "low": interval.low if interval else row["mean"], "high": interval.high if interval else row["mean"]}


def _selections_title(rows: list[dict[str, Any]], random: list[dict[str, Any]], objective: str) -> str:
    if not random:
        return f"{objective}: {len(rows)} selections at matched forgetting"
    draws = max(random, key=lambda row: row["draws"])
    fixed = [row for row in rows if not row["draws"]]
    above = sum(row["mean"] > draws["values"].max() for row in fixed)
    below = sum(row["mean"] < draws["values"].min() for row in fixed)
    beyond = (
        f"{above} of {count(len(fixed), 'selection')} above and {below} below all"
        if above or below
        else f"none of {count(len(fixed), 'selection')} outside the"
    )
    return f"{objective}: {beyond} {draws['draws']} draws of {draws['selection']}"
