"""What every figure has in common: title, subtitle, legend and note put in place, its table kept."""

import html
import textwrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from mastlens.plots.figure import Figure
from mastlens.plots.markup import without_markup
from mastlens.plots.tables import layout_of, packed
from mastlens.plots.template import MUTED, NAME

_TITLE_LINE, _SUBTITLE_LINE, _LEGEND_LINE, _BARRED_LINE, _NOTE_LINE = 24, 19, 21, 30, 16
_CHARACTER = 10.8, 7.8, 7.0  # pixels of a character of title, subtitle and note, in the widest usual font
_CAPTION_WIDTH, _WIDEST = 560, 900
_NOTE = "note"
MOST_ENTRIES = 8
"""Entries of a legend at most; what is more is named in the figure itself."""


def plain(text: object) -> str:
    """Return text that plotly shows as it is: its labels would otherwise read some HTML tags."""
    return html.escape(str(text), quote=False)


def colour_with(colour: str, opacity: float) -> str:
    """Return a hex colour as ``rgba(...)`` with this opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def count(number: int, noun: str) -> str:
    """Return ``1 projection`` or ``3 projections``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def extremes(percent: dict[str, float]) -> str:
    """Return the lowest and the highest of several models' percentages, with their names; nothing of none."""
    known = {name: value for name, value in percent.items() if value == value}
    if not known:
        return ""
    ends = [min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])]
    if known[ends[0]] == known[ends[1]]:
        return f"{known[ends[0]]:.0f}%" + f" in all {len(known)}" * (len(known) > 1)
    return " to ".join(f"{known[name]:.0f}% ({name})" for name in ends)


def short(value: float, digits: int = 3) -> str:
    """Return a number for a cell, always with that many significant digits; nothing for NaN."""
    if value != value:
        return ""
    text = f"{value:#.{digits}g}"
    if "e" in text and 1 <= abs(value) < 1e6:
        text = f"{value:.0f}"  # 100 and not 1.0e+02
    return text.rstrip(".").replace("-", "−")


def _legend_height(fig: go.Figure, min_width: int) -> int:
    """Return the pixels that the legend's entries fill at the figure's narrowest width."""
    room = max(_CAPTION_WIDTH, min_width) - 24
    traces: Any = fig.data
    named = [trace for trace in traces if trace.name and trace.showlegend is not False]
    wide = [48 + 7.6 * len(html.unescape(str(trace.name))) for trace in named]
    # What does not fit into one line plotly lays out in columns of the widest entry.
    columns = max(1, int(room // max(wide, default=room)))
    lines = 1 if sum(wide) <= room else -(-len(wide) // columns)
    # plotly gives entries with error bars more room
    barred = any(
        trace.type == "scatter" and (trace.error_x.array is not None or trace.error_y.array is not None)
        for trace in named
    )
    return lines * (_BARRED_LINE if barred else _LEGEND_LINE) + 4


def _label_directly(fig: go.Figure) -> None:
    """Name traces beside their last point where a legend would have more than ``MOST_ENTRIES`` entries.

    Keys without data, which explain a mark, stay in the legend: they have no other place.
    """
    traces: Any = fig.data
    named = [trace for trace in traces if trace.name and trace.showlegend is not False]
    if len({trace.name for trace in named}) <= MOST_ENTRIES:
        return
    for trace in named:
        values = trace.y if trace.type == "scatter" and trace.y is not None else ()
        known = [i for i, value in enumerate(values) if value is not None and value == value]
        if not known:
            continue
        last = known[-1]
        texts = ["" if i != last else trace.name for i in range(len(values))]
        mode = "+".join(dict.fromkeys([*(trace.mode or "lines+markers").split("+"), "text"]))
        beside = "middle right"
        if len(known) == 1 and "markers" in mode:  # a mark alone: between its intervals, and towards the middle
            beside = "top left" if _lies_right(trace, traces, last) else "top right"
        look = {"textposition": beside, "textfont": {"size": 10}, "cliponaxis": False}
        trace.update(showlegend=False, mode=mode, text=texts, **look)


def _lies_right(trace: Any, traces: Any, place: int) -> bool:
    """Return whether a point of a trace lies in the right half of all points, where these have numbers."""
    ends = [end for one in traces for end in (one.x if one.x is not None else ()) if isinstance(end, int | float)]
    here = trace.x[place] if trace.x is not None and len(trace.x) > place else None
    return bool(ends and isinstance(here, int | float) and 2 * here > max(ends) + min(ends))


def readable_width(fig: go.Figure) -> int:
    """Return the width in pixels below which the figure, or its captions, would be cut."""
    return max(_CAPTION_WIDTH, int(layout_of(fig).meta["min_width"]))


def _arrange(fig: go.Figure, title: str, subtitle: str, note: str) -> None:
    """Put title, legend and note in place and give the figure the height they ask for."""
    meta = layout_of(fig).meta
    room = min(readable_width(fig), _WIDEST) - 24
    lines, under, notes = (
        textwrap.wrap(text, int(room / each)) if text else []
        for text, each in zip((title, subtitle, note), _CHARACTER, strict=True)
    )

    top = 14 + _TITLE_LINE * len(lines) + _SUBTITLE_LINE * len(under) + (6 if lines or under else 0)
    legend_at = top
    top += meta["legend_height"] + meta["above"] + (26 if meta["panel_titles"] else 8)
    bottom = meta["bottom"] + (_NOTE_LINE * len(notes) + 12 if notes else 0)
    height = meta["plot_height"] + top + bottom

    fig.update_layout(
        height=height,
        margin={"t": top, "b": bottom, "l": meta["left"], "r": meta["right"]},
        legend={
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1 - legend_at / height,
            "yref": "container",
            "yanchor": "top",
        },
    )
    if lines:
        fig.update_layout(
            title={
                "text": "<br>".join(map(plain, lines)),
                "subtitle": {
                    "text": "<br>".join(map(plain, under)),
                    "font": {"size": 13, "color": MUTED},
                },
                "font": {"size": 18, "weight": 600},
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                # plotly hangs the first of several lines, however many, by half a line too high
                "pad": {"l": 12, "t": 14 + 11 * (len(lines) > 1)},
            }
        )
    if notes:
        fig.add_annotation(
            name=_NOTE,
            text="<br>".join(map(plain, notes)),
            showarrow=False,
            align="left",
            font={"size": 12, "color": MUTED},
            x=0,
            xref="paper",
            xanchor="left",
            xshift=12 - meta["left"],
            y=0,
            yref="paper",
            yanchor="top",
            yshift=8 - meta["bottom"],
        )


def finish(
    fig: go.Figure,
    table: pd.DataFrame,
    *,
    title: str,
    subtitle: str = "",
    note: str = "",
    plot_height: int = 380,
    legend_rows: int = 0,
    above: int = 0,
    panel_titles: bool = False,
    left: int = 64,
    right: int = 24,
    bottom: int = 60,
    min_width: int = 360,
) -> Figure:
    """Return a figure with its table, template, title, subtitle and note: the one way out of a figure function.

    Args:
        fig: The figure, already drawn.
        table: The tidy table that was drawn.
        title: The point in plain words.
        subtitle: Model, revision, dtype, seed.
        note: How to read the marks, below the figure.
        plot_height: Height of the drawing area in pixels; title, legend and note come on top.
        legend_rows: 0 hides the legend; otherwise its lines are counted from its entries.
        above: Further pixels to keep free above the drawing area, for tick labels there.
        panel_titles: Whether panels have titles of their own.
        left: Left margin in pixels.
        right: Right margin in pixels.
        bottom: Pixels below the drawing area for ticks, axis titles and colour bars.
        min_width: Below this width in pixels the figure cannot be read; pages let it scroll instead.
    """
    fig = Figure(fig)
    _label_directly(fig)
    fig.update_layout(
        template=NAME,
        autosize=True,
        showlegend=legend_rows > 0,
        meta={
            "title": title,
            "subtitle": subtitle,
            "note": note,
            "plot_height": plot_height,
            "legend_height": _legend_height(fig, min_width) if legend_rows else 0,
            "above": above,
            "panel_titles": panel_titles,
            "left": left,
            "right": right,
            "bottom": bottom,
            "min_width": min_width,
            "table": packed(table),
        },
    )
    for annotation in layout_of(fig).annotations:  # panel titles of make_subplots come with a font of their own
        annotation.update(font={"size": 14})
    _arrange(fig, title, subtitle, note)
    without_markup(fig)
    return fig


def without_captions(fig: go.Figure) -> Figure:
    """Return a copy without title, subtitle and note: a page shows them as text, which wraps.

    A figure that is not of this package comes back as an unchanged copy.
    """
    copy = Figure(fig)
    layout = layout_of(copy)
    meta = layout.meta
    if not isinstance(meta, dict) or "plot_height" not in meta:
        return copy
    layout.annotations = [item for item in layout.annotations if item.name != _NOTE]
    layout.title = None
    _arrange(copy, "", "", "")
    return copy
