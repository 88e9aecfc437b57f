"""One projection opened: where it stands among all, the spectrum of its increments, its principal angles."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.frame import colour_with, count, finish, plain, short
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, numbers, ordered, records, rows_with, where, words
from mastlens.plots.template import BLUE, GREEN, GREY, INK, MUTED, VERMILLION

INCREMENTS = {"sft": "SFT", "rlvr": "RLVR"}
INCREMENT_COLOURS = {"sft": GREEN, "rlvr": BLUE}
SIDE_COLOURS = {"forget": BLUE, "retain": VERMILLION}
"""The colours of the two sides in every figure of a projection."""


@honest
def plot_standing(numbers_of: pd.DataFrame, *, place: str, title: str | None = None, subtitle: str = "") -> go.Figure:
    """Draw every score of one projection relative to the largest of all projections, in magnitude.

    Args:
        numbers_of: ``label``, ``value``, ``beyond_chance`` (missing where unknown), ``place``, ``of``, ``relative``.
        place: What the projection is called, e.g. ``layer 3, q``.
        title: The point in plain words; by default the score in which it stands highest.
        subtitle: Model, revision, dtype, seed.
    """
    columns = ["label", "value", "beyond_chance", "place", "of", "relative"]
    need(numbers_of, columns, figure="plot_standing", writer="explore(study).table(name)")
    relative = numbers(numbers_of, "relative")
    labels = [plain(label) for label in words(numbers_of, "label")]
    chance = [value is not pd.NA and not value for value in numbers_of["beyond_chance"].tolist()]
    fig = go.Figure()
    for x, label in zip(relative, labels, strict=True):
        line = {"color": colour_with(GREY, 0.45), "width": 2}
        fig.add_trace(
            go.Scatter(x=[0, x], y=[label, label], mode="lines", line=line, hoverinfo="skip", showlegend=False)
        )
    told = [
        f"<b>{plain(row['label'])}</b><br>{row['value']:.5g}, number {row['place']} of {row['of']} by magnitude"
        for row in records(numbers_of)
    ]
    for inside, name in ((False, "value"), (True, "cannot be told from chance")):
        of = np.asarray(chance) == inside
        fill = "#FFFFFF" if inside else BLUE
        fig.add_trace(
            go.Scatter(
                x=relative[of] if of.any() else [None],
                y=[label for label, here in zip(labels, of, strict=True) if here] or [labels[0]],
                mode="markers+text",
                text=[f"{row['place']}/{row['of']}" for row in records(where(numbers_of, of))],
                textposition=["middle left" if x < 0 else "middle right" for x in relative[of]] or "middle right",
                textfont={"size": 11, "color": MUTED},
                marker={"size": 10, "color": fill, "line": {"width": 1.8, "color": BLUE}},
                name=name,
                showlegend=not inside or bool(numbers_of["beyond_chance"].notna().any()),
                customdata=[text for text, here in zip(told, of, strict=True) if here],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    fig.add_vline(x=0, line={"color": MUTED, "width": 1})
    fig.update_xaxes(
        range=[-1.3 if (relative < 0).any() else -0.02, 1.3],
        tickvals=[-1, -0.5, 0, 0.5, 1],
        tickformat=".0%",
        title_text="value / largest magnitude of all projections",
    )
    fig.update_yaxes(autorange="reversed", showgrid=False, type="category", ticksuffix=" ")
    if title is None:
        open_to = where(
            numbers_of, ~np.asarray(chance, dtype=bool)
        )  # no headline says anything of what chance explains
        title = f"{place}: nothing of {count(len(labels), 'score')} can be told from chance"
        if len(open_to):
            top = records(ordered(open_to, "place"))[0]
            title = f"{place}: number {top['place']} of {top['of']} by {plain(top['label'])}"
    return finish(
        fig,
        numbers_of,
        title=title,
        subtitle=subtitle,
        note="Beside each value: its place by magnitude among all projections.",
        plot_height=max(220, 24 * len(labels)),
        legend_rows=1,
        left=min(390, 30 + 6 * max(len(label) for label in labels)),
        min_width=640,
    )


@honest
def plot_projection_spectrum(
    spectra: pd.DataFrame, *, place: str, title: str | None = None, subtitle: str = ""
) -> go.Figure:
    """Draw the singular values of one projection's increments, beside chance and the floor of the precision.

    Args:
        spectra: One row an increment and index: ``increment``, ``index``, ``singular_value``, ``precision_floor`` and
            ``chance`` (the singular value that a random increment of the same norm has there).
        place: What the projection is called.
        title: The point in plain words; by default how many directions carry half of the energy.
        subtitle: Model, revision, dtype, seed.
    """
    columns = ["increment", "index", "singular_value", "precision_floor", "chance"]
    need(spectra, columns, figure="plot_projection_spectrum", writer="mastlens geometry --spectra")
    drawn = ordered(spectra[columns], "increment", "index")
    fig, told, floors = go.Figure(), [], []
    for increment in sorted(distinct(drawn, "increment"), reverse=True):
        part = rows_with(drawn, "increment", increment)
        colour, label = INCREMENT_COLOURS.get(increment, GREY), INCREMENTS.get(increment, increment)
        index, values, chance = (numbers(part, column) for column in ("index", "singular_value", "chance"))
        for y, dash, width, name in ((values, "solid", 2.2, label), (chance, "dot", 1.5, f"{label}, by chance")):
            fig.add_trace(
                go.Scatter(
                    x=index,
                    y=np.where(y > 0, y, np.nan),
                    mode="lines",
                    line={"color": colour, "width": width, "dash": dash},
                    name=name,
                    showlegend=dash == "solid",
                    hovertemplate=f"{name}: singular value %{{x}}: %{{y:.4g}}<extra></extra>",
                )
            )
        floors.append(float(numbers(part, "precision_floor").max()))
        energy = np.cumsum(np.sort(values)[::-1] ** 2)
        if energy[-1] > 0:
            told.append(f"{count(int(np.searchsorted(energy, energy[-1] / 2)) + 1, 'direction')} in {label}")
    positive = numbers(drawn, "singular_value")
    positive = positive[positive > 0]
    floor = max(floors)
    note = "Dotted: a random increment of the same norm. "
    if positive.size and floor >= positive.max() * 1e-5:
        line = {"color": INK, "width": 1.4, "dash": "dash"}
        name = "floor of the precision"
        x = [1, numbers(drawn, "index").max()]
        fig.add_trace(go.Scatter(x=x, y=[floor, floor], mode="lines", line=line, name=name))
        note += "A singular value below the floor may be rounding."
    else:
        note += f"The floor that the checkpoint's precision sets, {short(floor)}, lies far below."
    if positive.size:
        low = np.log10(max(positive.min(), positive.max() * 1e-6))
        top = np.log10(np.nanmax([positive.max(), numbers(drawn, "chance").max()]))
        fig.update_yaxes(range=[low - 0.15, top + 0.15])
    fig.update_yaxes(type="log", exponentformat="power", dtick=1, title_text="singular value of the increment")
    fig.update_xaxes(title_text="index")
    by = " and ".join(told)
    return finish(
        fig,
        drawn,
        title=title or (f"{place}: half of the energy lies in {by}" if by else f"{place} did not change"),
        subtitle=subtitle,
        note=note,
        plot_height=300,
        legend_rows=1,
        left=84,
        min_width=400,
    )


@honest
def plot_projection_angles(
    angles: pd.DataFrame, *, place: str, title: str | None = None, subtitle: str = ""
) -> go.Figure:
    """Draw the principal angles between a weight's top-k subspaces before and after each increment.

    Args:
        angles: One row an increment, side and angle: ``increment``, ``side`` (left: outputs, right: inputs),
            ``index``, ``degrees``, ``chance_max`` (the largest angle that a random increment of that size gives).
        place: What the projection is called.
        title: The point in plain words; by default the largest angle of the RLVR increment beside chance.
        subtitle: Model, revision, dtype, seed.
    """
    columns = ["increment", "side", "index", "degrees", "chance_max"]
    need(angles, columns, figure="plot_projection_angles", writer="the explorer")
    drawn = ordered(angles[columns], "increment", "side", "index")
    sides = ("left", "right")
    titles = ["left (outputs)", "right (inputs)"]
    fig = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.05)
    largest = []
    for col, side in enumerate(sides, start=1):
        of_side = rows_with(drawn, "side", side)
        for increment in sorted(distinct(of_side, "increment"), reverse=True):
            part = rows_with(of_side, "increment", increment)
            colour, label = INCREMENT_COLOURS.get(increment, GREY), INCREMENTS.get(increment, increment)
            index, degrees = numbers(part, "index"), numbers(part, "degrees")
            chance = float(numbers(part, "chance_max")[0])
            fig.add_trace(
                go.Scatter(
                    x=index,
                    y=degrees,
                    mode="lines+markers",
                    line={"color": colour, "width": 2},
                    marker={"size": 6},
                    name=label,
                    legendgroup=label,
                    showlegend=col == 1,
                    hovertemplate=f"{label}: angle %{{x}}: %{{y:.3g}}°<extra></extra>",
                ),
                row=1,
                col=col,
            )
            fig.add_trace(
                go.Scatter(
                    x=[index.min(), index.max()],
                    y=[chance, chance],
                    mode="lines",
                    line={"color": colour, "width": 1.5, "dash": "dot"},
                    name=f"{label}, largest by chance",
                    showlegend=False,
                    hovertemplate="largest by chance: %{y:.3g}°<extra></extra>",
                ),
                row=1,
                col=col,
            )
            if increment == "rlvr":
                largest.append(f"{side} {short(float(degrees.max()))}° (chance {short(chance)}°)")
    fig.update_xaxes(title_text="angle, smallest first")
    fig.update_yaxes(title_text="principal angle (degrees)", rangemode="tozero", row=1, col=1)
    k = int(numbers(drawn, "index").max())
    return finish(
        fig,
        drawn,
        title=title or f"{place}: RLVR turned the principal subspaces by at most {', '.join(largest)}",
        subtitle=subtitle,
        note=f"Between the top k = {k} singular subspaces of the weight before and after each increment. "
        "Dotted: the largest angle that a random increment of the same size gives, on average.",
        plot_height=260,
        legend_rows=1,
        panel_titles=True,
        min_width=460,
    )
