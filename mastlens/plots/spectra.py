"""Singular spectra of the increments, with the floor that the checkpoint's precision sets."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain, short
from mastlens.plots.heat import KEYS, CellGrid
from mastlens.plots.honest import honest
from mastlens.plots.layers import layer_bar, layer_shade
from mastlens.plots.tables import distinct, need, numbers, ordered, records, rows_with, take, where, words
from mastlens.plots.template import INK

_COLUMNS = ("increment", *KEYS, "index", "singular_value", "precision_floor")
_NAMES = {"sft": "SFT", "rlvr": "RLVR"}


@honest
def plot_spectra(spectra: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw the singular values of every increment, one panel a projection, one line a layer.

    Increments stand below each other with the same vertical range.

    Args:
        spectra: One row per singular value: ``increment``, ``layer``, ``projection``, ``name``, ``index``,
            ``singular_value`` and ``precision_floor`` (what rounding to the checkpoint's dtype alone would
            give; missing or 0 where there is none).
        title: The point in plain words; by default how many directions carry half of the energy.
        subtitle: Model, revision, dtype, seed.
    """
    need(spectra, _COLUMNS, figure="plot_spectra", writer="the spectra function of mastlens.analysis")
    drawn = ordered(take(spectra, _COLUMNS), "increment", "layer", "projection", "index")
    grid = CellGrid.of(drawn)
    present = distinct(drawn, "increment")
    increments = [name for name in ("sft", "rlvr") if name in present]
    increments += [name for name in present if name not in increments]
    fig = make_subplots(
        len(increments),
        len(grid.projections),
        shared_yaxes=True,
        shared_xaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.06,
        column_titles=[plain(projection) for projection in grid.projections],
    )
    values = numbers(drawn, "singular_value")
    positive = values[values > 0]
    increment_of, projection_of = (np.asarray(words(drawn, key)) for key in ("increment", "projection"))
    for row, increment in enumerate(increments, start=1):
        for col, projection in enumerate(grid.projections, start=1):
            part = where(drawn, (increment_of == increment) & (projection_of == projection))
            for layer in sorted(set(part["layer"].tolist())):
                tensor = where(part, numbers(part, "layer") == layer)
                shade = layer_shade(grid, layer)
                _add_line(fig, tensor, shade, row, col)
            _add_floor(fig, part, row, col)
        fig.update_yaxes(
            title_text=f"{_NAMES.get(increment, plain(increment))} increment,<br>singular value",
            row=row,
            col=1,
        )
    fig.update_yaxes(type="log", exponentformat="power", dtick=1, zeroline=False)
    low = high = 0.0
    if positive.size:
        # Exact zeros and rounding dust would stretch a logarithmic axis over everything else.
        low, high = np.log10(max(positive.min(), positive.max() * 1e-6)), np.log10(positive.max())
        fig.update_yaxes(range=[low - 0.15, high + 0.15])
    fig.update_xaxes(title_text="index", row=len(increments))
    fig.add_trace(layer_bar(grid), row=1, col=1)
    floor = numbers(drawn, "precision_floor")
    if not (floor > 0).any():
        note = "No floor is drawn: the table gives none above zero."
    elif positive.size and floor.max() < 10 ** (low - 0.15):
        note = (
            f"What rounding to the checkpoint's precision alone would give, at most {short(floor.max())}, lies below."
        )
    else:
        note = (
            "Dashed: what rounding to the checkpoint's precision alone would give; a singular value below it "
            "means nothing."
        )
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, increments),
        subtitle=subtitle,
        note=note,
        plot_height=260 * len(increments) + 20,
        panel_titles=True,
        left=84,
        right=84,
        min_width=680,
    )


def _add_line(fig: go.Figure, tensor: pd.DataFrame, colour: str, row: int, col: int) -> None:
    first = records(tensor)[0]
    values = numbers(tensor, "singular_value")
    fig.add_trace(
        go.Scatter(
            x=numbers(tensor, "index"),
            y=np.where(values > 0, values, np.nan),
            mode="lines",
            line={"color": colour, "width": 1.5},
            name=f"layer {first['layer']}",
            showlegend=False,
            customdata=numbers(tensor, "precision_floor"),
            hovertemplate=f"<b>{plain(first['name'])}</b><br>layer {first['layer']}, projection "
            f"{plain(first['projection'])}<br>singular value %{{x}}: %{{y:.4g}}"
            "<br>floor of the precision: %{customdata:.3g}<extra></extra>",
        ),
        row=row,
        col=col,
    )


def _add_floor(fig: go.Figure, part: pd.DataFrame, row: int, col: int) -> None:
    """Draw the highest floor of the panel's tensors: what lies below it may be rounding."""
    highest: dict[float, float] = {}
    for index, floor in zip(numbers(part, "index"), numbers(part, "precision_floor"), strict=True):
        if floor > 0:
            highest[index] = max(floor, highest.get(index, 0.0))
    if not highest:
        return
    fig.add_trace(
        go.Scatter(
            x=sorted(highest),
            y=[highest[index] for index in sorted(highest)],
            mode="lines",
            line={"color": INK, "width": 1.4, "dash": "dash"},
            name="floor of the checkpoint's precision",
            showlegend=False,
            hovertemplate="floor of the checkpoint's precision: %{y:.3g}<extra></extra>",
        ),
        row=row,
        col=col,
    )


def _title(drawn: pd.DataFrame, increments: list[str]) -> str:
    """Say how concentrated each increment is: how many directions carry half of its energy."""
    parts = []
    for increment in increments:
        half = []
        part = rows_with(drawn, "increment", increment)
        tensors = np.asarray(words(part, "name"))
        for name in dict.fromkeys(tensors.tolist()):
            energy = np.sort(numbers(part, "singular_value")[tensors == name])[::-1] ** 2
            if energy.sum() > 0:
                half.append(int(np.searchsorted(np.cumsum(energy), energy.sum() / 2)) + 1)
        if half:
            parts.append(f"{np.median(half):.0f} directions in {_NAMES.get(increment, increment)}")
    if not parts:
        return "No increment: every singular value is zero"
    return f"Half of the increment's energy lies in {' and '.join(parts)} (median tensor)"
