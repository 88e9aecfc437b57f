"""Any measures of any models, each with its interval: one panel a measure, one row a model."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain, short
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, need_unique, records, rows_with, take
from mastlens.plots.template import BLUE, INK, MUTED

_COLUMNS = ("arm", "measure", "value", "ci_low", "ci_high")
_PER_ROW, _LABEL = 3, 30  # panels a row, characters of a label's line
_FAR = 6  # times as far from no change as the next one: drawn at the edge, so that the others can be told apart


@honest
def plot_measures(
    table: pd.DataFrame,
    *,
    nulls: dict[str, float] | None = None,
    reference: str | None = None,
    title: str | None = None,
    subtitle: str = "",
    note: str = "Bars: 95 % intervals.",
) -> Figure:
    """Draw several measures of several models side by side, a panel a measure: what a table of a paper holds.

    Args:
        table: One row an ``arm`` and ``measure`` (its name with its unit), with ``value``, ``ci_low`` and ``ci_high``
            (NaN where there is no interval); ``n`` is shown where it is there.
        nulls: Measure to the value that means nothing happened, drawn as a line.
        reference: The arm that looks different: what the others are held against.
        title: The point in plain words; by default what is compared.
        subtitle: Model, revision, dtype, seed.
        note: How to read it.
    """
    need(table, _COLUMNS, figure="plot_measures", writer="a table of measures")
    drawn = take(table, [*_COLUMNS, *(["n"] if "n" in table.columns else [])])
    need_unique(drawn, ["arm", "measure"], figure="plot_measures")
    arms, measures = distinct(drawn, "arm"), distinct(drawn, "measure")
    across = 2 if len(measures) == 4 else min(_PER_ROW, len(measures))
    down = -(-len(measures) // across)
    each, gap = max(120, 30 * len(arms) + 20), 96
    height = each * down + gap * (down - 1)
    fig = make_subplots(
        down,
        across,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=gap / height if down > 1 else 0,
    )
    for i, measure in enumerate(measures):
        place: dict[str, Any] = {"row": i // across + 1, "col": i % across + 1}
        rows = {str(row["arm"]): row for row in records(rows_with(drawn, "measure", measure))}
        shown = [(k, rows[arm]) for k, arm in enumerate(arms) if arm in rows]
        low, high = _range(shown, (nulls or {}).get(measure))
        fig.add_trace(_points(shown, low, high, reference), **place)
        fig.update_xaxes(range=[low, high], **place)
        if nulls and measure in nulls:
            fig.add_vline(x=nulls[measure], line={"color": MUTED, "width": 1.2}, **place)
        what, bracket, unit = measure.partition(" (")
        lines = [*textwrap.wrap(what, _LABEL), *([f"({unit}"] if bracket else [])]
        label = "<br>".join(map(plain, lines))
        fig.update_xaxes(title_text=label, zeroline=False, nticks=5, **place)
    fig.update_yaxes(
        range=[len(arms) - 0.4, -0.6],
        tickvals=list(range(len(arms))),
        ticktext=[plain(arm) for arm in arms],
        showgrid=False,
        zeroline=False,
    )
    longest = max(map(len, arms))
    return finish(
        fig,
        drawn,
        title=title or f"{count(len(measures), 'measure')} of {count(len(arms), 'model')}",
        subtitle=subtitle,
        note=note,
        plot_height=height,
        left=min(280, 24 + 7 * longest),
        bottom=88,
        min_width=min(280, 24 + 7 * longest) + 190 * across,
    )


def _ends(rows: list[tuple[int, dict[str, Any]]]) -> np.ndarray:
    """Return low end, value and high end (rows, 3); where there is no interval, the value itself."""
    ends = np.array([[float(row[c]) for c in ("ci_low", "value", "ci_high")] for _, row in rows]).reshape(-1, 3)
    return np.where(np.isnan(ends), ends[:, 1:2], ends)


def _range(rows: list[tuple[int, dict[str, Any]]], null: float | None) -> tuple[float, float]:
    """Return the range of an axis; one value far from all others is left out of it, and drawn at its edge."""
    ends, centre = _ends(rows), 0.0 if null is None else null
    distance = np.abs(ends[:, 1] - centre)
    order = np.argsort(distance)
    kept = ends
    if len(ends) > 3 and distance[order[-1]] > _FAR * distance[order[-2]] > 0:
        kept = ends[order[:-1]]
    values = np.append(kept[np.isfinite(kept)], [] if null is None else [null])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    room = 0.08 * (high - low) or abs(high) or 1.0
    return low - room, high + room


def _points(rows: list[tuple[int, dict[str, Any]]], low: float, high: float, reference: str | None) -> go.Scatter:
    ends = _ends(rows)
    hover, symbols, texts = [], [], []
    for (_, row), (start, value, end) in zip(rows, ends, strict=True):
        text = f"<b>{plain(row['arm'])}</b><br>{plain(row['measure'])}: {short(value, 4)}"
        text += f" [{short(start)}, {short(end)}]" if end > start else ""
        hover.append(text + (f"<br>n = {row['n']:,}" if "n" in row and not pd.isna(row["n"]) else ""))
        beyond = "triangle-left" if value < low else "triangle-right" if value > high else ""
        symbols.append(beyond or ("diamond" if row["arm"] == reference else "circle"))
        texts.append(f"{short(value)}" if beyond else "")
    inside = np.clip(ends, low, high)
    return go.Scatter(
        x=inside[:, 1],
        y=[place for place, _ in rows],
        mode="markers+text",
        text=texts,
        textposition=["middle right" if symbol == "triangle-left" else "middle left" for symbol in symbols],
        textfont={"size": 11, "color": MUTED},
        cliponaxis=False,
        marker={
            "size": 10,
            "color": [INK if row["arm"] == reference else BLUE for _, row in rows],
            "symbol": symbols,
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": inside[:, 2] - inside[:, 1],
            "arrayminus": inside[:, 1] - inside[:, 0],
            "thickness": 1.8,
            "width": 4,
            "color": MUTED,
        },
        showlegend=False,
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )


@honest
def plot_reasoning(measures: pd.DataFrame, *, subtitle: str = "") -> Figure:
    """Draw R2MU's table: what each method leaves in answers and traces, and of what should stay.

    Args:
        measures: ``ReasoningTable.measures``, or ``r2mu.csv`` that ``mastlens reasoning-table`` writes.
        subtitle: Model, revision, dtype, seed.
    """
    return plot_measures(
        measures,
        reference="original",
        title="What is left in answers and traces (lower is better), and of what should stay",
        subtitle=subtitle,
        note="Bars: 95 % t-intervals over seeds; of models that were not edited, Wilson's over the items.",
    )
