"""Which singular directions of the increment couple to a gradient, and which of them beyond chance."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.heat import KEYS, CellGrid
from mastlens.plots.honest import honest
from mastlens.plots.layers import layer_bar, layer_shade
from mastlens.plots.tables import distinct, flags, need, numbers, ordered, records, rows_with, take, where, words
from mastlens.plots.template import MUTED
from mastlens.statistics import claim

_COLUMNS = (*KEYS, "side", "index", "directions", "singular_value", "coefficient", "contribution", "cosine_part", "z")
_COLUMNS = (*_COLUMNS, "above_chance")


@honest
def plot_coupling_spectrum(
    spectrum: pd.DataFrame, *, side: str = "forget", title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw the gradient along the increment's singular directions: above, against chance; below, summed up.

    The upper row has each direction's coefficient in standard deviations of what directions turned at random give;
    filled are those that the table calls above chance. How far out that is depends on how many directions the gradient
    has. The lower row adds the directions' parts of the cosine up, largest direction first: it ends at the tensor's
    cosine.

    Args:
        spectrum: ``coupling_spectrum.parquet``.
        side: ``forget`` or ``retain``.
        title: The point in plain words; by default how many directions stand out, and how many carry the coupling.
        subtitle: Model, revision, dtype, seed.
    """
    need(spectrum, _COLUMNS, figure="plot_coupling_spectrum", writer="mastlens couple")
    if side not in (sides := distinct(spectrum, "side")):
        raise unknown("side", side, sides)
    drawn = ordered(take(rows_with(spectrum, "side", side), _COLUMNS), "layer", "projection", "index")
    drawn["cosine_so_far"] = drawn.groupby("name", sort=False)["cosine_part"].cumsum()
    grid = CellGrid.of(drawn)
    fig = make_subplots(
        2,
        len(grid.projections),
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.07,
        horizontal_spacing=0.03,
        subplot_titles=[plain(projection) for projection in grid.projections],
    )
    for col, projection in enumerate(grid.projections, start=1):
        part = rows_with(drawn, "projection", projection)
        for layer in grid.layers:
            rows = where(part, numbers(part, "layer") == layer)
            if rows.empty:
                continue
            alone = where(rows, numbers(rows, "directions") == 1)
            beyond = flags(alone, "above_chance")
            colour = layer_shade(grid, layer)
            fig.add_trace(
                go.Scatter(
                    x=numbers(alone, "index"),
                    y=numbers(alone, "z"),
                    mode="markers",
                    marker={"color": colour, "size": 5, "symbol": np.where(beyond, "circle", "circle-open").tolist()},
                    showlegend=False,
                    hovertext=_hover(alone),
                    hoverinfo="text",
                ),
                row=1,
                col=col,
            )
            fig.add_trace(
                go.Scatter(
                    x=numbers(rows, "index"),
                    y=numbers(rows, "cosine_so_far"),
                    mode="lines",
                    line={"color": colour, "width": 1.6},
                    showlegend=False,
                    hovertext=_hover(rows),
                    hoverinfo="text",
                ),
                row=2,
                col=col,
            )
        # plotly leaves shapes out of panels that are still empty: they come after the traces.
        for place in (1, 2):
            fig.add_hline(y=0, line={"color": MUTED, "width": 1}, row=place, col=col)  # pyright: ignore[reportArgumentType]
        fig.update_xaxes(title_text="singular direction", row=2, col=col)
    fig.update_xaxes(zeroline=False)
    fig.add_trace(layer_bar(grid), row=1, col=1)
    fig.update_yaxes(title_text="coefficient (sd of chance)", row=1, col=1)
    fig.update_yaxes(title_text="cosine, summed up", row=2, col=1)
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, side),
        subtitle=subtitle,
        note="Directions of the increment, largest singular value first. Above: gradient along u_i v_i'; filled: "
        "beyond chance, 5 % over the table, by the gradient's singular values and by redrawn signs. Below: the sum of "
        "parts, which ends at the tensor's cosine; the last step is all remaining directions together.",
        plot_height=470,
        panel_titles=True,
        left=74,
        right=84,
        min_width=max(360, 210 * len(grid.projections)),
    )


def _hover(rows: pd.DataFrame) -> list[str]:
    texts = []
    for row in records(rows):
        piece = f"direction {row['index']}" if row["directions"] == 1 else f"{row['directions']} further directions"
        z = "" if np.isnan(row["z"]) else f"<br>{row['z']:+.2f} standard deviations of chance"
        texts.append(
            f"<b>{plain(row['name'])}</b><br>{piece}, singular value {row['singular_value']:.4g}{z}"
            f"<br>{row['cosine_part']:+.3g} of the cosine, {row['cosine_so_far']:+.3g} so far"
        )
    return texts


def _title(drawn: pd.DataFrame, side: str) -> str:
    single = where(drawn, numbers(drawn, "directions") == 1)
    shares = []
    for name in dict.fromkeys(words(drawn, "name")):
        parts = np.sort(np.abs(numbers(rows_with(drawn, "name", name), "cosine_part")))[::-1]
        if parts.sum() > 0:
            shares.append(int(np.searchsorted(np.cumsum(parts), 0.5 * parts.sum()) + 1))
    title = f"Coupling to the {side} gradient: {claim(single, 'coefficient').sentence('singular direction')}"
    if shares:
        title += f"; {int(np.median(shares))} of a tensor's directions carry half of it (median)"
    return title
