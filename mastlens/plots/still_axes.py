"""Axes of a still: where a figure's values stand in pixels, and what is written along them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_PAD = 0.055  # of an axis' range on either side of its marks, about what plotly leaves
_APART = {"x": 75.0, "y": 42.0}  # pixels between ticks at the least


@dataclass(frozen=True)
class Axis:
    """One axis of one panel.

    Attributes:
        first: Pixel of its start: the left end, or the lower one.
        last: Pixel of its end.
        low: Value at the start; its decimal logarithm on a logarithmic axis.
        high: Value at the end.
        log: Whether it is logarithmic.
        names: Its categories; empty where it counts.
        told: What the layout says of it.
    """

    first: float
    last: float
    low: float
    high: float
    log: bool
    names: tuple[str, ...]
    told: Mapping[str, Any]

    def at(self, values: Iterable[Any]) -> np.ndarray:
        """Return the pixels of values, NaN where there is none."""
        known = self.numbers(values)
        return self.first + (known - self.low) / ((self.high - self.low) or 1.0) * (self.last - self.first)

    def numbers(self, values: Iterable[Any]) -> np.ndarray:
        """Return values as the axis counts them: a category by its place, logarithms on a logarithmic axis."""
        return _numbers(values, self.names, self.log)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Pixels and words of its ticks."""
        told = self.told
        if told.get("tickvals") is not None:
            values = list(told["tickvals"])
            words = list(told["ticktext"]) if told.get("ticktext") is not None else [self._said(v) for v in values]
        elif self.names:
            values, words = list(self.names), list(self.names)
        elif self.log:
            values = [10.0**k for k in range(math.ceil(self._ends[0] - 1e-9), math.floor(self._ends[1] + 1e-9) + 1)]
            words = [f"{value:g}" for value in values]
        else:
            most = max(2.0, abs(self.last - self.first) / _APART["x" if self.last > self.first else "y"])
            values = round_values(*self._ends, most, told.get("dtick"))
            words = [self._said(value) for value in values]
        inner = min(self.first, self.last) - 0.5, max(self.first, self.last) + 0.5
        placed = zip(self.at(values).tolist(), words, strict=False)
        return [(pixel, str(word)) for pixel, word in placed if inner[0] <= pixel <= inner[1]]

    @property
    def _ends(self) -> tuple[float, float]:
        return min(self.low, self.high), max(self.low, self.high)

    def _said(self, value: Any) -> str:
        shape = str(self.told.get("tickformat") or "").replace("~", "")
        try:
            text = format(value, shape) if shape else f"{value:.6g}"
        except (TypeError, ValueError):
            text = f"{value:g}" if isinstance(value, float) else f"{value}"
        return (text + str(self.told.get("ticksuffix") or "")).replace("-", "−")


def axes_of(layout: Mapping[str, Any], traces: Sequence[Mapping[str, Any]], wide: int, tall: int) -> dict[str, Axis]:
    """Return the axes of a figure by plotly's short names, ``x``, ``y``, ``x2`` ...

    Args:
        layout: Of the figure.
        traces: Of the figure: heat maps, bars and scatters.
        wide: Pixels of the figure.
        tall: Pixels of the figure.
    """
    used = {str(trace.get(f"{way}axis") or way) for trace in traces for way in "xy"} | {"x", "y"}
    told = {name: dict(layout.get(f"{name[0]}axis{name[1:]}") or {}) for name in used}
    roots = {name: str(told[name].get("matches") or name) for name in used}
    margin = layout.get("margin") or {}
    edges = {
        "x": (margin.get("l", 80), wide - margin.get("r", 80)),
        "y": (tall - margin.get("b", 80), margin.get("t", 100)),
    }
    found = {}
    for name in sorted(used):
        way = name[0]
        together = [other for other in used if roots[other] == roots[name]]
        mine = [trace for trace in traces if str(trace.get(f"{way}axis") or way) in together]
        names = _names(mine, way, told[name])
        log = told[name].get("type") == "log"
        given = next((told[other]["range"] for other in together if told[other].get("range") is not None), None)
        shared = {key: value for other in together for key, value in told[other].items()}
        low, high = given if given is not None else _spread(mine, way, names, log, shared)
        start, end = told[name].get("domain") or (0.0, 1.0)
        first, last = edges[way]
        ends = first + start * (last - first), first + end * (last - first)
        found[name] = Axis(*ends, float(low), float(high), log, names, told[name])
    return found


def across(trace: Mapping[str, Any], way: str) -> Iterable[Any]:
    """Return the values of a trace along an axis; a heat map without names is counted."""
    values = trace.get(way)
    if values is None and trace["type"] == "heatmap":
        return range(len(trace["z"]) if way == "y" else max(map(len, trace["z"]), default=0))
    return () if values is None else values


def upright(trace: Mapping[str, Any]) -> bool:
    """Return whether a bar stands on the horizontal axis."""
    return trace.get("orientation") != "h"


def _numbers(values: Iterable[Any], names: Sequence[str], log: bool) -> np.ndarray:
    if names:
        places = {name: float(i) for i, name in enumerate(names)}
        found = [places.get(str(v), v if isinstance(v, int | float) else math.nan) for v in values]
        return np.array(found, dtype=float)
    known = np.array([_number(value) for value in values], dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(known > 0, np.log10(known), math.nan) if log else known


def _number(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan


def _names(traces: Sequence[Mapping[str, Any]], way: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    values = [value for trace in traces for value in across(trace, way) if value is not None]
    words = [value for value in values if isinstance(value, str)]
    if not words or (told.get("type") != "category" and all(not math.isnan(_number(word)) for word in words)):
        return ()
    order = told.get("categoryarray")
    first = [str(name) for name in order] if order is not None else []
    return tuple(dict.fromkeys([*first, *(str(value) for value in values)]))


def _spread(
    traces: Sequence[Mapping[str, Any]], way: str, names: Sequence[str], log: bool, told: Mapping[str, Any]
) -> tuple[float, float]:
    """Return the ends of an axis that says none: all of its marks with a little room."""
    parts, cells, lengths = [np.zeros(0)], False, False
    for trace in traces:
        known = _numbers(across(trace, way), names, log)
        parts.append(known)
        cells |= trace["type"] == "heatmap" or (trace["type"] == "bar" and upright(trace) == (way == "x"))
        lengths |= trace["type"] == "bar" and upright(trace) != (way == "x")
        if trace.get("base") is not None and upright(trace) != (way == "x"):
            parts.append(known + _numbers(trace["base"], names, log))
        for sign, end in error_ends(trace, way):
            if len(end) == len(known):
                parts.append(known + sign * end if not log else known)
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    if not values.size:
        return (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if lengths or told.get("rangemode") == "tozero":
        low, high = min(low, 0.0), max(high, 0.0)
    if cells:
        low, high = low - 0.5, high + 0.5
    else:
        room = _PAD * ((high - low) or 1.0)
        low, high = low - room * (not lengths or low < 0), high + room
    return (high, low) if told.get("autorange") == "reversed" else (low, high)


def error_ends(trace: Mapping[str, Any], way: str) -> list[tuple[int, np.ndarray]]:
    """Return how far the error bars of a trace reach along an axis: sign and lengths, upwards first."""
    bars = trace.get(f"error_{way}") or {}
    if bars.get("array") is None:
        return []
    up = np.array([_number(value) for value in bars["array"]])
    down = bars.get("arrayminus")
    return [(1, up), (-1, up if down is None else np.array([_number(value) for value in down]))]


def round_values(low: float, high: float, most: float, step: Any = None) -> list[float]:
    """Return round numbers between two ends.

    Args:
        low: The lower end.
        high: The upper end.
        most: How many there may be.
        step: Their distance, where it is given and not too small.
    """
    span = (high - low) or 1.0
    each = _number(step)
    if math.isnan(each) or each <= 0 or span / each > 3 * most:
        power = 10.0 ** math.floor(math.log10(span / most))
        each = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= most)
    return [round(k * each, 12) for k in range(math.ceil(low / each - 1e-9), math.floor(high / each + 1e-9) + 1)]
