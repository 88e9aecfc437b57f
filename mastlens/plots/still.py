"""A still: a figure as a small drawing in the page itself, there before plotly's script has run, and without it.

It is drawn from the same figure: panels, axes, marks, intervals, keys and colour bars at the places where plotly puts
them, so that nothing moves when the live figure takes its place. What only the live figure has is what moves: hover
texts, zooming, exact text metrics.
"""

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mastlens.plots import still_ink as ink
from mastlens.plots.still_axes import Axis, axes_of, round_values
from mastlens.plots.still_marks import bars_beside, draw_between, draw_markers, draw_trace, stack_bars
from mastlens.plots.template import COLOURWAY, MUTED, RULE

WIDE = 920
"""Pixels of a figure in a page that is as wide as it gets."""
LARGEST = 40_000
"""Characters of a still at most; a figure with more marks than that waits for its script."""

_UNSEEN = ("meta", "template", "customdata", "hovertext")
_EDGE = "#AEB6BF"


def still(fig: go.Figure, name: str, label: str) -> str:
    """Return a figure as SVG without script, or nothing where it cannot be drawn in little room.

    Args:
        fig: A figure of this package, without its captions.
        name: An identifier that no other still of the page has.
        label: What a screen reader calls it.
    """
    spec: Any = _unpacked(fig.to_plotly_json())
    traces, layout = spec["data"], spec["layout"]
    if any(trace["type"] not in ("heatmap", "bar", "scatter") for trace in traces):
        return ""
    tall = int(layout.get("height") or 450)
    scales = {key: value for key, value in layout.items() if key.startswith("coloraxis")}
    stack_bars(traces, layout)
    axes = axes_of(layout, traces, WIDE, tall)
    panels: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
    for number, trace in enumerate(traces):
        if trace.get("visible", True) is True:
            place = str(trace.get("xaxis") or "x"), str(trace.get("yaxis") or "y")
            panels.setdefault(place, []).append((number, trace))
    parts = []
    for (x, y), drawn in panels.items():
        pair = axes[x], axes[y]
        parts += _frame(*pair)
        marks = [mark for shape in _shapes_of(layout, x, y) for mark in _shape(shape, *pair)]
        for place, (number, trace) in enumerate(drawn):
            if trace.get("fill") == "tonexty" and place:
                marks += draw_between(drawn[place - 1][1], trace, *pair)
            marks += draw_trace(
                trace, *pair, scales, COLOURWAY[number % len(COLOURWAY)], bars_beside(drawn, trace, layout)
            )
        parts.append(_clipped(*pair, marks))
    parts += _annotations(layout, wide=WIDE, tall=tall)
    if layout.get("showlegend"):
        parts += _legend(traces, layout)
    for key, scale in scales.items():
        parts += _bar(scale, layout, f"{name}-{key}", tall)
    drawn_svg = (
        f'<svg class="still" role="img" aria-label="{html.escape(label)}" viewBox="0 0 {WIDE} {tall}">'
        f"{''.join(parts)}</svg>"
    )
    return drawn_svg if len(drawn_svg) <= LARGEST else ""


def _clipped(x: Axis, y: Axis, marks: Sequence[str]) -> str:
    left, top, wide, tall = (ink.digits(value) for value in _box(x, y))
    look = f'x="{left}" y="{top}" width="{wide}" height="{tall}" viewBox="{left} {top} {wide} {tall}"'
    return f"<svg {look}>{''.join(marks)}</svg>" if any(marks) else ""


def _frame(x: Axis, y: Axis) -> Iterator[str]:
    """Draw what stands around the marks of a panel: grid, axes, ticks, titles."""
    left, top, wide, tall = _box(x, y)
    for axis in (x, y):
        told, flat = axis.told, axis is x
        if told.get("visible") is False:
            continue
        title = (told.get("title") or {}).get("text")
        ticks = axis.ticks
        if told.get("showgrid") is not False:
            grid = (
                f"M{ink.digits(p)} {ink.digits(top)}v{ink.digits(tall)}"
                if flat
                else f"M{ink.digits(left)} {ink.digits(p)}h{ink.digits(wide)}"
                for p, _ in ticks
            )
            yield ink.path("".join(grid), stroke=str(told.get("gridcolor") or RULE), wide=1.0)
        above = told.get("side") == "top"
        base = top if above else top + tall
        if told.get("showline") is not False:
            edge = (
                f"M{ink.digits(left)} {ink.digits(base)}h{ink.digits(wide)}"
                if flat
                else f"M{ink.digits(left)} {ink.digits(top)}v{ink.digits(tall)}"
            )
            yield ink.path(edge, stroke=_EDGE, wide=1.0)
        size = float((told.get("tickfont") or {}).get("size") or 12)
        for pixel, word in ticks if told.get("showticklabels") is not False else ():
            if not flat:
                yield ink.text(left - 7, pixel + 4, word, size=size, at="end")
            elif told.get("tickangle"):
                at = "start" if above or told["tickangle"] > 0 else "end"
                yield ink.text(
                    pixel, base + (-8 if above else 14), word, size=size, at=at, turn=f"{told['tickangle']:g}"
                )
            else:
                yield ink.text(pixel, base + (-7 if above else 17), word, size=size, at="middle")
        if title and flat:
            yield ink.text(left + wide / 2, base + (-26 if above else 36), title, size=13.0, at="middle")
        elif title:
            wider = max([len(ink.words(word)) for _, word in ticks], default=0) + 2.3 * str(title).count("<br>")
            at = max(14.0, left - 20 - 6.4 * wider)
            yield ink.text(at, top + tall / 2, title, size=13.0, at="middle", turn="-90")


def _shapes_of(layout: Mapping[str, Any], x: str, y: str) -> Iterator[Mapping[str, Any]]:
    for shape in layout.get("shapes") or ():
        if str(shape.get("xref") or "x").split()[0] == x and str(shape.get("yref") or "y").split()[0] == y:
            yield shape


def _shape(shape: Mapping[str, Any], x: Axis, y: Axis) -> Iterator[str]:
    def ends(axis: Axis, ref: str, first: Any, last: Any) -> list[float]:
        if ref.endswith("domain"):
            return [axis.first + float(share) * (axis.last - axis.first) for share in (first, last)]
        return axis.at([first, last]).tolist()

    across_ = ends(x, str(shape.get("xref") or ""), shape["x0"], shape["x1"])
    along = ends(y, str(shape.get("yref") or ""), shape["y0"], shape["y1"])
    line = shape.get("line") or {}
    if shape["type"] == "line":
        yield ink.stroked(ink.line(zip(across_, along, strict=True)), line)
    elif shape["type"] == "rect":
        d = ink.square(min(across_), min(along), abs(across_[1] - across_[0]), abs(along[1] - along[0]))
        fill = ink.faded(shape.get("fillcolor") or "none", float(shape.get("opacity") or 1.0))
        stroke = str(line.get("color") or "") if line.get("width") != 0 else ""
        yield ink.path(d, fill=fill, stroke=stroke, wide=float(line.get("width") or 1))


def _annotations(layout: Mapping[str, Any], *, wide: int, tall: int) -> Iterator[str]:
    """Write what stands at a place of the drawing area, such as the titles of panels."""
    margin = layout.get("margin") or {}
    left, right, top, bottom = (float(margin.get(side, 0)) for side in "lrtb")
    for said in layout.get("annotations") or ():
        if said.get("yref") != "paper" or said.get("xref") not in ("paper", None):
            continue
        if said.get("xref") is None:
            continue
        px = left + float(said.get("x") or 0) * (wide - left - right) + float(said.get("xshift") or 0)
        py = tall - bottom - float(said.get("y") or 0) * (tall - top - bottom) - float(said.get("yshift") or 0)
        size = float((said.get("font") or {}).get("size") or 12)
        at = {"center": "middle", "right": "end"}.get(str(said.get("xanchor")), "start")
        text = str(said.get("text") or "")
        more = 1.25 * size * text.count("<br>")
        yield ink.text(px, py - 6 - more if said.get("yanchor") == "bottom" else py + size + 3, text, size=size, at=at)


def _legend(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> Iterator[str]:
    x, y, seen = 12.0, 32.0, set()
    for number, trace in enumerate(traces):
        name = ink.words(trace.get("name") or "")
        if not name or trace.get("showlegend") is False or name in seen:
            continue
        seen.add(name)
        wide = 48 + 7.0 * len(html.unescape(name))
        if x > 12 and x + wide > WIDE - 12:
            x, y = 12.0, y + 21
        marker, line = trace.get("marker") or {}, trace.get("line") or {}
        colour = COLOURWAY[number % len(COLOURWAY)]
        own = marker.get("color") if isinstance(marker.get("color"), str) else line.get("color") or colour
        if "lines" in str(trace.get("mode") or "") and trace.get("fill") is None:
            yield ink.stroked(f"M{ink.digits(x + 4)} {ink.digits(y - 4)}h28", line, str(own))
        if trace.get("fill") or trace["type"] == "bar":
            fill = str(trace.get("fillcolor") or ("rgba(118,118,118,.25)" if trace.get("fillpattern") else own))
            yield ink.path(ink.square(x + 8, y - 9, 20.0, 10.0), fill=fill)
        elif "markers" in str(trace.get("mode") or ""):
            one = {**marker, "size": marker["size"] if np.isscalar(marker.get("size")) else 8}
            one = {key: value for key, value in one.items() if key in ("size", "line") or isinstance(value, str)}
            yield from draw_markers(np.array([x + 18]), np.array([y - 4]), one, [str(own)], 1.0)
        yield ink.text(x + 40, y, name, size=13.0)
        x += wide


def _bar(scale: Mapping[str, Any], layout: Mapping[str, Any], name: str, tall: int) -> Iterator[str]:
    """Draw a horizontal colour bar with its ends, or its own ticks."""
    told = scale.get("colorbar") or {}
    if told.get("orientation") != "h" or scale.get("colorscale") is None or scale.get("showscale") is False:
        return
    margin = layout["margin"]
    area, high = WIDE - margin["l"] - margin["r"], tall - margin["t"] - margin["b"]
    wide = float(told["len"]) * area
    left = margin["l"] + float(told["x"]) * area - wide / 2
    top = tall - margin["b"] - float(told["y"]) * high
    stops = "".join(f'<stop offset="{p:g}" stop-color="{c}"/>' for p, c in scale["colorscale"])
    yield f'<defs><linearGradient id="{name}">{stops}</linearGradient></defs>'
    yield ink.text(left + wide / 2, top + 12, (told.get("title") or {}).get("text") or "", at="middle")
    yield ink.path(ink.square(left, top + 18, wide, 10.0), fill=f"url(#{name})")
    low, end = scale.get("cmin"), scale.get("cmax")
    if low is None or end is None:
        return
    low, end = float(low), float(end)
    values = told.get("tickvals")
    values = round_values(low, end, max(2.0, wide / 60)) if values is None else list(values)
    words = told.get("ticktext")
    for value, word in zip(
        values, [f"{v:g}".replace("-", "−") for v in values] if words is None else words, strict=False
    ):
        yield ink.text(
            left + wide * (value - low) / ((end - low) or 1.0), top + 41, word, size=11.0, at="middle", ink=MUTED
        )


def _box(x: Axis, y: Axis) -> tuple[float, float, float, float]:
    return x.first, y.last, x.last - x.first, y.first - y.last


def _unpacked(value: Any) -> Any:
    """Return a part of a figure with its arrays as lists: plotly packs them as base64."""
    if isinstance(value, Mapping):
        if "bdata" in value:
            flat = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
            shape = [int(side) for side in str(value.get("shape", flat.size)).split(",")]
            return flat.reshape(shape).tolist()
        return {key: _unpacked(each) for key, each in value.items() if key not in _UNSEEN}
    if isinstance(value, list | tuple | np.ndarray):
        return [_unpacked(each) for each in value]
    return value
