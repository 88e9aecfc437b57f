"""Edits against each other, and what one edit did beside its purpose."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain, short
from mastlens.plots.honest import honest
from mastlens.plots.pareto import FRONT_NOTE, front_line, pareto_front
from mastlens.plots.tables import distinct, layout_of, need, need_unique, numbers, records, rows_with, take
from mastlens.plots.template import BLUE, MUTED
from mastlens.plots.tradeoff import FORGOTTEN, arm_colour, arm_point, points_lost

_SIDES = [f"{side}_{part}" for side in ("forget", "retain") for part in ("difference", "low", "high")]
_EXTRA = (
    *(f"{side}_{part}" for side in ("forget", "retain") for part in ("n", "b", "c", "newcombe_low", "newcombe_high")),
    *(f"{side}_holm_p" for side in ("forget", "retain")),
    *(f"{measure}{end}" for measure in ("kl", "perplexity_ratio") for end in ("", "_low", "_high")),
    *("after_attack", "after_attack_difference", "after_attack_low", "after_attack_high"),
)
_UNITS = {"kl": " nats per token", "perplexity_ratio": " times the source's perplexity"}
_UNCHANGED = {"retain": 0.0, "perplexity_ratio": 1.0}
_PANELS = {
    "retain": "accuracy lost on retain<br>(percentage points)",
    "kl": "KL(source || edited) on retain<br>(nats per token)",
    "perplexity_ratio": "perplexity on neutral text<br>(edited / source)",
}


@honest
def plot_edits(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw what each edit forgot against every collateral that the table has, a panel each, intervals both ways.

    Args:
        table: One row an edit, as ``compare_edits`` makes it. Panels for ``kl`` and ``perplexity_ratio`` are drawn
            where any edit has them; where an attack was run, an open mark shows how much stays forgotten after it.
        title: The point in plain words; by default how many edits forgot and how many of them cost accuracy.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, ["arm", *_SIDES], figure="plot_edits", writer="mastlens compare-edits")
    drawn = take(table, ["arm", *_SIDES, *(column for column in _EXTRA if column in table)])
    need_unique(drawn, ["arm"], figure="plot_edits")
    forgotten = points_lost(drawn, "forget")
    heights = {"retain": points_lost(drawn, "retain")}
    for measure in ("kl", "perplexity_ratio"):
        if measure in drawn and not np.isnan(numbers(drawn, measure)).all():
            heights[measure] = np.stack([numbers(drawn, f"{measure}{end}") for end in ("", "_low", "_high")], axis=1)
    fig = make_subplots(1, len(heights), horizontal_spacing=0.11)
    left = _after_attack(drawn)
    drawn["on_front"] = pareto_front(forgotten[:, 0], heights["retain"][:, 0])
    fronts = [int(pareto_front(forgotten[:, 0], y[:, 0]).sum()) > 1 for y in heights.values()]
    for col, (measure, y) in enumerate(heights.items(), start=1):
        if fronts[col - 1]:
            fig.add_trace(front_line(forgotten[:, 0], y[:, 0], legend=fronts.index(True) == col - 1), row=1, col=col)
        for number, row in enumerate(records(drawn)):
            if np.isnan(y[number, 0]):
                continue
            if not np.isnan(left[number, 0]):
                fig.add_trace(_attacked(number, row, forgotten[number], left[number], y[number, 0]), row=1, col=col)
            hover = _hover(row, forgotten[number], measure, y[number])
            point = arm_point(number, str(row["arm"]), forgotten[number], y[number], hover, legend=col == 1)
            fig.add_trace(point, row=1, col=col)
        # Lines after points: plotly leaves them out of a panel that is still empty.
        _no_change(fig, "x", 0.0, row=1, col=col)
        if measure in _UNCHANGED:
            _no_change(fig, "y", _UNCHANGED[measure], row=1, col=col)
        fig.update_xaxes(title_text=FORGOTTEN.replace(" (", "<br>("), zeroline=False, row=1, col=col)
        fig.update_yaxes(title_text=_PANELS[measure], zeroline=False, row=1, col=col)
        known = y[~np.isnan(y)]
        if measure == "kl" and bool((known > 0).all()):
            wide = bool(known.max() > 100 * known.min())
            fig.update_yaxes(type="log", dtick=1 if wide else "D2", tickformat="~g", row=1, col=col)
    attacked = not np.isnan(left[:, 0]).all()
    if attacked:
        line = {"color": MUTED, "width": 1.5, "dash": "dot"}
        marker = {"symbol": "circle-open", "size": 11, "color": MUTED}
        name = "after the strongest attack"
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="lines+markers", line=line, marker=marker, name=name))
    return finish(
        fig,
        drawn,
        title=title or _edits_title(drawn),
        subtitle=subtitle,
        note="Further right is more forgotten, further down costs less. Bars: 95% intervals over the same items before "
        "and after; an edit forgot, or lost, where its interval leaves out 0."
        + (" Open marks: what stays forgotten after the strongest attack, with its interval." if attacked else "")
        + (f" {FRONT_NOTE}" if any(fronts) else ""),
        plot_height=380,
        legend_rows=1,
        left=84,
        bottom=76,
        min_width=140 + 300 * len(heights),
    )


def _no_change(fig: go.Figure, axis: str, value: float, *, row: int, col: int) -> None:
    """Draw the line of no change across a panel."""
    line: dict[str, Any] = {"line": {"color": MUTED, "width": 1.2}, "row": row, "col": col}
    if axis == "x":
        fig.add_vline(x=value, **line)
    else:
        fig.add_hline(y=value, **line)


def _after_attack(drawn: pd.DataFrame) -> np.ndarray:
    """Return points still lost after the strongest attack (rows, 3), NaN where there was none."""
    if "after_attack_difference" not in drawn:
        return np.full((len(drawn), 3), np.nan)
    return points_lost(drawn, "after_attack")


def _attacked(number: int, row: dict[str, Any], x: np.ndarray, left: np.ndarray, y: float) -> go.Scatter:
    colour = arm_colour(number)
    hover = (
        f"<b>{plain(row['arm'])}</b><br>after {plain(row['after_attack'])}<br>"
        f"still forgotten: {left[0]:.1f} points [{left[1]:.1f}, {left[2]:.1f}]<extra></extra>"
    )
    return go.Scatter(
        x=[x[0], left[0]],
        y=[y, y],
        mode="lines+markers",
        line={"color": colour, "width": 1.5, "dash": "dot"},
        marker={"size": [0.1, 11], "symbol": "circle-open", "color": colour},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [0, left[2] - left[0]],
            "arrayminus": [0, left[0] - left[1]],
            "thickness": 1,
            "width": 3,
        },
        legendgroup=str(number),
        showlegend=False,
        hovertemplate=hover,
    )


def _hover(row: dict[str, Any], x: np.ndarray, measure: str, y: np.ndarray) -> str:
    lines = [_side_hover(row, "forget", "forgotten", x)]
    if measure == "retain":
        lines.append(_side_hover(row, "retain", "collateral", y))
    else:
        value, low, high = (short(float(part)) for part in y)
        lines.append(f"{value}{_UNITS[measure]} [{low}, {high}]")
    return "<br>".join(lines)


def _side_hover(row: dict[str, Any], side: str, word: str, ends: np.ndarray) -> str:
    text = f"{word}: {ends[0]:.1f} points [{ends[1]:.1f}, {ends[2]:.1f}]"
    if f"{side}_newcombe_low" in row and row[f"{side}_newcombe_low"] == row[f"{side}_newcombe_low"]:
        low, high = (-100 * float(row[f"{side}_newcombe_{end}"]) for end in ("high", "low"))
        text += f"<br>   Newcombe [{low:.1f}, {high:.1f}]"
    if f"{side}_b" in row:
        text += f"<br>   {row[f'{side}_b']} lost, {row[f'{side}_c']} gained of {row[f'{side}_n']}"
    if f"{side}_holm_p" in row:
        text += f", Holm p = {row[f'{side}_holm_p']:.2g}"
    return text


def _edits_title(drawn: pd.DataFrame) -> str:
    forgot = numbers(drawn, "forget_high") < 0
    cost = forgot & (numbers(drawn, "retain_high") < 0)
    if not forgot.any():
        return f"None of {count(len(drawn), 'edit')} forgot beyond its interval"
    return f"{int(forgot.sum())} of {count(len(drawn), 'edit')} forgot; {int(cost.sum())} of these also lost on retain"


_FAULTS = {"repetition": "repeated 4-grams", "wrong": "wrong answer"}
_ROWS = {
    "kl": ("KL(source || edited), nats per token", 1.0, 0.0),
    "perplexity": ("perplexity, edited / source", 1.0, 1.0),
    "faults": ("responses: change in percentage points", 100.0, 0.0),
}


@honest
def plot_collateral(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw divergence, perplexity and what became of the responses, each with its interval and its point of no change.

    Args:
        table: One row a measure and split, as ``measure_collateral`` makes it; ``same_top`` is not drawn.
        title: The point in plain words; by default the divergence of every split.
        subtitle: Model, revision, dtype, seed.
    """
    columns = ["measure", "split", "items", "before", "after", "value", "ci_low", "ci_high", "unit"]
    need(table, columns, figure="plot_collateral", writer="mastlens measure-collateral")
    drawn = take(table, columns)
    need_unique(drawn, ["measure", "split"], figure="plot_collateral")
    panels: dict[str, list[dict[str, Any]]] = {}
    for row in records(drawn):
        if row["measure"] != "same_top":
            panels.setdefault(row["measure"] if row["measure"] in _ROWS else "faults", []).append(row)
    heights = [len(rows) for rows in panels.values()]
    each, gap = 26, 78
    height = each * sum(heights) + gap * (len(heights) - 1)
    fig = make_subplots(len(panels), 1, row_heights=heights, vertical_spacing=gap / height if len(heights) > 1 else 0)
    for place, (panel, rows) in enumerate(panels.items(), start=1):
        name, scale, level = _ROWS[panel]
        fig.add_trace(_forest(rows, scale), row=place, col=1)
        _no_change(fig, "x", level, row=place, col=1)
        labels = [plain(_label(row, panel)) for row in rows]
        ends = [level, *(scale * float(row[end]) for row in rows for end in ("ci_low", "ci_high"))]
        room = 0.05 * (max(ends) - min(ends)) or 1.0
        fig.update_xaxes(title_text=name, zeroline=False, range=[min(ends) - room, max(ends) + room], row=place, col=1)
        fig.update_yaxes(
            tickvals=list(range(len(rows))),
            ticktext=labels,
            range=[len(rows) - 0.4, -0.6],
            showgrid=False,
            zeroline=False,
            row=place,
            col=1,
        )
    longest = max(len(_label(row, panel)) for panel, rows in panels.items() for row in rows)
    found = rows_with(drawn, "measure", "kl")
    values = zip(distinct(found, "split"), numbers(found, "value"), numbers(found, "ci_low"), strict=True)
    said = ", ".join(
        f"{short(float(value), 2)} nats a token on {split}{', which can be none' if low <= 0 else ''}"
        for split, value, low in values
    )
    done = finish(
        fig,
        drawn,
        title=title or f"What the edit did beside its purpose: KL of {said}",
        subtitle=subtitle,
        note="Bars: 95% intervals over items. Grey lines: no change. Responses are classed apart: a wrong answer, no "
        "answer in a finished response, and a response that was cut off.",
        plot_height=height,
        left=min(280, 24 + 7 * longest),
        min_width=560,
    )
    layout_of(done).showlegend = False
    return done


def _label(row: dict[str, Any], panel: str) -> str:
    if panel != "faults":
        return str(row["split"])
    return f"{_FAULTS.get(row['measure'], row['measure'])}, {row['split']}"


def _forest(rows: list[dict[str, Any]], scale: float) -> go.Scatter:
    ends = scale * np.array([[float(row[c]) for c in ("value", "ci_low", "ci_high")] for row in rows])
    hover = []
    for row, (value, low, high) in zip(rows, ends, strict=True):
        text = f"<b>{plain(row['measure'])}, {plain(row['split'])}</b><br>{short(value)} [{short(low)}, {short(high)}]"
        if row["before"] == row["before"]:
            text += f"<br>{short(float(row['before']))} before, {short(float(row['after']))} after"
        hover.append(f"{text}<br>{plain(row['unit'])}, {row['items']} items")
    return go.Scatter(
        x=ends[:, 0],
        y=list(range(len(rows))),
        mode="markers",
        marker={"size": 10, "color": BLUE},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": ends[:, 2] - ends[:, 0],
            "arrayminus": ends[:, 0] - ends[:, 1],
            "thickness": 1.8,
            "width": 4,
            "color": MUTED,
        },
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
