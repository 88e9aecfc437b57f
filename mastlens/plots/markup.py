"""Text from tables in a figure: plotly reads some HTML in every label, links among it; tables come from strangers."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

_OURS = re.compile(r"<(?!(?:/?(?:b|i|sub|sup|extra)|br)>)")
_ANY = re.compile(r"<")
_PLACES = frozenset({"x", "y", "z", "x0", "x1", "y0", "y1", "tickvals", "categoryarray", "ids", "labels", "parents"})
"""Keys whose texts are values out of a table and nothing that was composed here."""


def without_markup(fig: go.Figure) -> None:
    """Let nothing in a figure be read as markup but the line breaks, bold and raised text of composed labels.

    Labels are escaped where they are composed (``frame.plain``); this catches what reaches an axis, a legend or a hover
    text by another way, such as the names of categories. Figures without such text stay as they are.
    """
    traces: Any = fig.data
    for trace in traces:
        if changed := _changed(trace.to_plotly_json()):
            trace.update(changed, overwrite=True)
    layout = {key: value for key, value in fig.layout.to_plotly_json().items() if key not in ("meta", "template")}
    if changed := _changed(layout):
        fig.layout.update(changed, overwrite=True)


def _changed(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys whose values hold markup, with values that do not."""
    return {key: clean for key, value in part.items() if (clean := _clean(value, key)) is not value}


def _clean(value: Any, key: str) -> Any:
    """Return a value without markup: itself where it has none."""
    if isinstance(value, str):
        tag = _ANY if key in _PLACES else _OURS
        return tag.sub("&lt;", value) if "<" in value and tag.search(value) else value
    if isinstance(value, Mapping):
        changed = _changed(value)
        return {**value, **changed} if changed else value
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "OU":
            return value
        items = value.tolist()
        cleaned = _clean(items, key)
        return value if cleaned is items else np.array(cleaned, dtype=object)
    if isinstance(value, list | tuple):
        items = [_clean(item, key) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else type(value)(items)
    return value
