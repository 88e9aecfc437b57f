"""Accuracy of several models by split."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import colour_with, count, extremes, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, need_unique, records, rows_with, take
from mastlens.plots.template import COLOURWAY, GREEN, INK, MUTED, PURPLE

_ACCURACY = ("arm", "split", "n", "accuracy", "ci_low", "ci_high")
_REFERENCE_COLOURS = (GREEN, PURPLE)


@honest
def plot_accuracy(
    summary: pd.DataFrame,
    *,
    references: tuple[str, ...] = ("rlvr-retain", "sft"),
    title: str | None = None,
    subtitle: str = "",
) -> Figure:
    """Draw the accuracy of every arm on every split with its interval, and reference models as lines.

    Args:
        summary: One row per arm and split; accuracy and its interval as fractions. The first arm that is not
            a reference is the model before the edit.
        references: Arms to draw as vertical lines with their interval as a band, where the table has them.
        title: The point in plain words; with two arms by default how each split changed.
        subtitle: Model, revision, dtype, seed.
    """
    need(summary, _ACCURACY, figure="plot_accuracy", writer="mastlens evaluate (accuracy.json)")
    drawn = take(summary, _ACCURACY)
    need_unique(drawn, ["arm", "split"], figure="plot_accuracy")
    splits = distinct(drawn, "split")
    every = distinct(drawn, "arm")
    lines = [arm for arm in references if arm in every]
    arms = [arm for arm in every if arm not in lines]
    parts = {split: rows_with(drawn, "split", split) for split in splits}
    fig = make_subplots(
        1,
        len(splits),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"{plain(name)} (n = {', '.join(distinct(part, 'n'))})" for name, part in parts.items()],
    )
    for col, part in enumerate(parts.values(), start=1):
        rows = {str(row["arm"]): row for row in records(part)}
        for number, arm in enumerate(lines):
            if arm in rows:
                _add_reference(fig, rows[arm], number, len(arms), col)
        shown = [(place, rows[arm]) for place, arm in enumerate(arms) if arm in rows]
        fig.add_trace(_accuracy_points(shown), row=1, col=col)
        fig.update_xaxes(range=[-2, 102], dtick=50, title_text="accuracy (%)", zeroline=False, row=1, col=col)
    fig.update_yaxes(
        range=[len(arms) - 0.4, -0.6],
        tickvals=list(range(len(arms))),
        showgrid=False,
        zeroline=False,
    )
    fig.update_yaxes(ticktext=[plain(arm) for arm in arms], row=1, col=1)
    for number, arm in enumerate(lines):
        line = {"color": _REFERENCE_COLOURS[number % 2], "width": 2, "dash": "dash"}
        key = go.Scatter(x=[None], y=[None], mode="lines", line=line, name=f"{plain(arm)} (reference)")
        fig.add_trace(key, row=1, col=1)
    longest = max((len(arm) for arm in arms), default=4)
    return finish(
        fig,
        drawn,
        title=title or _accuracy_title(drawn, arms, splits),
        subtitle=subtitle,
        note="Bars and bands: the Wilson interval of each model alone. Whether two models differ is a paired "
        "question: see the items lost and gained.",
        plot_height=max(150, 40 * len(arms) + 20),
        legend_rows=int(bool(lines)),
        panel_titles=True,
        left=min(260, 24 + 7 * longest),
        min_width=180 + 200 * len(splits),
    )


def _accuracy_points(shown: list[tuple[int, dict[str, Any]]]) -> go.Scatter:
    """Return one point an arm with its interval; the first arm, the model before the edit, looks different."""
    ends = np.array([[100 * float(row[c]) for c in ("ci_low", "accuracy", "ci_high")] for _, row in shown])
    ends = ends.reshape(-1, 3)
    hover = [
        f"<b>{plain(row['arm'])}</b><br>{plain(row['split'])}: {middle:.1f}% of {row['n']}<br>"
        f"interval {low:.1f}% to {high:.1f}%"
        for (_, row), (low, middle, high) in zip(shown, ends, strict=True)
    ]
    return go.Scatter(
        x=ends[:, 1],
        y=[place for place, _ in shown],
        mode="markers",
        marker={
            "size": 10,
            "color": [INK if place == 0 else COLOURWAY[0] for place, _ in shown],
            "symbol": ["diamond" if place == 0 else "circle" for place, _ in shown],
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": ends[:, 2] - ends[:, 1],
            "arrayminus": ends[:, 1] - ends[:, 0],
            "thickness": 1.8,
            "width": 4,
            "color": MUTED,
        },
        showlegend=False,
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _add_reference(fig: go.Figure, row: dict[str, Any], number: int, arms: int, col: int) -> None:
    colour = _REFERENCE_COLOURS[number % 2]
    low, middle, high = (100 * float(row[column]) for column in ("ci_low", "accuracy", "ci_high"))
    ends = [-0.6, arms - 0.4]
    hover = f"<b>{plain(row['arm'])}</b> (reference)<br>{middle:.1f}% of {row['n']}<br>{low:.1f}% to {high:.1f}%"
    band = {"x": [low, high, high, low], "y": [ends[0], ends[0], ends[1], ends[1]], "mode": "lines"}
    fill = {"fill": "toself", "fillcolor": colour_with(colour, 0.13), "line": {"width": 0}}
    fig.add_trace(go.Scatter(**band, **fill, hoverinfo="skip", showlegend=False), row=1, col=col)
    # Several points along the line, so that the pointer finds it anywhere.
    heights = np.linspace(ends[0], ends[1], 25)
    fig.add_trace(
        go.Scatter(
            x=[middle] * len(heights),
            y=heights,
            mode="lines",
            line={"color": colour, "width": 2, "dash": "dash"},
            showlegend=False,
            hovertemplate=f"{hover}<extra></extra>",
        ),
        row=1,
        col=col,
    )


def _accuracy_title(drawn: pd.DataFrame, arms: list[str], splits: list[str]) -> str:
    changes = []
    accuracy = {(str(row["arm"]), str(row["split"])): 100 * float(row["accuracy"]) for row in records(drawn)}
    if len(arms) != 2:
        said = [extremes({arm: accuracy[arm, split] for arm in arms if (arm, split) in accuracy}) for split in splits]
        found = ", ".join(f"{split} {ends}" for split, ends in zip(splits, said, strict=True) if ends)
        return f"Accuracy of {count(len(arms), 'model')}: {found}"
    for split in splits:
        before, after = (accuracy.get((arm, split)) for arm in arms)
        if before is not None and after is not None:
            changes.append(f"{split} {before:.0f} → {after:.0f}%")
    return f"Before and after the edit: {', '.join(changes)}"
