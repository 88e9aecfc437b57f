"""The unlearning curve: what the edit did to the losses and the probes, step by step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain, short
from mastlens.plots.heat import log_range
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, every_few, need, numbers, ordered, rows_with, take, where
from mastlens.plots.template import BLUE, COLOURWAY, GREEN, MUTED, PURPLE, VERMILLION

_FIXED = ("step", "forget_loss", "retain_loss", "grad_norm")
_LABELS = {
    "logprob": "log-probability (nats)",
    "probe_logprob": "probe: log-probability (nats)",
    "probe_kl": "probe: KL to the source (nats)",
    "probe_repetition": "probe: repeated 4-grams (share)",
}
_MOST = 5000  # points of a line
_FROM_ZERO = ("probe_kl", "probe_repetition")  # cannot be negative: the axis begins at what means no change
_COLOURS = {"forget": VERMILLION, "retain": BLUE}


@dataclass(frozen=True)
class _Panel:
    label: str
    columns: tuple[str, ...]


def _panels(steps: pd.DataFrame) -> list[_Panel]:
    """Return the panels from top to bottom: losses, then probes by kind, then the gradient norm."""
    panels = [_Panel("loss (in the objective's unit)", ("forget_loss", "retain_loss"))]
    probes = [
        str(column)
        for column in steps.columns
        if column not in (*_FIXED, "arm")
        and str(column).startswith(("forget_", "retain_"))
        and pd.api.types.is_numeric_dtype(steps[column])
    ]
    for kind in dict.fromkeys(column.split("_", 1)[1] for column in probes):
        same = tuple(column for column in probes if column.split("_", 1)[1] == kind)
        panels.append(_Panel(_LABELS.get(kind, kind.replace("_", " ")), same))
    panels.append(_Panel("gradient norm, before clipping", ("grad_norm",)))
    used = []
    for panel in panels:
        columns = tuple(name for name in panel.columns if np.isfinite(numbers(steps, name)).any())
        if columns:
            used.append(_Panel(panel.label, columns))
    return used


@honest
def plot_unlearning_curve(
    steps: pd.DataFrame, *, clip: float | None = 1.0, title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw losses, probes and gradient norm over the unlearning steps.

    Args:
        steps: ``steps.parquet``. Numeric columns that begin with ``forget_`` or ``retain_`` are probes and
            get panels of their own; a column ``arm`` overlays several runs. Columns without any value are
            left out.
        clip: The gradient norm at which the optimiser clips, drawn as a line; None draws none.
        title: The point in plain words; by default how far the losses moved.
        subtitle: Model, revision, dtype, seed.
    """
    need(steps, _FIXED, figure="plot_unlearning_curve", writer="mastlens unlearn")
    panels = _panels(steps)
    kept = dict.fromkeys(("step", *(column for panel in panels for column in panel.columns)))
    several = "arm" in steps.columns
    drawn = take(steps, [*(["arm"] if several else []), *kept])
    arms = distinct(drawn, "arm") if several else [""]
    heights = [230 if "loss" in panel.label else 150 for panel in panels]
    gap = 22
    total = sum(heights) + gap * (len(panels) - 1)
    fig = make_subplots(
        max(1, len(panels)),
        1,
        shared_xaxes=True,
        vertical_spacing=gap / total if len(panels) > 1 else 0,
        row_heights=heights or None,
    )
    for row, panel in enumerate(panels, start=1):
        for column in panel.columns:
            for number, arm in enumerate(arms):
                part = rows_with(drawn, "arm", arm) if several else drawn
                _add_curve(fig, part, column, arm=arm, number=number, several=several, row=row)
        if "grad_norm" in panel.columns:
            if log_range(numbers(drawn, "grad_norm")):
                fig.update_yaxes(type="log", tickformat="~g", row=row, col=1)
            if clip is not None:
                add_line: Any = fig.add_hline  # its row and col are annotated as text, but numbers are what it takes
                add_line(y=clip, line={"color": MUTED, "width": 1.2, "dash": "dash"}, row=row, col=1)
        if any(column.endswith(_FROM_ZERO) for column in panel.columns):
            top = max(float(np.nanmax(numbers(drawn, column), initial=0.0)) for column in panel.columns)
            fig.update_yaxes(range=[-0.04 * (top or 1.0), 1.08 * (top or 1.0)], row=row, col=1)
        label = panel.label.replace(" (", "<br>(").replace(", ", ",<br>")
        fig.update_yaxes(title_text=label, title_font_size=12, zeroline=False, row=row, col=1)
    fig.update_xaxes(title_text="unlearning step", row=max(1, len(panels)), col=1)
    fig.update_xaxes(showgrid=False)
    for number, arm in enumerate(arms if several else ()):
        _add_key(fig, plain(arm), COLOURWAY[number % len(COLOURWAY)], "solid")
    sides = {column.split("_")[0] for panel in panels for column in panel.columns} & set(_COLOURS)
    for side in sorted(sides):
        _add_key(fig, side, MUTED if several else _COLOURS[side], _dash(side, several=several))
    clipped = clip is not None and any("grad_norm" in panel.columns for panel in panels)
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, arms, several=several),
        subtitle=subtitle,
        note=" ".join(
            [f"Dashed line: gradients above {clip:g} are clipped to it."] * clipped
            + [f"Of each line every {every_few(len(drawn), _MOST)}th value is drawn."] * (len(drawn) > _MOST)
        ),
        plot_height=total,
        legend_rows=1,
        left=84,
        min_width=380,
    )


def _dash(side: str, *, several: bool) -> str:
    return "dot" if several and side == "retain" else "solid"


def _add_curve(
    fig: go.Figure, part: pd.DataFrame, column: str, *, arm: str, number: int, several: bool, row: int
) -> None:
    side = column.split("_")[0]
    alone = _COLOURS.get(side, GREEN if side == "grad" else PURPLE)
    colour = COLOURWAY[number % len(COLOURWAY)] if several else alone
    known = where(part, np.isfinite(numbers(part, column)))
    known = known.iloc[:: every_few(len(known), _MOST)]
    who = f"<b>{plain(arm)}</b><br>" if several else ""
    fig.add_trace(
        go.Scatter(
            x=numbers(known, "step"),
            y=numbers(known, column),
            # A probe taken every few steps is drawn with its points, so that nobody reads a line as data.
            mode="lines+markers" if len(known) < max(12, len(part) // 2) else "lines",
            marker={"size": 6},
            line={"color": colour, "width": 2, "dash": _dash(side, several=several)},
            name=f"{plain(arm)} {column}".strip(),
            showlegend=False,
            hovertemplate=f"{who}step %{{x}}<br>{column.replace('_', ' ')}: %{{y:.4g}}<extra></extra>",
        ),
        row=row,
        col=1,
    )


def _add_key(fig: go.Figure, name: str, colour: str, dash: str) -> None:
    line = {"color": colour, "width": 2.5, "dash": dash}
    fig.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=name, line=line), row=1, col=1)


def _title(drawn: pd.DataFrame, arms: list[str], *, several: bool) -> str:
    steps = len(distinct(drawn, "step"))
    if several:
        return f"What {count(len(arms), 'run')} did to the losses in {count(steps, 'step')}"
    parts = []
    for side in ("forget", "retain"):
        column = f"{side}_loss"
        values = numbers(ordered(drawn, "step"), column) if column in drawn.columns else np.empty(0)
        values = values[np.isfinite(values)]
        if values.size:
            parts.append(f"the {side} loss from {short(values[0])} to {short(values[-1])}")
    if not parts:
        return f"{count(steps, 'unlearning step')} without a recorded loss"
    return f"{count(steps, 'step')} took {' and '.join(parts)}"
