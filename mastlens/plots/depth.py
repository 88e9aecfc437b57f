"""How deep forgetting goes: what each layer's states of another model take away from the source."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import colour_with, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.marks import whole_ticks
from mastlens.plots.tables import distinct, need, need_unique, numbers, records, rows_with, take, where
from mastlens.plots.template import BLUE, MUTED, VERMILLION

_COLUMNS = ("split", "layer", "items", "encoding", "reference_drop", "reference_drop_low", "reference_drop_high")
_COLUMNS = (*_COLUMNS, "edited_drop", "edited_drop_low", "edited_drop_high", "erased", "erased_low", "erased_high")
_LINES = {
    "reference_drop": (BLUE, "triangle-up", "states of the reference, retrained without it"),
    "edited_drop": (VERMILLION, "circle", "states of the edited model"),
}


@honest
def plot_depth(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw how much log-probability the source loses with each layer's states of the reference and of the edited model.

    Args:
        table: ``depth.parquet``.
        title: The point in plain words; by default the depth score of the first split.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, _COLUMNS, figure="plot_depth", writer="mastlens depth-score")
    drawn = take(table, _COLUMNS)
    need_unique(drawn, ["split", "layer"], figure="plot_depth")
    splits = distinct(drawn, "split")
    whole = {row["split"]: row for row in records(rows_with(drawn, "layer", "-1"))}
    fig = make_subplots(
        1,
        len(splits),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[_panel(whole[split]) for split in splits],
    )
    for col, split in enumerate(splits, start=1):
        part = rows_with(drawn, "split", split)
        part = where(part, numbers(part, "layer") >= 0)
        for column, (colour, symbol, name) in _LINES.items():
            _add_line(fig, part, column, colour, symbol, name, col)
        fig.add_hline(y=0, line={"color": MUTED, "width": 1.2}, row=1, col=col)  # pyright: ignore[reportArgumentType] - a number, too
        ticks = whole_ticks(numbers(part, "layer"))
        fig.update_xaxes(title_text="layer whose states are put in", **ticks, showgrid=False, row=1, col=col)
    fig.update_yaxes(title_text="log-probability lost (nats a token)", zeroline=False, row=1, col=1)
    return finish(
        fig,
        drawn,
        title=title or _title(whole[splits[0]]),
        subtitle=subtitle,
        note="Bands: 95 % intervals over items. At 0 the source knows as much as with its own states; where both lines "
        "meet, the edited model lacks what the retrained one lacks. Depth: 0 nothing of it, 1 all of it.",
        plot_height=320,
        legend_rows=1,
        panel_titles=True,
        left=80,
        min_width=180 + 300 * len(splits),
    )


def _panel(row: dict[str, Any]) -> str:
    return f"{plain(row['split'])}: {_score(row)}"


def _score(row: dict[str, Any]) -> str:
    if row["encoding"] < 3:
        return f"{row['encoding']} of {row['items']} items encoded"
    ends = f" [{row['erased_low']:.2f}, {row['erased_high']:.2f}]" if row["erased_low"] == row["erased_low"] else ""
    return f"depth {row['erased']:.2f}{ends}"


def _title(row: dict[str, Any]) -> str:
    if row["encoding"] < 3:
        return f"On {plain(row['split'])}, hardly a layer holds anything that the reference lacks"
    return f"Of what the retrained model lacks on {plain(row['split'])}, the edited model lacks {row['erased']:.0%}"


def _add_line(fig: go.Figure, part: pd.DataFrame, column: str, colour: str, symbol: str, name: str, col: int) -> None:
    layers = list(numbers(part, "layer"))
    low, high = (list(numbers(part, f"{column}_{end}")) for end in ("low", "high"))
    if len(part) and low[0] == low[0]:
        band = {"x": [*layers, *layers[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "mode": "lines"}
        look = {"fillcolor": colour_with(colour, 0.12), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        fig.add_trace(go.Scatter(**band, **look), row=1, col=col)
    hover = [
        f"<b>layer {row['layer']}</b><br>{name}<br>{row[column]:.4g} nats a token lost"
        f"<br>{row['encoding']} of {row['items']} items encoded here"
        + (f"<br>{row['erased']:.0%} erased" if row["erased"] == row["erased"] else "")
        for row in records(part)
    ]
    fig.add_trace(
        go.Scatter(
            x=layers,
            y=list(numbers(part, column)),
            mode="lines+markers",
            marker={"size": 7, "symbol": symbol},
            line={"color": colour, "width": 2},
            name=name,
            legendgroup=name,
            showlegend=col == 1,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        ),
        row=1,
        col=col,
    )
