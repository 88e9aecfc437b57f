"""Marks of a still: cells, bars, points, lines and their intervals, at the places where plotly draws them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mastlens.plots import still_ink as ink
from mastlens.plots.still_axes import Axis, across, error_ends, upright
from mastlens.plots.template import INK, PAPER

_SHADES = 24  # of a colour scale, so that cells of nearly one colour share a path


def draw_trace(
    trace: Mapping[str, Any], x: Axis, y: Axis, scales: Mapping[str, Any], colour: str, beside: tuple[int, int, bool]
) -> Iterator[str]:
    """Draw a trace.

    Args:
        trace: A heat map, bars or a scatter.
        x: Its horizontal axis.
        y: Its vertical axis.
        scales: The figure's colour axes.
        colour: What plotly gives a trace that says none.
        beside: What ``bars_beside`` says of it.
    """
    if trace["type"] == "heatmap":
        yield from _cells(trace, x, y, scales)
        return
    px, py = x.at(across(trace, "x")), y.at(across(trace, "y"))
    marker = trace.get("marker") or {}
    own = marker.get("color")
    line = trace.get("line") or {}
    plain = own if isinstance(own, str) else str(line.get("color") or colour)
    opacity = float(trace.get("opacity") or 1.0)
    mode = str(trace.get("mode") or "lines") if trace["type"] == "scatter" else ""
    if trace["type"] == "bar":
        yield from _bars(trace, x, y, _colours(marker, scales, len(px), colour), beside)
    else:
        d = ink.line(zip(px, py, strict=True))
        if trace.get("fill") == "toself" and d:
            hatched = "rgba(118,118,118,.25)" if trace.get("fillpattern") else "none"
            yield ink.path(d.replace("M", "zM").removeprefix("z") + "z", fill=str(trace.get("fillcolor") or hatched))
        if "lines" in mode and d:
            yield ink.stroked(d, line, ink.faded(plain, opacity))
    for way, axis, here in (("x", x, px), ("y", y, py)):
        yield _errors(trace, way, axis, here, py if way == "x" else px, plain)
    if "markers" in mode:
        yield from draw_markers(px, py, marker, _colours(marker, scales, len(px), plain), opacity)
    if "text" in mode and trace.get("text") is not None:
        words = [trace["text"]] * len(px) if isinstance(trace["text"], str) else trace["text"]
        size = float((trace.get("textfont") or {}).get("size") or 12)
        for a, b, word in zip(px, py, words, strict=False):
            if word and np.isfinite(a) and np.isfinite(b):
                yield ink.text(a + 7, b + 4, word, size=size)


def _errors(trace: Mapping[str, Any], way: str, axis: Axis, here: np.ndarray, other: np.ndarray, colour: str) -> str:
    d = ""
    values = np.asarray(list(across(trace, way)), dtype=object)
    for sign, length in error_ends(trace, way):
        if len(length) != len(here):
            continue
        numbers = np.array([float(v) if isinstance(v, int | float | np.number) else np.nan for v in values])
        ends = axis.at(numbers + sign * length)
        for start, end, at in zip(here, ends, other, strict=True):
            pair = [(start, at), (end, at)] if way == "x" else [(at, start), (at, end)]
            d += ink.line(pair) if np.isfinite([start, end, at]).all() else ""
    bars = trace.get(f"error_{way}") or {}
    return ink.path(d, stroke=str(bars.get("color") or colour), wide=float(bars.get("thickness") or 1.5))


def _colours(marker: Mapping[str, Any], scales: Mapping[str, Any], count: int, plain: str) -> list[str]:
    """Return the colour of every mark."""
    own = marker.get("color")
    if own is None or isinstance(own, str):
        return [str(own or plain)] * count
    values = list(own)
    if all(isinstance(value, str) for value in values):
        return [str(value) for value in values]
    scale = {**scales.get(str(marker.get("coloraxis")), {}), **marker}
    return _shades(np.array(values, dtype=float), scale)


def _shades(values: np.ndarray, scale: Mapping[str, Any]) -> list[str]:
    """Return the colours of numbers on a colour scale, in steps; nothing for NaN."""
    known = values[np.isfinite(values)]
    low, high = scale.get("cmin"), scale.get("cmax")
    if low is None or high is None:
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    stops = [(float(place), ink.rgb(str(colour))) for place, colour in scale["colorscale"]]
    places = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    places = np.round(places * _SHADES) / _SHADES
    shades = [np.interp(places, [p for p, _ in stops], [rgb[i] for _, rgb in stops]) for i in range(3)]
    return [
        "#" + "".join(f"{round(float(v)):02x}" for v in rgb) if np.isfinite(rgb).all() else ""
        for rgb in zip(*(shade.ravel() for shade in shades), strict=True)
    ]


def draw_markers(
    px: np.ndarray, py: np.ndarray, marker: Mapping[str, Any], colours: Sequence[str], opacity: float
) -> Iterator[str]:
    """Draw marks, those that look alike as one path: a round or square end of a line of no length is a mark."""
    count = len(px)

    def each(value: Any, other: Any) -> list[Any]:
        return (
            list(value) if isinstance(value, list | tuple | np.ndarray) else [other if value is None else value] * count
        )

    line = marker.get("line") or {}
    edges, wide = each(line.get("color"), ""), each(line.get("width"), 0)
    looks: dict[tuple[str, str, float, float, str], list[str]] = {}
    rows = zip(
        px, py, colours, each(marker.get("symbol"), "circle"), each(marker.get("size"), 6), edges, wide, strict=False
    )
    for a, b, colour, symbol, size, edge, width in rows:
        if np.isfinite(a) and np.isfinite(b) and colour:
            fill = PAPER if str(symbol).endswith("-open") else colour
            rim = str(edge or (colour if fill == PAPER else ""))
            width = float(width or (1.5 if fill == PAPER else 0))
            key = (fill, rim if width else "", float(size), width, str(symbol).removesuffix("-open"))
            looks.setdefault(key, []).append(f"M{ink.digits(a)} {ink.digits(b)}h0")
    for (fill, rim, size, width, symbol), places in looks.items():
        if symbol.startswith("line-"):
            step = (size, 0.0) if symbol.startswith("line-ew") else (0.0, size)
            places = [_through(place, *step) for place in places]
            yield ink.path("".join(places), stroke=ink.faded(rim or fill, opacity), wide=width or 1.5)
            continue
        if symbol.startswith(("x", "cross")):
            arms = ((size, size), (size, -size)) if symbol.startswith("x") else ((size, 0.0), (0.0, size))
            places = [_through(place, 0.5 * a, 0.5 * b) for place in places for a, b in arms]
            yield ink.path("".join(places), stroke=ink.faded(fill, opacity), wide=2.0)
            continue
        cap = "round" if symbol.startswith(("circle", "hexagon")) else "square"
        size = size if cap == "round" else 0.85 * size
        d = "".join(places)
        if rim:
            yield ink.path(d, stroke=ink.faded(rim, opacity), wide=size + width, cap=cap)
        yield ink.path(d, stroke=ink.faded(fill, opacity), wide=max(1.0, size - width), cap=cap)


def _cells(trace: Mapping[str, Any], x: Axis, y: Axis, scales: Mapping[str, Any]) -> Iterator[str]:
    values = np.array([[np.nan if v is None else v for v in row] for row in trace["z"]], dtype=float)
    if not values.size:
        return
    colours = _shades(values.ravel(), {**scales.get(str(trace.get("coloraxis")), {}), **_own_scale(trace)})
    px, py = x.at(across(trace, "x")), y.at(across(trace, "y"))
    half = [0.5 * abs(axis.last - axis.first) / (abs(axis.high - axis.low) or 1.0) for axis in (x, y)]
    gap = 0.5 * float(trace.get("xgap") or 0), 0.5 * float(trace.get("ygap") or 0)
    shades: dict[str, list[str]] = {}
    words = []
    text = trace.get("text") if trace.get("texttemplate") == "%{text}" else None
    for number, colour in enumerate(colours):
        i, j = divmod(number, values.shape[1])
        if not colour:
            continue
        left, top = px[j] - half[0] + gap[0], py[i] - half[1] + gap[1]
        shades.setdefault(colour, []).append(ink.square(left, top, 2 * (half[0] - gap[0]), 2 * (half[1] - gap[1])))
        if text is not None and text[i][j]:
            dark = sum(w * v for w, v in zip((0.299, 0.587, 0.114), ink.rgb(colour), strict=True)) < 140
            words.append(ink.text(px[j], py[i] + 4, text[i][j], at="middle", ink="#FFFFFF" if dark else INK))
    yield from (ink.path("".join(squares), fill=colour) for colour, squares in shades.items())
    yield from words


def _own_scale(trace: Mapping[str, Any]) -> dict[str, Any]:
    told = {"colorscale": "colorscale", "zmin": "cmin", "zmax": "cmax"}
    return {ours: trace[key] for key, ours in told.items() if trace.get(key) is not None}


def bars_beside(
    drawn: Sequence[tuple[int, Mapping[str, Any]]], trace: Mapping[str, Any], layout: Mapping[str, Any]
) -> Any:
    """Return which of how many bars at one place a trace has, and whether they lie over each other."""
    bars = [other for _, other in drawn if other["type"] == "bar"]
    over = layout.get("barmode") in ("stack", "relative", "overlay")
    return next((i for i, other in enumerate(bars) if other is trace), 0), len(bars), over


def _bars(
    trace: Mapping[str, Any], x: Axis, y: Axis, colours: Sequence[str], beside: tuple[int, int, bool]
) -> Iterator[str]:
    number, count, over = beside
    along, length = (x, y) if upright(trace) else (y, x)
    ways = ("x", "y") if upright(trace) else ("y", "x")
    middle, reach = along.at(across(trace, ways[0])), list(across(trace, ways[1]))
    base = trace["base"] if trace.get("base") is not None else [0.0] * len(reach)
    end = length.at([None if one is None else start + one for start, one in zip(base, reach, strict=True)])
    start_at = length.at(base) if not length.log else np.full(len(reach), length.first)
    unit = abs(along.last - along.first) / (abs(along.high - along.low) or 1.0)
    told = trace.get("width")
    wide = float(told) if isinstance(told, int | float) else 0.8 / (1 if over else count)
    shift = 0.0 if over or trace.get("width") is not None else (number - (count - 1) / 2) * wide
    for at, zero, to, colour in zip(middle, start_at, end, colours, strict=False):
        if np.isfinite(at) and np.isfinite(to):
            start, side = at + (shift - wide / 2) * unit, wide * unit
            d = (
                ink.square(start, min(zero, to), side, abs(zero - to))
                if upright(trace)
                else ink.square(min(zero, to), start, abs(zero - to), side)
            )
            yield ink.path(d, fill=colour)


def _through(place: str, across_: float, along: float) -> str:
    """Return the path of a short line through the middle of a mark."""
    x, y = (float(part) for part in place.removeprefix("M").removesuffix("h0").split())
    return f"M{ink.digits(x - across_)} {ink.digits(y - along)}l{ink.digits(2 * across_)} {ink.digits(2 * along)}"


def draw_between(before: Mapping[str, Any], trace: Mapping[str, Any], x: Axis, y: Axis) -> Iterator[str]:
    """Draw the area between a line and the one before it."""
    ways = [(x.at(across(each, "x")), y.at(across(each, "y"))) for each in (before, trace)]
    points = [*zip(*ways[0], strict=True), *reversed([*zip(*ways[1], strict=True)])]
    known = [point for point in points if np.isfinite(point).all()]
    if known:
        yield ink.path(f"{ink.line(known)}z", fill=str(trace.get("fillcolor") or "rgba(118,118,118,.25)"))


def stack_bars(traces: Sequence[dict[str, Any]], layout: Mapping[str, Any]) -> None:
    """Say of bars that are stacked where they begin."""
    if layout.get("barmode") not in ("stack", "relative"):
        return
    ends: dict[tuple[str, str, Any, bool], float] = {}
    for trace in (trace for trace in traces if trace["type"] == "bar"):
        along, length = ("x", "y") if upright(trace) else ("y", "x")
        trace["base"] = []
        for at, value in zip(across(trace, along), across(trace, length), strict=False):
            number = float(value) if isinstance(value, int | float) and value == value else 0.0
            key = (str(trace.get("xaxis")), str(trace.get("yaxis")), at, number < 0)
            trace["base"].append(ends.get(key, 0.0))
            ends[key] = ends.get(key, 0.0) + number
