"""Figures on disk: the page, the data behind it, and a vector image where the machine can make one."""

import html
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mastlens.errors import MastlensError
from mastlens.files import atomic_path
from mastlens.plots.tables import figure_table, layout_of

CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "displayModeBar": "hover",
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],  # none that sends data anywhere
}
"""How a figure behaves in a page."""

_SVG_SIZE = 900
_PLOTLY = "plotly.min.js"


@dataclass(frozen=True)
class SavedFigure:
    """What was written.

    Attributes:
        paths: The files, in the order html, json, csv, svg; the shared plotly.min.js is not among them.
        note: Why there is no vector image, as one line; empty when there is one.
    """

    paths: tuple[Path, ...]
    note: str


def save_figure(fig: go.Figure, folder: Path, name: str) -> SavedFigure:
    """Write ``name.html``, the data as ``name.json`` and ``name.csv``, and ``name.svg`` where possible.

    The page loads ``plotly.min.js`` from its own folder, where it is kept once for all figures; nothing
    comes from the network.

    Args:
        fig: A figure of this package.
        folder: Where to; made when it is missing.
        name: File name without ending.

    Returns:
        The files, and a line that says why there is no SVG when there is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise MastlensError(f"{name!r} is no name for a figure's files: use letters, digits, '.', '-' and '_' only.")
    folder = Path(folder)
    table = figure_table(fig)
    meta = layout_of(fig).meta
    record = {
        "title": meta["title"],
        "subtitle": meta["subtitle"],
        "note": meta["note"],
        "columns": meta["table"]["columns"],
        "rows": [
            dict(zip(meta["table"]["columns"], row, strict=True)) for row in zip(*meta["table"]["values"], strict=True)
        ],
    }
    body = fig.to_html(full_html=False, include_plotlyjs="directory", div_id=name, config=CONFIG)
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(meta['title'])}</title></head>\n<body>{body}</body></html>\n"
    )
    contents = {
        f"{name}.html": page,
        f"{name}.json": json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        f"{name}.csv": table.to_csv(index=False, lineterminator="\n"),
    }
    image, note = _svg(fig)
    script = get_plotlyjs().encode("utf-8")
    shared = folder / _PLOTLY
    try:
        if not shared.is_file() or shared.stat().st_size != len(script):
            _write(shared, script)
        paths = [_write(folder / file, content.encode("utf-8")) for file, content in contents.items()]
        if image is not None:
            paths.append(_write(folder / f"{name}.svg", image))
    except OSError as error:
        raise MastlensError(
            f"Cannot write the figure {name!r} to {folder}: {error.strerror}. Give a folder that can be written to."
        ) from error
    return SavedFigure(tuple(paths), note)


def _write(path: Path, content: bytes) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def _svg(fig: go.Figure) -> tuple[bytes | None, str]:
    """Return the figure as SVG, or the one line that says why it cannot be made."""
    if importlib.util.find_spec("kaleido") is None:
        return None, "No SVG: kaleido is not installed. pip install 'mastlens[static]' adds it."
    try:
        return fig.to_image(format="svg", width=_SVG_SIZE, height=layout_of(fig).height), ""
    except Exception as error:  # kaleido raises what its browser raises; a figure's other files still count
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return None, f"No SVG: {lines[0].rstrip('.')}. It needs Chrome or Chromium on this machine."
