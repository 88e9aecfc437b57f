"""Figures at the size of a paper: inches, points that can be read at that size, caption and data beside them.

A figure is laid out at the width in pixels at which its own letters, reduced to the column, have the size that is asked
for; then it is reduced as a whole. So nothing is laid out twice, and the proportions are those of the screen.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from mastlens.errors import BadSetting, CannotWrite, unknown
from mastlens.plots.files import SavedFigure, page_of, write_file
from mastlens.plots.frame import readable_width, without_captions
from mastlens.plots.images import IMAGES, draw_images
from mastlens.plots.tables import figure_table, layout_of

SMALLEST = 6.0
"""Points: smaller letters are not printed."""

_PIXELS, _POINTS = 96, 72  # an inch has so many, by definition of both
_LEAST = 12  # pixels: what plotly writes where nobody says how large


@dataclass(frozen=True)
class PaperStyle:
    """The sizes of a venue.

    Attributes:
        column: Width of a column in inches.
        text: Width of the text in inches.
        points: Size of the smallest letters, in points, where there is room.
    """

    column: float
    text: float
    points: float


STYLES: Mapping[str, PaperStyle] = {
    "neurips": PaperStyle(2.70, 5.50, 7.0),  # one column of text; two figures side by side
    "icml": PaperStyle(3.25, 6.75, 7.0),
    "acl": PaperStyle(3.03, 6.30, 7.0),
    "nature": PaperStyle(3.50, 7.20, 6.0),
    "slides": PaperStyle(6.00, 12.30, 14.0),
}
"""Every style by its name."""

WIDTHS = ("column", "text")


def save_printed(
    fig: go.Figure,
    path: str | os.PathLike[str],
    *,
    style: str | None = None,
    width: str = "column",
    title: bool = True,
) -> SavedFigure:
    """Write one image or page; with a style at its size, the caption as ``.txt`` and the data as ``.csv`` beside it.

    Args:
        fig: A figure of this package.
        path: A file that ends in .pdf, .svg, .png or .html.
        style: A key of ``STYLES``; None for the figure as it is on a screen.
        width: ``column`` or ``text``, of the style.
        title: Whether title, subtitle and note stand in the figure; a paper has a caption for them.

    Raises:
        MastlensError: If there is no such style, width or ending, the figure cannot be read at that width, no browser
            is there to draw it, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind == "html" and style is not None:
        raise BadSetting("A page (.html) has no width of its own: leave style out, or write .pdf, .svg or .png.")
    captions = _captions(fig)
    drawn = fig if title else without_captions(fig)
    if style is None:
        inches, wide = None, None
    else:
        if style not in STYLES:
            raise unknown("style of a figure", style, STYLES)
        if width not in WIDTHS:
            raise unknown("width of a figure", width, WIDTHS)
        inches = getattr(STYLES[style], width)
        wide = _laid_out(drawn, inches, STYLES[style], style, width)
    if kind == "html":
        contents = {path: page_of(drawn, path.stem)}
    else:
        images, note = draw_images({path.stem: drawn}, [kind], width=wide, inches=inches)
        if note:
            raise CannotWrite(f"{path} cannot be drawn. {note}")
        contents = {path: images[path.stem][kind]}
    if style is not None:
        contents[path.with_suffix(".txt")] = "\n\n".join(filter(None, captions.values())).encode() + b"\n"
        contents[path.with_suffix(".csv")] = figure_table(fig).to_csv(index=False, lineterminator="\n").encode()
    return SavedFigure(tuple(write_file(file, content) for file, content in contents.items()), "")


def ending(path: str | os.PathLike[str]) -> str:
    """Return what kind of one file a path asks for; nothing where it has no ending that is known."""
    kind = Path(path).suffix.removeprefix(".").lower()
    return kind if kind in (*IMAGES, "html") else ""


def _captions(fig: go.Figure) -> dict[str, str]:
    meta = layout_of(fig).meta
    return {key: str(meta.get(key) or "") for key in ("title", "subtitle", "note")} if isinstance(meta, dict) else {}


def _laid_out(fig: go.Figure, inches: float, style: PaperStyle, name: str, width: str) -> int:
    """Return the width in pixels at which a figure is laid out before it is reduced to its inches.

    Raises:
        MastlensError: If it cannot be read at that width.
    """
    points_a_pixel = _POINTS / _PIXELS
    smallest = min(_letters(fig), default=_LEAST)
    reduction = style.points / (smallest * points_a_pixel)
    meta = layout_of(fig).meta
    captioned = bool(layout_of(fig).title.text) or not isinstance(meta, dict)
    needed = readable_width(fig) if captioned else int(meta["min_width"])
    if inches * _PIXELS / reduction < needed:
        reduction = inches * _PIXELS / needed
        if (points := smallest * points_a_pixel * reduction) < SMALLEST:
            fits = needed * SMALLEST / (smallest * _POINTS)
            wider = [
                f"style={key!r}, width={w!r}" for key, one in STYLES.items() for w in WIDTHS if getattr(one, w) >= fits
            ]
            raise BadSetting(
                f"The figure needs {fits:.1f} inches for letters of {SMALLEST:g} points; {name} has {inches:g} for a "
                f"{width}, where they would have {points:.1f}. Take {' or '.join(wider[:3])}"
                + (", or title=False, which leaves the captions to the paper." if captioned else ".")
            )
    return round(inches * _PIXELS / reduction)


def _letters(fig: go.Figure) -> Iterator[float]:
    """Yield the sizes of all letters that a figure sets, in pixels."""
    waiting: list[Any] = [fig.to_plotly_json()]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            for key, value in found.items():
                if key.endswith("font") and isinstance(value, dict) and isinstance(value.get("size"), int | float):
                    yield float(value["size"])
                elif key not in ("meta", "customdata", "hoverlabel", "template"):
                    waiting.append(value)
        elif isinstance(found, list | tuple):
            waiting += found
