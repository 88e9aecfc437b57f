"""A run's later steps as its early ones predict them, beside what really came and beside not moving on."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain
from mastlens.plots.heat import KEYS, CellGrid, hover_text
from mastlens.plots.honest import honest
from mastlens.plots.tables import need, numbers, ordered, records, rows_with, take, where, words
from mastlens.plots.template import BLUE, GREY, MUTED, VERMILLION

_ERRORS = {
    "last_error": ("the line, extrapolated", BLUE, "circle"),
    "last_error_stay": ("stay at the last fitted step", VERMILLION, "square"),
    "last_error_walk": ("the line, if the run were a random walk", GREY, "line-ew"),
}


@honest
def plot_extrapolation(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw how far the extrapolated last step lies from the real one, tensor by tensor, beside two simpler guesses.

    The error is |predicted − real update| / |real update|: 0 is the run as it came, 1 is as wrong as predicting the
    start.

    Args:
        table: ``trajectory.parquet``, fitted on a part of the run (``--window``); only its attention projections are
            drawn.
        title: The point in plain words; by default in how many tensors the line beats staying where one is.
        subtitle: Model, revision, dtype, seed.
    """
    columns = (*KEYS, *_ERRORS, "steps", "fitted")
    need(table, columns, figure="plot_extrapolation", writer="mastlens trajectory --window N")
    attention = where(table, [p != "" for p in words(table, "projection")])
    need(attention, columns, figure="plot_extrapolation (attention projections)", writer="mastlens trajectory")
    drawn = ordered(take(attention, columns), "layer", "projection")
    grid = CellGrid.of(drawn)
    fig = make_subplots(
        1,
        len(grid.projections),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        column_titles=[plain(projection) for projection in grid.projections],
    )
    lines = {"error of the line": "{last_error:.3f}", "of staying": "{last_error_stay:.3f}"}
    lines |= {"a random walk's line": "{last_error_walk:.3f}"}
    for col, projection in enumerate(grid.projections, start=1):
        part = rows_with(drawn, "projection", projection)
        hover = hover_text(part, lines)
        for column, (name, colour, symbol) in _ERRORS.items():
            marker = {"size": 9, "color": colour, "symbol": symbol, "line": {"width": 0}}
            if symbol == "line-ew":
                marker |= {"size": 13, "line": {"width": 2, "color": colour}}
            fig.add_trace(
                go.Scatter(
                    x=numbers(part, "layer"),
                    y=numbers(part, column),
                    mode="markers",
                    marker=marker,
                    name=name,
                    legendgroup=column,
                    showlegend=col == 1,
                    customdata=hover,
                    hovertemplate="%{customdata}<extra></extra>",
                ),
                row=1,
                col=col,
            )
        # After the points: plotly leaves lines out of a panel that is still empty.
        fig.add_hline(y=1, line={"color": MUTED, "width": 1, "dash": "dot"}, row=1, col=col)  # pyright: ignore[reportArgumentType]
    fig.update_xaxes(title_text="layer", tickformat="d", nticks=9, zeroline=False, showgrid=False)
    fig.update_yaxes(title_text="|predicted − real| / |real update|", zeroline=False, col=1)
    values = np.concatenate([numbers(drawn, column) for column in _ERRORS])
    fig.update_yaxes(range=[0, 1.06 * max(1.0, float(np.nanmax(values, initial=0.0)))])
    first = records(drawn)[0]
    return finish(
        fig,
        drawn,
        title=title or _title(drawn),
        subtitle=subtitle,
        note=f"Fitted on the first {first['fitted']} of {first['steps']} steps, held against the last. Dotted: the "
        "error of predicting no update at all. A random walk has no direction, yet its line looks good, too: only "
        "what lies below the grey marks speaks for a direction.",
        plot_height=320,
        legend_rows=1,
        panel_titles=True,
        left=76,
        min_width=680,
    )


def _title(drawn: pd.DataFrame) -> str:
    line, stay, walk = (numbers(drawn, column) for column in _ERRORS)
    known = np.isfinite(line) & np.isfinite(stay)
    if not known.any():
        return "The line was fitted on all steps: there is nothing that it predicts"
    better = int((line < stay)[known].sum())
    below = int((line < walk)[known & np.isfinite(walk)].sum())
    return (
        f"Extrapolation beats staying in {better} of {count(int(known.sum()), 'projection')}, and a random walk's line "
        f"in {below} (median error {np.median(line[known]):.2f}, staying {np.median(stay[known]):.2f})"
    )
