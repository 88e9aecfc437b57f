"""Tables as HTML: numbers written the way a reader expects them, and everything escaped."""

import html
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

Kind = Literal["percent", "points", "p", "count", "label", "number", "flag", "text"]

_LABELS = ("layer", "rank", "step", "seed", "index", "item")
_SHARES = ("accuracy", "before", "after", "share", "fraction")
_SHORT = 40  # characters of text that stay on one line
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")


def visible(text: object) -> str:
    """Return text as it is to be read.

    Control characters become their visible pictures, marks that would turn the reading direction their
    code, and characters that no encoding holds the replacement character: text from a model can have all.
    """
    shown = _CONTROL.sub(lambda match: "␡" if match[0] == "\x7f" else chr(0x2400 + ord(match[0])), str(text))
    shown = _DIRECTION.sub(lambda match: f"⟦U+{ord(match[0]):04X}⟧", shown)
    return shown.encode("utf-8", "replace").decode("utf-8")


def escaped(text: object) -> str:
    """Return text that is safe in a page and shows as what it is; see ``visible``."""
    return html.escape(visible(text))


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _number(value: float, decimals: int | None = None) -> str:
    if value == 0:
        return "0"
    if decimals is not None:
        return _signed(f"{value:,.{decimals}f}")
    if 1e-3 <= abs(value) < 1e6:
        return _signed(f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}")
    mantissa, exponent = f"{value:.2e}".split("e")
    return _signed(f"{mantissa}×10<sup>{int(exponent)}</sup>")


def _decimals(values: list[Any]) -> int | None:
    """Return one number of decimals for a column, or None where its values are too far apart for one."""
    sizes = [abs(float(v)) for v in values if not _missing(v) and math.isfinite(v) and v != 0]
    if not sizes or min(sizes) < 1e-3 or max(sizes) >= 1e6 or max(sizes) > 1e3 * min(sizes):
        return None
    return max(0, 3 - math.floor(math.log10(max(sizes))))


def _missing(value: Any) -> bool:
    return value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value)


def _p(value: float) -> str:
    if value < 1e-4:
        return "&lt;0.0001"
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _cell(value: Any, kind: Kind, decimals: int | None = None) -> str:
    if _missing(value):
        return '<span class="missing">–</span>'
    if kind == "text":
        return escaped(value)
    if kind == "flag":
        return "yes" if value else "no"
    if kind == "label":
        return _signed(f"{value}") if isinstance(value, int) else escaped(value)
    if kind == "count":
        return _signed(f"{value:,.0f}")
    number = float(value)
    if kind == "percent":
        return _signed(f"{100 * number:.1f}%")
    if kind == "points":
        return _signed(f"{100 * number:+.1f} pp")
    return _p(number) if kind == "p" else _number(number, decimals)


def _kind(name: str, column: pd.Series) -> Kind:
    """Return how a column is to be written, from its type and its name in the package's tables."""
    kind: Kind = "number"
    last = name.lower().split("_")[-1]
    if pd.api.types.is_bool_dtype(column):
        kind = "flag"
    elif not pd.api.types.is_numeric_dtype(column):
        kind = "text"
    elif name in _LABELS:
        kind = "label"
    elif pd.api.types.is_integer_dtype(column):
        kind = "count"
    elif last == "p" or name.lower().endswith("p_value"):
        kind = "p"
    elif last == "difference":
        kind = "points"
    elif last in _SHARES or "_fraction" in name:
        known = column.dropna()
        kind = "percent" if bool(((known >= 0) & (known <= 1)).all()) else "number"
    return kind


def _interval_kind(stem: str, kinds: Mapping[str, Kind], low: str) -> Kind:
    """Return the kind of an interval: that of the estimate it belongs to."""
    estimates = ("difference", "accuracy") if stem == "ci" else (f"{stem}_difference", f"{stem}_accuracy", stem)
    for name in (*estimates, low):
        kind = kinds.get(name)
        if kind is not None:
            return kind
    return "number"


def _interval(low: Any, high: Any, kind: Kind) -> str:
    ends = [_cell(end, kind) for end in (low, high)]
    if any("missing" in end for end in ends):
        return _cell(None, kind)
    unit = {"points": " pp", "percent": "%"}.get(kind, "")
    return f"[{', '.join(end.removesuffix(unit) for end in ends)}]{unit}"


def table_html(
    df: pd.DataFrame,
    *,
    caption: str = "",
    kinds: Mapping[str, Kind] | None = None,
    labels: Mapping[str, str] | None = None,
    max_rows: int = 200,
) -> str:
    """Return a table as HTML in a box of its own, which scrolls sideways when it is too wide.

    Numbers are aligned to the right with figures of equal width. Fractions are written as percentages,
    differences of fractions as percentage points, small p-values as a bound; two columns ``X_low`` and
    ``X_high`` become one interval. Everything is escaped.

    Args:
        df: The table.
        caption: What it shows.
        kinds: How to write a column, where its name and type do not say it: ``percent`` (a fraction),
            ``points`` (a difference of fractions), ``p``, ``count``, ``label`` (a number that names something),
            ``number``, ``flag`` or ``text``.
        labels: Column headings other than the column's name.
        max_rows: Rows beyond this are left out, and the caption says so.
    """
    labels = labels or {}
    names = [str(column) for column in df.columns]
    found: dict[str, Kind] = {
        name: _kind(name, pd.Series(df[column])) for name, column in zip(names, df.columns, strict=True)
    }
    found.update(kinds or {})
    shown = df.iloc[:max_rows]
    values = {name: shown[column].tolist() for name, column in zip(names, df.columns, strict=True)}

    columns: list[tuple[str, str, list[str]]] = []  # heading, class, cells
    for name in names:
        stem = name.removesuffix("_low").removesuffix("_high")
        low, high = f"{stem}_low", f"{stem}_high"
        if stem != name and low in values and high in values and found[low] != "text":
            if name == low:
                kind = _interval_kind(stem, found, low)
                ends = zip(values[low], values[high], strict=True)
                heading = "interval" if stem == "ci" else f"{stem.replace('_', ' ')} interval"
                columns.append((labels.get(low, heading), "n", [_interval(a, b, kind) for a, b in ends]))
            continue
        kind, decimals = found[name], None
        if kind == "number":
            decimals = _decimals(values[name])
        look = "n"
        if kind in ("text", "flag"):
            look = "s" if all(len(str(value)) <= _SHORT for value in values[name]) else "l"
        cells = [_cell(value, kind, decimals) for value in values[name]]
        columns.append((labels.get(name, name.replace("_", " ")), look, cells))

    head = "".join(f'<th scope="col" class="{look}">{escaped(heading)}</th>' for heading, look, _ in columns)
    body = "".join(
        "<tr>" + "".join(f'<td class="{look}">{cells[i]}</td>' for _, look, cells in columns) + "</tr>\n"
        for i in range(len(shown))
    )
    rest = f" (the first {len(shown):,} of {len(df):,} rows)" if len(df) > len(shown) else ""
    said = f"<figcaption>{escaped(caption)}{rest}</figcaption>\n" if caption or rest else ""
    return (
        f'<figure class="table">\n{said}<div class="scroll" tabindex="0">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n</figure>\n"
    )
