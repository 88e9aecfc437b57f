"""What a still is drawn with: paths and texts of an SVG, in few characters."""

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mastlens.plots.template import INK

_BREAK = re.compile(r"<br\s*/?>")
_TAG = re.compile(r"<[^>]*>")
_RGBA = re.compile(r"rgba?\(\s*([\d.]+),\s*([\d.]+),\s*([\d.]+)(?:,\s*([\d.]+))?\s*\)")


def digits(value: float) -> str:
    """Return a number of pixels."""
    return f"{value:.1f}".removesuffix(".0")


def words(text: object) -> str:
    """Return text without the markup of labels, escaped."""
    return html.escape(html.unescape(_TAG.sub("", str(text))).strip())


def text(
    x: float, y: float, text: object, *, size: float = 12.0, at: str = "start", ink: str = INK, turn: str = ""
) -> str:
    """Return a text, its line breaks kept; nothing where it says nothing."""
    first, *others = [words(part) for part in _BREAK.split(str(text))]
    if not first and not any(others):
        return ""
    turned = f' transform="rotate({turn} {digits(x)} {digits(y)})"' if turn else ""
    anchor = f' text-anchor="{at}"' if at != "start" else ""
    said = first + "".join(f'<tspan x="{digits(x)}" dy="1.25em">{part}</tspan>' for part in others)
    return f'<text x="{digits(x)}" y="{digits(y)}" font-size="{size:g}" fill="{ink}"{anchor}{turned}>{said}</text>'


def path(d: str, *, fill: str = "none", stroke: str = "", wide: float = 0.0, dash: bool = False, cap: str = "") -> str:
    """Return a path; nothing where it has no point."""
    look = f' fill="{fill}"'
    if stroke:
        look += f' stroke="{stroke}" stroke-width="{wide:g}"'
    look += ' stroke-dasharray="5 4"' * dash + (f' stroke-linecap="{cap}"' if cap else "")
    return f'<path d="{d}"{look}/>' if d else ""


def line(points: Iterable[tuple[float, float]]) -> str:
    """Return a path through points; it breaks where one is missing."""
    d, broken = [], True
    for x, y in points:
        if not (np.isfinite(x) and np.isfinite(y)):
            broken = True
            continue
        d.append(f"{'M' if broken else 'L'}{digits(x)} {digits(y)}")
        broken = False
    return "".join(d)


def square(left: float, top: float, wide: float, tall: float) -> str:
    """Return the path of a rectangle."""
    return f"M{digits(left)} {digits(top)}h{digits(wide)}v{digits(tall)}h{digits(-wide)}z"


def stroked(d: str, line: Mapping[str, Any], colour: str = INK) -> str:
    """Return a path in a trace's or a shape's line."""
    wide = line.get("width")
    if wide == 0:
        return ""
    dash = str(line.get("dash") or "solid") != "solid"
    return path(d, stroke=str(line.get("color") or colour), wide=float(wide or 2), dash=dash)


def faded(colour: str, opacity: float) -> str:
    """Return a hex colour with this opacity."""
    if opacity >= 1 or not colour.startswith("#") or len(colour) != 7:
        return colour
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},{opacity:g})"


def rgb(colour: str) -> tuple[float, float, float]:
    """Return the parts of a colour, each up to 255."""
    if found := _RGBA.fullmatch(colour):
        return float(found[1]), float(found[2]), float(found[3])
    return float(int(colour[1:3], 16)), float(int(colour[3:5], 16)), float(int(colour[5:7], 16))
