"""Attacks on an edit: curves of relearning, accuracy by variant, and which quantised codes the edit changes."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.errors import NotFound
from mastlens.plots.figure import Figure
from mastlens.plots.frame import colour_with, count, finish, plain, short
from mastlens.plots.heat import CellGrid, add_map, color_bar, color_scale, hover_text, once_per_cell
from mastlens.plots.honest import honest
from mastlens.plots.tables import (
    distinct,
    flags,
    need,
    need_unique,
    numbers,
    ordered,
    records,
    rows_with,
    take,
    where,
    words,
)
from mastlens.plots.template import BLUE, GREY, INK, MUTED, VERMILLION

_WRITER = "mastlens attack"
_KEYS = ("variant", "model", "step", "split")
_VALUES = ("baseline", "n", "accuracy", "ci_low", "ci_high", "logprob_solution", "recovered", "recovered_low")
_VALUES = (*_VALUES, "recovered_high", "recovered_beyond_control")
_MODELS = {
    "source": (INK, "diamond", "source, before the edit"),
    "edited": (VERMILLION, "circle", "edited"),
    "control": (GREY, "square", "control"),
    "reference": (BLUE, "triangle-up", "reference, retrained without it"),
}
_DASHES = ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot")


@honest
def plot_relearning(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw accuracy and log-probability over the steps of relearning: edited model, source and control.

    Args:
        table: ``attack.parquet`` of a ``relearn-`` attack; several variants differ by their dashes.
        title: The point in plain words; by default what the edited model came to.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, (*_KEYS, *_VALUES), figure="plot_relearning", writer=_WRITER)
    drawn = ordered(take(table, (*_KEYS, *_VALUES)), "split", "variant", "model", "step")
    need_unique(drawn, list(_KEYS), figure="plot_relearning")
    splits = distinct(take(table, _KEYS), "split")
    variants = distinct(drawn, "variant")
    heights = (300, 170)
    fig = make_subplots(
        2,
        len(splits),
        shared_xaxes=True,
        shared_yaxes=True,
        row_heights=heights,
        vertical_spacing=0.05,
        horizontal_spacing=0.04,
        subplot_titles=[_panel_title(rows_with(drawn, "split", split), split) for split in splits],
    )
    for col, split in enumerate(splits, start=1):
        for role in [role for role in _MODELS if role in distinct(drawn, "model")]:
            for variant in variants:
                part = rows_with(rows_with(rows_with(drawn, "split", split), "model", role), "variant", variant)
                if len(part):
                    _add_curve(fig, part, role, _DASHES[variants.index(variant) % len(_DASHES)], col)
    for role in [role for role in _MODELS if role in distinct(drawn, "model")]:
        colour, symbol, name = _MODELS[role]
        key = {"mode": "lines+markers", "marker": {"symbol": symbol, "size": 8}, "line": {"color": colour, "width": 2}}
        fig.add_trace(go.Scatter(x=[None], y=[None], name=name, **key), row=1, col=1)
    for number, variant in enumerate(variants if len(variants) > 1 else ()):
        line = {"color": MUTED, "width": 2, "dash": _DASHES[number % len(_DASHES)]}
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=plain(variant), line=line), row=1, col=1)
    steps = sorted({int(step) for step in numbers(drawn, "step")})
    shown = [step for step in steps if step == 0 or step & (step - 1) == 0 or step == steps[-1]]
    fig.update_xaxes(tickvals=[_place(step) for step in shown], ticktext=[str(s) for s in shown], showgrid=False)
    fig.update_xaxes(title_text="step of relearning", row=2)
    fig.update_xaxes(zeroline=False)
    fig.update_yaxes(range=_padded(numbers(drawn, "logprob_solution")), zeroline=False, row=2)
    fig.update_yaxes(range=[-3, 103], dtick=25, zeroline=False, row=1)
    fig.update_yaxes(title_text="accuracy (%)", row=1, col=1)
    fig.update_yaxes(title_text="log p(solution)<br>(nats a token)", title_font_size=12, row=2, col=1)
    return finish(
        fig,
        drawn,
        title=title or _relearning_title(drawn, splits[0]),
        subtitle=subtitle,
        note="Bands: the Wilson interval of each model alone. What the control gains, the attack teaches; steps are "
        "spaced by their logarithm.",
        plot_height=sum(heights),
        legend_rows=1,
        panel_titles=True,
        left=96,
        min_width=160 + 300 * len(splits),
    )


def _place(step: float | int) -> float:
    return float(np.log2(1 + step))


def _padded(values: np.ndarray) -> list[float]:
    low, high = float(values.min()), float(values.max())
    room = 0.08 * (high - low) or 0.1
    return [low - room, high + room]


def _panel_title(part: pd.DataFrame, split: str) -> str:
    return f"{plain(split)} (n = {', '.join(distinct(part, 'n'))})"


def _add_curve(fig: go.Figure, part: pd.DataFrame, role: str, dash: str, col: int) -> None:
    colour, symbol, name = _MODELS[role]
    places = [_place(step) for step in numbers(part, "step")]
    low, middle, high = (100 * numbers(part, column) for column in ("ci_low", "accuracy", "ci_high"))
    band = {"x": [*places, *places[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "mode": "lines"}
    look = {"fillcolor": colour_with(colour, 0.12), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    fig.add_trace(go.Scatter(**band, **look), row=1, col=col)
    hover = [_hover(row, name) for row in records(part)]
    for row, values in ((1, middle), (2, numbers(part, "logprob_solution"))):
        fig.add_trace(
            go.Scatter(
                x=places,
                y=values,
                mode="lines+markers",
                marker={"size": 7, "symbol": symbol},
                line={"color": colour, "width": 2, "dash": dash},
                showlegend=False,
                customdata=hover,
                hovertemplate="%{customdata}<extra></extra>",
            ),
            row=row,
            col=col,
        )


def _hover(row: dict[str, Any], name: str) -> str:
    text = f"<b>{name}</b><br>{plain(row['variant'])}, step {row['step']}<br>{100 * row['accuracy']:.1f}% of {row['n']}"
    text += f" [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"
    if not pd.isna(row["logprob_solution"]):
        text += f"<br>log p(solution): {row['logprob_solution']:.4g} nats a token"
    if not pd.isna(row["recovered"]):
        text += f"<br>recovered: {row['recovered']:.0%} [{row['recovered_low']:.0%}, {row['recovered_high']:.0%}]"
    if not pd.isna(row["recovered_beyond_control"]):
        text += f"<br>beyond what the control gained: {row['recovered_beyond_control']:.0%}"
    return text


def _relearning_title(drawn: pd.DataFrame, split: str) -> str:
    part = ordered(rows_with(rows_with(drawn, "split", split), "model", "edited"), "step")
    if part.empty:
        return f"Relearning on {split}"
    last = records(part)[-1]
    start = 100 * float(records(part)[0]["accuracy"])
    title = f"{count(int(last['step']), 'step')} took the edited model from {start:.0f} to "
    title += f"{100 * float(last['accuracy']):.0f}% on {split}"
    if pd.isna(last["recovered"]):
        return title
    title += f": {100 * last['recovered']:.0f}% of what was forgotten"
    if pd.isna(last["recovered_beyond_control"]):
        return title
    return f"{title}, {100 * last['recovered_beyond_control']:.0f}% beyond what the control gained"


@honest
def plot_attack_variants(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw accuracy under every variant of an attack: edited model, source and control, one panel a split.

    Args:
        table: ``attack.parquet`` of ``quantise`` or ``prompts``, or of any attack at one step.
        title: The point in plain words; by default the variant that brought most back.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, (*_KEYS, *_VALUES), figure="plot_attack_variants", writer=_WRITER)
    drawn = take(table, (*_KEYS, *_VALUES))
    need_unique(drawn, ["variant", "model", "split"], figure="plot_attack_variants")
    splits, variants = distinct(drawn, "split"), distinct(drawn, "variant")
    roles = [role for role in _MODELS if role in distinct(drawn, "model")]
    fig = make_subplots(
        1,
        len(splits),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[_panel_title(rows_with(drawn, "split", split), split) for split in splits],
    )
    for col, split in enumerate(splits, start=1):
        for number, role in enumerate(roles):
            part = rows_with(rows_with(drawn, "split", split), "model", role)
            offset = 0.22 * (number - (len(roles) - 1) / 2)
            _add_dots(fig, part, role, [variants.index(one) + offset for one in words(part, "variant")], col)
        fig.update_xaxes(range=[-2, 102], dtick=25, title_text="accuracy (%)", zeroline=False, row=1, col=col)
    plain_rows = set(words(where(drawn, flags(drawn, "baseline")), "variant"))
    ticks = [f"<b>{plain(one)}</b>" if one in plain_rows else plain(one) for one in variants]
    fig.update_yaxes(range=[len(variants) - 0.4, -0.6], tickvals=list(range(len(variants))), zeroline=False)
    fig.update_yaxes(ticktext=ticks, row=1, col=1)
    for role in roles:
        colour, symbol, name = _MODELS[role]
        look = {"color": colour, "symbol": symbol, "size": 9}
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=look), row=1, col=1)
    return finish(
        fig,
        drawn,
        title=title or _variants_title(drawn, splits[0]),
        subtitle=subtitle,
        note="Bars: the Wilson interval of each model alone."
        + (" In bold: without the attack." if plain_rows else " With shuffled labels: chance."),
        plot_height=max(150, 48 * len(variants) + 20),
        legend_rows=1,
        panel_titles=True,
        left=min(260, 30 + 7 * max(map(len, variants))),
        min_width=200 + 240 * len(splits),
    )


def _add_dots(fig: go.Figure, part: pd.DataFrame, role: str, places: list[float], col: int) -> None:
    colour, symbol, name = _MODELS[role]
    low, middle, high = (100 * numbers(part, column) for column in ("ci_low", "accuracy", "ci_high"))
    fig.add_trace(
        go.Scatter(
            x=middle,
            y=places,
            mode="markers",
            marker={"size": 9, "color": colour, "symbol": symbol},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": high - middle,
                "arrayminus": middle - low,
                "thickness": 1.5,
                "width": 3,
                "color": colour_with(colour, 0.6),
            },
            showlegend=False,
            customdata=[_hover(row, name) for row in records(part)],
            hovertemplate="%{customdata}<extra></extra>",
        ),
        row=1,
        col=col,
    )


def _variants_title(drawn: pd.DataFrame, split: str) -> str:
    part = where(drawn, [one == split for one in words(drawn, "split")] & ~flags(drawn, "baseline"))
    part = where(part, np.isfinite(numbers(part, "recovered")))
    if not flags(drawn, "baseline").any():
        layers = count(len(distinct(drawn, "variant")) // 2, "layer")
        return f"What linear probes on {layers} tell on {split}: chance is 50 %"
    if part.empty:
        variants = count(len(distinct(drawn, "variant")), "variant")
        return f"Accuracy under {variants} of an attack; what came back is not known"
    best = records(part)[int(np.argmax(numbers(part, "recovered")))]
    if not best["recovered_low"] > 0:
        return f"On {split}, no variant brought back more than chance allows for"
    title = f"On {split}, {best['variant']} brought back {100 * best['recovered']:.0f}% of what was forgotten"
    # Without a control the comparison is NaN, and nothing is said.
    return title + (", no more than what the control gained" if best["recovered_beyond_control"] <= 0 else "")


@honest
def plot_code_changes(
    tensors: pd.DataFrame, *, formats: list[str] | None = None, title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw, tensor by tensor, the share of the edited entries whose quantised code is not the source's.

    Args:
        tensors: ``attack_tensors.parquet``.
        formats: Formats to draw; all by default.
        title: The point in plain words; by default the shares over all edited tensors.
        subtitle: Model, revision, dtype, seed.
    """
    columns = ("format", "layer", "projection", "name", "edited", "code_changed", "code_changed_source_scales")
    columns = (*columns, "code_changed_expected", "change_per_bin", "kept_along_edit", "noise")
    need(tensors, columns, figure="plot_code_changes", writer="mastlens attack quantise --edit")
    drawn = take(tensors, columns)
    shown = [one for one in distinct(drawn, "format") if formats is None or one in formats]
    single = where(drawn, [bool(word) for word in words(drawn, "projection")])
    if not shown or single.empty:
        raise NotFound(f"plot_code_changes has no format to draw; the table has {distinct(drawn, 'format')}.")
    grid = CellGrid.of(single)
    fig = make_subplots(1, len(shown), subplot_titles=list(map(plain, shown)), horizontal_spacing=0.06)
    lines = {
        "code changed": "{code_changed:.1%} of {edited:,} edited entries",
        "with the source's scales": "{code_changed_source_scales:.1%}",
        "expected from change / bin width": "{code_changed_expected:.1%}",
        "median change / bin width": "{change_per_bin:.3g}",
        "kept along the edit": "{kept_along_edit:.2f}",
        "rounding / change": "{noise:.2f}",
    }
    parts = {one: rows_with(single, "format", one) for one in shown}
    fig.update_layout(coloraxis=color_scale(100 * numbers(pd.concat(parts.values()), "code_changed"), signed=False))
    for col, part in enumerate(parts.values(), start=1):
        once_per_cell(part, "plot_code_changes")
        values = 100 * numbers(part, "code_changed")
        add_map(
            fig,
            part,
            values,
            grid=grid,
            hover=hover_text(part, lines),
            coloraxis="coloraxis",
            texts=[short(value, 2) for value in values],
            col=col,
            layer_title=col == 1,
        )
    color_bar(fig, "coloraxis", grid=grid, title="edited entries whose code changed (%)", to_col=len(shown))
    return finish(
        fig,
        drawn,
        title=title or _codes_title(drawn, shown),
        subtitle=subtitle,
        note="A code that did not change is, after quantisation, the source's weight again. Those that changed moved "
        "by a whole bin, so a small share does not by itself mean that the edit is gone (kept along the edit).",
        plot_height=grid.height,
        panel_titles=True,
        bottom=122,
        min_width=120 + 200 * len(shown),
    )


def _codes_title(drawn: pd.DataFrame, shown: list[str]) -> str:
    totals = {str(row["format"]): row for row in records(drawn) if not row["projection"] and row["layer"] == -1}
    said = [f"{100 * totals[one]['code_changed']:.0f}% in {one}" for one in shown if one in totals]
    title = "Edited entries whose quantised code changed"
    return f"{title}: {', '.join(said)}" if said else f"{title}, tensor by tensor"
