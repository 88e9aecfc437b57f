"""What several figures have: open marks where nothing is told, bars of an interval, bands of chance, whole ticks."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.plots.frame import colour_with
from mastlens.plots.tables import flags, numbers

_BAND = 0.15
_EVERY = 16
"""Whole numbers at the most of which each is marked."""


def told_symbols(table: pd.DataFrame, column: str) -> list[str]:
    """Return a filled circle for each row in which a column of verdicts says yes, an open one for the others."""
    return ["circle" if one else "circle-open" for one in flags(table, column)]


def interval_bars(table: pd.DataFrame, column: str, *, thickness: float = 1) -> dict[str, Any]:
    """Return the error bars of a column that stands beside its interval, ``COLUMN_low`` and ``COLUMN_high``."""
    value = numbers(table, column)
    ends = {"array": numbers(table, f"{column}_high") - value, "arrayminus": value - numbers(table, f"{column}_low")}
    return {**ends, "thickness": thickness, "width": 3}


def whole_ticks(values: np.ndarray) -> dict[str, Any]:
    """Return how an axis of whole numbers is marked: never between two of them."""
    known = values[np.isfinite(values)]
    close = len(known) > 0 and np.ptp(known) <= _EVERY
    return {"tickformat": "d", **({"dtick": 1} if close else {})}


def add_band(fig: go.Figure, table: pd.DataFrame, at: str, low: str, high: str, colour: str) -> None:
    """Shade what lies between two columns, along a third; rows without a low end are left out."""
    known = table[np.isfinite(numbers(table, low))]
    x, below, above = (numbers(known, column) for column in (at, low, high))
    fig.add_trace(
        go.Scatter(
            x=np.concatenate([x, x[::-1]]),
            y=np.concatenate([above, below[::-1]]),
            mode="lines",
            fill="toself",
            fillcolor=colour_with(colour, _BAND),
            line={"width": 0},
            showlegend=False,
            hoverinfo="skip",
        )
    )
