"""A card: one result in a sentence, ten rows, a small map and the next call; as HTML without script, and as text.

The HTML takes its colours from where it stands, so that it reads on light and on dark; every text is escaped.
"""

import html
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

ROWS = 10
"""Rows of a table that a card shows."""
LONGEST = 60
"""Characters of a cell that a card shows."""
_CELL, _GAP = 12, 2  # pixels
SIGNED = "orange above, blue below, framed where chance is ruled out"
_STEPS = 5  # shades on each side of zero
_WARM, _COOL, _FLAT = "#D55E00", "#0072B2", "#8A8A8A"
_STYLE = (
    "<style>.mastlens-card{border:1px solid rgba(128,128,128,.55);border-radius:6px;padding:.7em 1em;margin:.4em 0;"
    "max-width:60em;font:14px/1.45 system-ui,-apple-system,'Segoe UI',sans-serif;overflow-x:auto}"
    ".mastlens-card p{margin:.25em 0}.mastlens-card .said{font-size:1.05em}"
    ".mastlens-card table{border-collapse:collapse;margin:.5em 0;font-size:13px;background:transparent;"
    "color:inherit}"
    ".mastlens-card th,.mastlens-card td{padding:.12em .7em;text-align:right;background:transparent;color:inherit;"
    "border:0;white-space:nowrap}.mastlens-card th{border-bottom:1px solid rgba(128,128,128,.55);font-weight:600}"
    ".mastlens-card .word{text-align:left}.mastlens-card .small{font-size:12px}"
    ".mastlens-card code{background:rgba(128,128,128,.15);padding:.1em .35em;border-radius:3px;color:inherit}</style>"
)


@dataclass(frozen=True)
class CellMap:
    """A small map: a signed number a layer and column, zero being chance.

    Attributes:
        values: The numbers; NaN where there is none.
        columns: Name of each column.
        label: What the numbers are.
        beyond: Whether chance is ruled out there; framed.
        floor: Whether it lies below the precision floor; hatched.
        key: What colours and frames say.
    """

    values: Float[np.ndarray, "layers columns"]
    columns: Sequence[str]
    label: str
    beyond: Bool[np.ndarray, "layers columns"]
    floor: Bool[np.ndarray, "layers columns"]
    key: str = SIGNED

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        values: pd.Series,
        label: str,
        *,
        beyond: pd.Series | None = None,
        floor: pd.Series | None = None,
        key: str = SIGNED,
    ) -> "CellMap | None":
        """Return the map of a table with ``layer`` and ``projection``; None where it has no place for a cell.

        Of several rows in one place the one that is largest in magnitude is shown.

        Args:
            table: One row a projection.
            values: A number a row of it.
            label: What the numbers are.
            beyond: Whether chance is ruled out; None for nowhere.
            floor: Whether the row lies below the precision floor; None for nowhere.
            key: What colours and frames say.
        """
        no = pd.Series(False, index=table.index)
        placed = pd.DataFrame(
            {
                "layer": table["layer"],
                "column": table["projection"],
                "value": values.astype(float),
                "beyond": (no if beyond is None else beyond).fillna(False).astype(bool),
                "floor": (no if floor is None else floor).fillna(False).astype(bool),
            }
        )
        placed = placed[(placed["layer"] >= 0) & (placed["column"] != "")]
        if placed.empty or not np.isfinite(placed["value"]).any():
            return None
        placed = placed.loc[placed["value"].abs().fillna(-1).groupby([placed["layer"], placed["column"]]).idxmax()]
        order = [c for c in ("q", "k", "v", "o") if c in set(placed["column"])]
        order += sorted(set(placed["column"]) - set(order))
        layers = range(int(placed["layer"].max()) + 1)

        def laid(key: str, missing: Any) -> np.ndarray:
            wide = placed.pivot(index="layer", columns="column", values=key).reindex(index=layers, columns=order)
            return np.where(wide.isna().to_numpy(), missing, wide.to_numpy(dtype=object))

        return cls(
            laid("value", math.nan).astype(float),
            order,
            label,
            laid("beyond", False).astype(bool),
            laid("floor", False).astype(bool),
            key,
        )

    @property
    def svg(self) -> str:
        """The map, layers from left to right; one path a shade, so that it stays small."""
        rows, columns = self.values.shape[::-1]
        size, left = _CELL + _GAP, 14
        shades: dict[tuple[str, float], list[str]] = {}
        frames = []
        known = np.abs(self.values[np.isfinite(self.values) & ~self.floor])
        most = float(known.max()) if known.size else 0.0
        for (layer, row), value in np.ndenumerate(self.values):
            x, y = left + layer * size, row * size
            square = f"M{x} {y}h{_CELL}v{_CELL}h-{_CELL}z"
            if self.floor[layer, row]:
                shades.setdefault((_FLAT, 0.3), []).append(f"M{x} {y + _CELL}l{_CELL}-{_CELL}v2l-{_CELL} {_CELL}z")
            elif math.isfinite(value):
                step = round(_STEPS * abs(value) / most) if most else 0
                shade = (_FLAT, 0.12) if not step else (_WARM if value > 0 else _COOL, round(step / _STEPS, 2))
                shades.setdefault(shade, []).append(square)
            if self.beyond[layer, row]:
                frames.append(square)
        names = "".join(
            f'<text x="0" y="{row * size + _CELL - 1}" font-size="10" fill="currentColor">{html.escape(str(name))[:6]}'
            "</text>"
            for row, name in enumerate(self.columns)
        )
        filled = "".join(f'<path fill="{c}" fill-opacity="{o}" d="{"".join(d)}"/>' for (c, o), d in shades.items())
        framed = f'<path fill="none" stroke="currentColor" d="{"".join(frames)}"/>' if frames else ""
        width, height = left + columns * size + 2, rows * size + 2
        return (
            f'<svg role="img" aria-label="{html.escape(self.said, quote=True)}" width="{width}" height="{height}" '
            f'viewBox="-1 -1 {width} {height}">{names}{filled}{framed}</svg>'
        )

    @property
    def said(self) -> str:
        """The map in words."""
        framed, shown = int(self.beyond.sum()), int(np.isfinite(self.values).sum())
        layers = f"layers 0 to {len(self.values) - 1} from left to right"
        parts = [f"{self.label}, {layers}: {self.key} ({framed} of {shown})"]
        if self.floor.any():
            parts.append(f"hatched below the precision floor ({int(self.floor.sum())})")
        return "; ".join(parts) + "."


@dataclass(frozen=True)
class Card:
    """What a result says at first glance.

    Attributes:
        title: What it is.
        verdict: What it says, in a sentence or two; only what is beyond its null counts.
        rows: The rows that matter, the first of them the most.
        of: Number of rows that there are; as many as ``rows`` has by default.
        map: A small map; None for none.
        next: Calls to make next.
    """

    title: str
    verdict: str
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    of: int | None = None
    map: CellMap | None = None
    next: Sequence[str] = ()

    @property
    def shown(self) -> pd.DataFrame:
        """The rows as text: the first ten, without columns that say nothing."""
        head = self.rows.head(ROWS)
        kept = [name for name in head if head[name].notna().any()]
        return pd.DataFrame({_cell(name): [_cell(value) for value in head[name]] for name in kept})

    @property
    def left(self) -> int:
        """Number of rows that are not shown."""
        return max(0, (len(self.rows) if self.of is None else self.of) - min(len(self.rows), ROWS))

    @property
    def html(self) -> str:
        """The card for a notebook."""
        parts = [_STYLE, f'<div class="mastlens-card" role="group" aria-label="{html.escape(self.title, quote=True)}">']
        parts.append(f'<p class="said"><b>{html.escape(self.title)}.</b> {html.escape(self.verdict)}</p>')
        if self.map is not None:
            parts.append(f'{self.map.svg}<p class="small">{html.escape(self.map.said)}</p>')
        shown = self.shown
        if len(shown):
            words = {_cell(name): not _number(self.rows[name]) for name in self.rows}
            names = [str(name) for name in shown]
            head = "".join(_tagged("th", name, words[name]) for name in names)
            cells = (zip(row, names, strict=True) for row in shown.to_numpy())
            lines = ("".join(_tagged("td", text, words[name]) for text, name in row) for row in cells)
            body = "".join(f"<tr>{line}</tr>" for line in lines)
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        if self.left:
            parts.append(f'<p class="small">{self.left:,} more rows in its tables.</p>')
        if self.next:
            calls = " ".join(f"<code>{html.escape(call)}</code>" for call in self.next)
            parts.append(f'<p class="small">Next: {calls}</p>')
        return "".join([*parts, "</div>"])

    @property
    def text(self) -> str:
        """The card for a terminal, as wide as that is."""
        width = shutil.get_terminal_size((100, 24)).columns
        lines = [_printable(f"{self.title}. {self.verdict}")]
        shown = self.shown
        if len(shown):
            lines.append(shown.to_string(index=False, line_width=width))
        if self.left:
            lines.append(f"{self.left:,} more rows in its tables.")
        if self.next:
            lines.append("Next: " + "   ".join(map(_printable, self.next)))
        return "\n".join(lines)


def _number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column)) and not pd.api.types.is_bool_dtype(column)


def _tagged(tag: str, text: str, word: bool) -> str:
    return f"<{tag}{' class=word' if word else ''}>{html.escape(str(text))}</{tag}>"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    text = _printable(str(value))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _printable(text: str) -> str:
    """Return text in one line, without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
