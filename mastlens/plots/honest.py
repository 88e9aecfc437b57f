"""What a figure function returns where there is nothing to draw: a figure that says so."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd
import plotly.graph_objects as go

from mastlens.plots.cells import escaped
from mastlens.plots.figure import TextFigure
from mastlens.plots.frame import finish
from mastlens.plots.tables import NothingToDraw

P = ParamSpec("P")
R = TypeVar("R")


def honest(draw: Callable[Concatenate[pd.DataFrame, P], R]) -> Callable[Concatenate[pd.DataFrame, P], R]:
    """Let a figure function draw a table without rows, or without a value, too: as a figure that says that it is so.

    A table that lacks a column is refused, as ever: it is another table.

    Args:
        draw: A function of a table, which checks it by ``need``.
    """
    text = draw.__name__.endswith("_html")

    @wraps(draw)
    def drawn(table: pd.DataFrame, *args: P.args, **options: P.kwargs) -> R:
        try:
            return draw(table, *args, **options)
        except NothingToDraw as nothing:
            made: Any = _said(nothing, table) if text else _empty(nothing, table, str(options.get("subtitle", "")))
            return made

    return drawn


def _said(nothing: NothingToDraw, table: pd.DataFrame) -> TextFigure:
    return TextFigure(f'<figure class="nothing"><figcaption>{escaped(_title(nothing))}</figcaption></figure>\n', table)


def _empty(nothing: NothingToDraw, table: pd.DataFrame, subtitle: str) -> go.Figure:
    fig = go.Figure()
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False)
    return finish(fig, table, title=_title(nothing), subtitle=subtitle, note=str(nothing), plot_height=40, bottom=12)


def _title(nothing: NothingToDraw) -> str:
    return f"Nothing to draw: {nothing.why}"
