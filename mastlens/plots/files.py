"""Figures on disk: the page, the data behind it, and images where the machine can make them."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mastlens.errors import BadSetting, CannotWrite
from mastlens.plots.figure import TextFigure
from mastlens.plots.frame import readable_width
from mastlens.plots.images import IMAGES, draw_images
from mastlens.plots.tables import figure_table, layout_of, packed
from mastlens.runs.files import atomic_path, remove_leftovers

CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "displayModeBar": "hover",
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],  # none that sends data anywhere
}
"""How a figure behaves in a page."""

_PLOTLY = "plotly.min.js"
_HEAD = (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    "<title>{title}</title></head>\n<body>"
)


@dataclass(frozen=True)
class SavedFigure:
    """What was written.

    Attributes:
        paths: The files, in the order html, json, csv, then the images; the shared plotly.min.js is not among them.
        note: Why images are missing, as one line; empty when none is.
    """

    paths: tuple[Path, ...]
    note: str


def save_figure(fig: go.Figure, folder: Path, name: str, *, images: Sequence[str] = IMAGES) -> SavedFigure:
    """Write ``name.html``, the data as ``name.json`` and ``name.csv``, and images where a browser is found.

    The page loads ``plotly.min.js`` from its own folder, where it is kept once for all figures; nothing
    comes from the network.

    Args:
        fig: A figure of this package.
        folder: Where to; made when it is missing.
        name: File name without ending.
        images: Which of svg, png and pdf to make.

    Returns:
        The files, and a line that says why images are missing when they are.
    """
    return save_figures({name: fig}, folder, images=images)[name]


def save_figures(
    figures: Mapping[str, go.Figure], folder: Path, *, images: Sequence[str] = IMAGES
) -> dict[str, SavedFigure]:
    """Write several figures as ``save_figure`` does, their images in one run of the browser.

    Args:
        figures: File name without ending to figure.
        folder: Where to; made when it is missing.
        images: Which of svg, png and pdf to make.
    """
    folder = Path(folder)
    contents = {_checked(name): _contents(fig, name) for name, fig in figures.items()}
    drawn, note = draw_images(figures, images)
    saved = {}
    if contents:
        _share_plotly(folder)
    for name, files in contents.items():
        files |= {f"{name}.{kind}": image for kind, image in drawn[name].items()}
        saved[name] = SavedFigure(tuple(write_file(folder / file, content) for file, content in files.items()), note)
    return saved


def save_text_figure(text: TextFigure, folder: Path, name: str) -> SavedFigure:
    """Write a coloured text as a page of its own, ``name.html``, and its data as ``name.json`` and ``name.csv``.

    Args:
        text: What a function of this package returned.
        folder: Where to; made when it is missing.
        name: File name without ending.
    """
    record = {"title": "", "subtitle": "", "note": "", **_rows(packed(text.table))}
    files = {
        f"{_checked(name)}.html": f"{_HEAD.format(title=html.escape(name))}{text}</body></html>\n".encode(),
        f"{name}.json": _json(record),
        f"{name}.csv": _csv(text.table),
    }
    return SavedFigure(tuple(write_file(Path(folder) / file, content) for file, content in files.items()), "")


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadSetting(f"{name!r} is no name for a figure's files: use letters, digits, '.', '-' and '_' only.")
    return name


def _contents(fig: go.Figure, name: str) -> dict[str, bytes]:
    """Return file name to content of the page and of the data."""
    table = figure_table(fig)
    meta = layout_of(fig).meta
    record = {**{key: meta[key] for key in ("title", "subtitle", "note")}, **_rows(meta["table"])}
    body = fig.to_html(full_html=False, include_plotlyjs="directory", div_id=name, config=CONFIG)
    # Narrower screens scroll sideways: a figure that is squeezed loses its labels.
    box = f'<div style="min-width:{readable_width(fig)}px">{body}</div>'
    page = f"{_HEAD.format(title=html.escape(meta['title']))}{box}</body></html>\n"
    return {f"{name}.html": page.encode(), f"{name}.json": _json(record), f"{name}.csv": _csv(table)}


def page_of(fig: go.Figure, name: str) -> bytes:
    """Return one page that holds everything, plotly.js included.

    Args:
        fig: The figure.
        name: Of the page, where the figure has no title.
    """
    meta = layout_of(fig).meta
    title = meta["title"] if isinstance(meta, dict) else name
    body = fig.to_html(full_html=False, include_plotlyjs=True, config=CONFIG, div_id="figure")
    box = f'<div style="min-width:{readable_width(fig)}px">{body}</div>'
    return f"{_HEAD.format(title=html.escape(title))}{box}</body></html>\n".encode()


def _rows(kept: Mapping[str, Any]) -> dict[str, Any]:
    rows = zip(*kept["values"], strict=True)
    return {"columns": kept["columns"], "rows": [dict(zip(kept["columns"], row, strict=True)) for row in rows]}


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def _share_plotly(folder: Path) -> None:
    script = get_plotlyjs().encode("utf-8")
    shared = folder / _PLOTLY
    if not shared.is_file() or shared.stat().st_size != len(script):
        write_file(shared, script)
    else:
        remove_leftovers(shared)


def write_file(path: Path, content: bytes) -> Path:
    """Write a file in one step and return its path.

    Raises:
        MastlensError: If it cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise CannotWrite(
            f"Cannot write {path.name} to {path.parent}: {error.strerror}. Give a folder that can be written to."
        ) from error
    return path
