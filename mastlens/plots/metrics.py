"""The field's metrics of one model, or before and after, each beside what chance gives."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain, short
from mastlens.plots.tables import need, records, take
from mastlens.plots.template import BLUE, GREY, INK, MUTED, VERMILLION

_ONE = ("metric", "split", "aggregate", "n", "value", "ci_low", "ci_high", "null")
_TWO = (
    "metric",
    "split",
    "aggregate",
    "n",
    "before",
    "after",
    "reference",
    "null",
    "difference",
    "ci_low",
    "ci_high",
    "p",
)
_SHARES = (-0.02, 1.02)


def plot_metrics(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw every aggregate between 0 and 1 with its interval, and what chance gives as a bar across it.

    Args:
        table: ``metrics_summary.parquet``; aggregates beyond 0 and 1 (percentages, logarithms) are in the hover text of
            none of its points: they are read off the table.
        title: The point in plain words; by default how many aggregates there are.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, _ONE, figure="plot_metrics", writer="mastlens evaluate --metrics")
    rows = [row for row in records(take(table, _ONE)) if 0 <= row["value"] <= 1]
    fig = go.Figure()
    for name, colour, symbol, keys in (
        ("value, 95 % interval", INK, "circle", ("value", "ci_low", "ci_high")),
        ("chance", GREY, "line-ns", ("null", "", "")),
    ):
        fig.add_trace(_points(rows, name, colour, symbol, keys))
    said = f"{count(len(rows), 'aggregate')} of {count(len({row['metric'] for row in rows}), 'metric')}, beside chance"
    return _finished(fig, rows, table, title or said, subtitle)


def plot_metric_changes(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw every aggregate between 0 and 1 before, after and under a reference model.

    Args:
        table: ``MetricComparison.table``.
        title: The point in plain words; by default how many aggregates changed.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, _TWO, figure="plot_metric_changes", writer="mastlens compare-metrics")
    rows = [row for row in records(take(table, _TWO)) if 0 <= row["before"] <= 1 and 0 <= row["after"] <= 1]
    fig = go.Figure()
    for name, colour, symbol in (
        ("before", INK, "diamond"),
        ("after", VERMILLION, "circle"),
        ("reference", BLUE, "square-open"),
        ("null", GREY, "line-ns"),
    ):
        fig.add_trace(_points(rows, "chance" if name == "null" else name, colour, symbol, (name, "", "")))
    changed = sum(row["p"] < 0.05 for row in rows)
    said = f"{changed} of {count(len(rows), 'aggregate')} changed at the 5 % level, each by itself"
    return _finished(fig, rows, table, title or said, subtitle)


def _label(row: dict[str, Any]) -> str:
    aggregate = "" if row["aggregate"] == "mean" else f" {row['aggregate']}"
    return plain(f"{row['metric']}{aggregate}, {row['split']}")


def _points(rows: list[dict[str, Any]], name: str, colour: str, symbol: str, keys: tuple[str, str, str]) -> go.Scatter:
    value, low, high = keys
    known = [(place, row) for place, row in enumerate(rows) if row[value] == row[value]]
    bars = None
    if low:
        bars = {
            "type": "data",
            "array": [row[high] - row[value] for _, row in known],
            "arrayminus": [row[value] - row[low] for _, row in known],
            "thickness": 1.5,
        }
    marker: dict[str, Any] = {"symbol": symbol, "size": 14 if symbol == "line-ns" else 9, "color": colour}
    marker |= {"line": {"width": 2, "color": colour}} if symbol.startswith("line") or symbol.endswith("open") else {}
    return go.Scatter(
        x=[row[value] for _, row in known],
        y=[place for place, _ in known],
        error_x=bars,
        mode="markers",
        name=name,
        marker=marker,
        text=[f"{_label(row)}<br>{name}: {short(row[value])}, n = {row['n']}" for _, row in known],
        hovertemplate="%{text}<extra></extra>",
    )


def _finished(fig: go.Figure, rows: list[dict[str, Any]], table: pd.DataFrame, title: str, subtitle: str) -> Figure:
    labels = [_label(row) for row in rows]
    fig.update_xaxes(range=_SHARES, title_text="value", zeroline=False)
    fig.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=labels,
        range=[len(rows) - 0.4, -0.6],
        showgrid=True,
        gridcolor=MUTED,
        zeroline=False,
    )
    return finish(
        fig,
        table,
        title=title,
        subtitle=subtitle,
        note="Aggregates between 0 and 1; all others are in the table. Which way is forgetting differs by metric.",
        plot_height=max(160, 26 * len(rows) + 40),
        legend_rows=1,
        left=min(420, 24 + 7 * max((len(label) for label in labels), default=4)),
        min_width=640,
    )
