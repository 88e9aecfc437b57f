"""How a run moves: along its first direction, how much of it that is, and where the update lies."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain, short
from mastlens.plots.heat import BAR_SPACE, KEYS, CellGrid, add_map, color_bar, color_scale, hover_text
from mastlens.plots.honest import honest
from mastlens.plots.layers import layer_bar, layer_shade
from mastlens.plots.tables import flags, need, numbers, ordered, records, rows_with, take, where, words
from mastlens.plots.template import INK, MUTED, PROJECTION_COLOURS

_WRITER = "mastlens trajectory"


@honest
def plot_trajectory(steps: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw the coefficient along each projection's first direction over the steps, with its fitted line.

    Everything is relative to the last fitted step, where the coefficient is 1, so that layers can be compared.

    Args:
        steps: ``trajectory_steps.parquet``.
        title: The point in plain words; by default what the line predicts for the last step, and what came.
        subtitle: Model, revision, dtype, seed.
    """
    columns = (*KEYS, "step", "fitted", "coefficient", "line", "walk")
    need(steps, columns, figure="plot_trajectory", writer=_WRITER)
    drawn = ordered(take(steps, columns), "layer", "projection", "step")
    last_fitted = numbers(where(drawn, flags(drawn, "fitted")), "step").max()
    reference = where(drawn, numbers(drawn, "step") == last_fitted)
    scale = dict(zip(words(reference, "name"), numbers(reference, "coefficient"), strict=True))
    scales = np.asarray([scale[name] or np.nan for name in words(drawn, "name")])
    drawn["relative_coefficient"] = numbers(drawn, "coefficient") / scales
    drawn["relative_line"] = numbers(drawn, "line") / scales
    drawn["relative_walk"] = numbers(drawn, "walk") / scales
    fig, grid = _panels(drawn)
    for column, part in _projections(drawn, grid):
        for layer, rows in _layers(part):
            x, shade = numbers(rows, "step"), layer_shade(grid, layer)
            hover = f"<b>{plain(words(rows, 'name')[0])}</b><br>step %{{x}}<br>"
            observed = go.Scatter(
                x=x,
                y=numbers(rows, "relative_coefficient"),
                mode="lines+markers",
                marker={"size": 4},
                line={"color": shade, "width": 1.5},
                showlegend=False,
                customdata=numbers(rows, "coefficient"),
                hovertemplate=hover + "coefficient %{customdata:.4g}, %{y:.2f} of the fit's end<extra></extra>",
            )
            line = go.Scatter(
                x=x,
                y=numbers(rows, "relative_line"),
                mode="lines",
                line={"color": shade, "width": 1, "dash": "dot"},
                showlegend=False,
                customdata=numbers(rows, "line"),
                hovertemplate=hover + "line %{customdata:.4g}, %{y:.2f} of the fit's end<extra></extra>",
            )
            fig.add_traces([observed, line], rows=[1, 1], cols=[column, column])
        first = where(part, [name == words(part, "name")[0] for name in words(part, "name")])
        walk = go.Scatter(
            x=numbers(first, "step"),
            y=numbers(first, "relative_walk"),
            mode="lines",
            line={"color": INK, "width": 1.6, "dash": "dash"},
            showlegend=False,
            hovertemplate="step %{x}<br>random walk: %{y:.2f} of the fit's end<extra></extra>",
        )
        fig.add_trace(walk, row=1, col=column)
        fig.add_shape(
            type="line",
            x0=last_fitted,
            x1=last_fitted,
            y0=0,
            y1=1,
            yref="y domain",
            line={"color": MUTED, "width": 1},
            row=1,
            col=column,
        )
    fig.update_yaxes(title_text="coefficient, relative to<br>the last fitted step", col=1)
    return finish(
        fig,
        drawn,
        title=title or _prediction_title(drawn, last_fitted),
        subtitle=subtitle,
        note="Coloured: the observed coefficient <delta_t, v>. Dotted: its least squares line, fitted up to the "
        "vertical rule. Dashed: what a random walk of independent increments gives, which has no direction at all.",
        plot_height=300,
        panel_titles=True,
        left=84,
        right=84,
        min_width=680,
    )


def _prediction_title(drawn: pd.DataFrame, last_fitted: float) -> str:
    last = numbers(drawn, "step").max()
    end = where(drawn, numbers(drawn, "step") == last)
    came, line, walk = (float(np.nanmedian(numbers(end, f"relative_{c}"))) for c in ("coefficient", "line", "walk"))
    if last == last_fitted:
        return f"Fitted on all steps, the line ends at {short(line, 2)} times the coefficient (median tensor)"
    return (
        f"From step {last_fitted:.0f} on, the line promises {short(line, 2)} times the way by step {last:.0f}; "
        f"the run went {short(came, 2)} times (median tensor), a random walk {short(walk, 2)} times"
    )


@honest
def plot_trajectory_explained(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw what one direction explains of each projection's run, beside what a random walk gives.

    Args:
        table: ``trajectory.parquet``; only its attention projections are drawn.
        title: The point in plain words; by default the median beside the random walk's.
        subtitle: Model, revision, dtype, seed.
    """
    columns = (*KEYS, "explained_variance", "explained_variance_walk", "explained_variance_noise", "fitted")
    need(table, columns, figure="plot_trajectory_explained", writer=_WRITER)
    judged = ("explained_variance_adamw", "explained_variance_distinguishable")
    columns = (*columns, *(column for column in judged if column in table.columns))
    drawn = ordered(take(where(table, [p != "" for p in words(table, "projection")]), columns), "layer", "projection")
    grid = CellGrid.of(drawn)
    values = numbers(drawn, "explained_variance")
    walk, noise = (float(numbers(drawn, f"explained_variance_{null}")[0]) for null in ("walk", "noise"))
    fig = make_subplots(
        1, 2, column_widths=[0.42, 0.58], horizontal_spacing=0.12, subplot_titles=["by tensor", "beside chance"]
    )
    fig.update_layout(coloraxis=color_scale(values, signed=False))
    hover = hover_text(drawn, {"explained": "{explained_variance:.4f}", "random walk": "{explained_variance_walk:.4f}"})
    add_map(
        fig,
        drawn,
        values,
        grid=grid,
        hover=hover,
        coloraxis="coloraxis",
        texts=[short(value, 2) for value in values],
    )
    for projection in grid.projections:
        part = rows_with(drawn, "projection", projection)
        points = go.Scatter(
            x=numbers(part, "layer"),
            y=numbers(part, "explained_variance"),
            mode="markers",
            marker={"size": 8, "color": PROJECTION_COLOURS.get(projection, MUTED)},
            name=plain(projection),
            hovertemplate="<b>layer %{x}, " + plain(projection) + "</b><br>explained %{y:.4f}<extra></extra>",
        )
        fig.add_trace(points, row=1, col=2)
    levels = [(walk, "dash", "random walk"), (noise, "dot", "noise around the start")]
    if judged[0] in columns:
        levels.append((float(numbers(drawn, judged[0])[0]), "dashdot", "AdamW on noise"))
    for level, dash, label in levels:
        line = go.Scatter(
            x=[min(grid.layers) - 0.5, max(grid.layers) + 0.5],
            y=[level, level],
            mode="lines",
            line={"color": INK, "width": 1.4, "dash": dash},
            name=label,
            hovertemplate=f"{label}: {level:.4f}<extra></extra>",
        )
        fig.add_trace(line, row=1, col=2)
    fig.update_yaxes(title_text="share explained by one direction", range=[0, 1.03], row=1, col=2)
    fig.update_xaxes(title_text="layer", zeroline=False, row=1, col=2)
    color_bar(fig, "coloraxis", grid=grid, title="share explained by one direction")
    median = float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")
    return finish(
        fig,
        drawn,
        title=title
        or f"One direction explains {median:.0%} of the run (median tensor); of a random walk it explains {walk:.0%}",
        subtitle=subtitle,
        note=f"Share of the energy of {records(drawn)[0]['fitted']} updates theta_t − theta_0, not centred. A walk of "
        "independent increments wanders along few directions: below the dashed line nothing speaks for a direction of "
        "its own. Above it need not either: momentum alone, on pure noise, lies higher still (notebook 08).",
        plot_height=grid.height,
        legend_rows=1,
        panel_titles=True,
        bottom=BAR_SPACE,
        min_width=680,
    )


@honest
def plot_trajectory_geometry(steps: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw how the off-principal energy of theta_t - theta_0 develops over the steps, with its null.

    Args:
        steps: ``trajectory_steps.parquet``.
        title: The point in plain words; by default the median at the first and the last step, and the null.
        subtitle: Model, revision, dtype, seed.
    """
    columns = (*KEYS, "step", "off_principal", "off_principal_null", "delta_norm", "rank")
    need(steps, columns, figure="plot_trajectory_geometry", writer=_WRITER)
    drawn = ordered(take(steps, columns), "layer", "projection", "step")
    fig, grid = _panels(drawn)
    for column, part in _projections(drawn, grid):
        for layer, rows in _layers(part):
            line = go.Scatter(
                x=numbers(rows, "step"),
                y=numbers(rows, "off_principal"),
                mode="lines+markers",
                marker={"size": 4},
                line={"color": layer_shade(grid, layer), "width": 1.5},
                showlegend=False,
                customdata=numbers(rows, "delta_norm"),
                hovertemplate=f"<b>{plain(words(rows, 'name')[0])}</b><br>step %{{x}}<br>off-principal %{{y:.4f}}"
                "<br>|theta_t − theta_0| = %{customdata:.4g}<extra></extra>",
            )
            fig.add_trace(line, row=1, col=column)
        nulls = go.Scatter(
            x=sorted(set(numbers(part, "step"))),
            y=[float(numbers(part, "off_principal_null").mean())] * len(set(numbers(part, "step"))),
            mode="lines",
            line={"color": INK, "width": 1.4, "dash": "dash"},
            showlegend=False,
            hovertemplate="random update: %{y:.4f}<extra></extra>",
        )
        fig.add_trace(nulls, row=1, col=column)
    fig.update_yaxes(title_text="off-principal energy", col=1)
    ends = [numbers(drawn, "step").min(), numbers(drawn, "step").max()]
    medians = [
        float(np.nanmedian(numbers(where(drawn, numbers(drawn, "step") == end), "off_principal"))) for end in ends
    ]
    null = float(np.median(numbers(drawn, "off_principal_null")))
    return finish(
        fig,
        drawn,
        title=title
        or f"Off-principal energy goes from {medians[0]:.3f} at step {ends[0]:.0f} to {medians[1]:.3f} at step "
        f"{ends[1]:.0f} (median tensor); a random update has {null:.3f}",
        subtitle=subtitle,
        note=f"1 − |U'DV|²/|D|² of D = theta_t − theta_0; U and V are the top {records(drawn)[0]['rank']} singular "
        "vectors of the base. Dashed: the mean of a random update of that shape.",
        plot_height=300,
        panel_titles=True,
        left=84,
        right=84,
        min_width=680,
    )


def _panels(drawn: pd.DataFrame) -> tuple[go.Figure, CellGrid]:
    """Return one panel a projection, with the bar of the layers."""
    grid = CellGrid.of(drawn)
    titles = [plain(projection) for projection in grid.projections]
    fig = make_subplots(1, len(titles), shared_yaxes=True, horizontal_spacing=0.02, column_titles=titles)
    fig.add_trace(layer_bar(grid), row=1, col=1)
    fig.update_xaxes(title_text="step")
    return fig, grid


def _projections(drawn: pd.DataFrame, grid: CellGrid) -> Iterator[tuple[int, pd.DataFrame]]:
    for column, projection in enumerate(grid.projections, start=1):
        yield column, rows_with(drawn, "projection", projection)


def _layers(part: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    for layer in sorted(set(part["layer"].tolist())):
        yield int(layer), where(part, numbers(part, "layer") == layer)
