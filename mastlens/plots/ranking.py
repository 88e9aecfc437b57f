"""What decided the ranking, and what was selected by it."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain
from mastlens.plots.heat import KEYS, CellGrid, add_map, hover_text, once_per_cell
from mastlens.plots.honest import honest
from mastlens.plots.tables import flags, need, numbers, ordered, take, where, words
from mastlens.plots.template import BLUE, INK, ORANGE, PURPLE

_RANKING = ("rank", *KEYS, "score", "selected")
_FACTORS = {
    "log1p_energy": ("size: log(1 + |Δ|²)", BLUE),
    "off_principal": ("direction: off-principal", ORANGE),
    "coupling_factor": ("coupling: 1 + |cosine|", PURPLE),
}
_WORDS = {"log1p_energy": "Size", "off_principal": "Direction", "coupling_factor": "Coupling"}
_LABELLED = 48


@honest
def plot_score_decomposition(ranking: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw which of the three factors of the MAST score decided each tensor's rank.

    The score is a product, so its logarithm is a sum: each bar shows how many doublings a factor lies above
    or below its own median over all tensors, and the diamond their sum.

    Args:
        ranking: ``ranking.parquet`` with the factors ``off_principal``, ``log1p_energy`` (log(1 + |D|^2))
            and ``coupling_factor`` (1 + |forget_cosine|).
        title: The point in plain words; by default the factor that explains most of the spread.
        subtitle: Model, revision, dtype, seed.
    """
    need(ranking, [*_RANKING, *_FACTORS], figure="plot_score_decomposition", writer="mastlens rank --rule mast")
    drawn = ordered(take(ranking, [*_RANKING, *_FACTORS]), "rank")
    with np.errstate(divide="ignore", invalid="ignore"):
        for factor in _FACTORS:
            logs = np.log2(numbers(drawn, factor))
            usable = logs[np.isfinite(logs)]
            centre = np.median(usable) if usable.size else 0.0
            drawn[f"{factor}_log2"] = np.where(np.isfinite(logs), logs - centre, np.nan)
    parts = [numbers(drawn, f"{factor}_log2") for factor in _FACTORS]
    drawn["total_log2"] = np.sum(parts, axis=0)

    fig = go.Figure()
    hover = hover_text(
        drawn,
        {
            "rank": "{rank}",
            "score": "{score:.4g}",
            "off-principal energy": "{off_principal:.5f} ({off_principal_log2:+.3f} doublings)",
            "log(1 + |Δ|²)": "{log1p_energy:.4g} ({log1p_energy_log2:+.3f} doublings)",
            "1 + |forget cosine|": "{coupling_factor:.4f} ({coupling_factor_log2:+.3f} doublings)",
        },
    )
    for factor, (label, colour) in _FACTORS.items():
        fig.add_trace(
            go.Bar(
                x=numbers(drawn, "rank"),
                y=numbers(drawn, f"{factor}_log2"),
                name=label,
                marker={"color": colour, "line": {"width": 0}},
                customdata=hover,
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=numbers(drawn, "rank"),
            y=numbers(drawn, "total_log2"),
            mode="markers",
            name="score",
            marker={"symbol": "diamond", "size": 7 if len(drawn) <= _LABELLED else 4, "color": INK},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    fig.update_layout(barmode="relative", bargap=0.25)
    _rank_axis(fig, drawn)
    stacked = np.nan_to_num(np.stack(parts))
    low = float(np.minimum(stacked, 0).sum(axis=0).min())
    high = float(np.maximum(stacked, 0).sum(axis=0).max())
    margin = 0.06 * (high - low or 1.0)
    fig.update_yaxes(
        title_text="doublings above the factor's median (log₂)",
        zerolinewidth=1.5,
        range=[low - margin, high + 3 * margin],  # the room above is for the label of the cut
    )
    _draw_cut(fig, drawn)
    nothing = int(np.isnan(numbers(drawn, "total_log2")).sum())
    note = f"{count(nothing, 'tensor')} without a positive score left out. " if nothing else ""
    note += "Shares of the spread: covariance of a factor's logarithm with that of the score, over its variance; "
    note += "they add up to one, and a negative one works against the others."
    return finish(
        fig,
        drawn,
        title=title or _decided(drawn),
        subtitle=subtitle,
        note=note,
        plot_height=340,
        legend_rows=1,
        bottom=64,
        min_width=760,
    )


def _rank_axis(fig: go.Figure, drawn: pd.DataFrame) -> None:
    many = len(drawn) > _LABELLED
    if many:
        fig.update_xaxes(title_text="rank (1 = first)")
    else:
        pairs = zip(words(drawn, "layer"), words(drawn, "projection"), strict=True)
        fig.update_xaxes(
            title_text="tensor (layer and projection), in rank order",
            tickvals=numbers(drawn, "rank"),
            ticktext=[f"{layer}{plain(projection)}" for layer, projection in pairs],
            tickangle=0 if len(drawn) <= 16 else -90,
            tickfont={"size": 11},
        )
    ranks = numbers(drawn, "rank")
    fig.update_xaxes(range=[ranks.min() - 0.7, ranks.max() + 0.7], showgrid=False)


def _draw_cut(fig: go.Figure, drawn: pd.DataFrame) -> None:
    """Draw where the selection ends, if it is the top of the ranking."""
    chosen = flags(drawn, "selected")
    top = int(chosen.sum())
    if not 0 < top < len(drawn) or not chosen[:top].all():
        return
    ranks = numbers(drawn, "rank")
    cut = float(ranks[top - 1] + ranks[top]) / 2
    fig.add_vline(x=cut, line={"color": INK, "width": 1.2, "dash": "dash"})
    room = cut - ranks.min() > 0.15 * (ranks.max() - ranks.min())
    fig.add_annotation(
        x=cut,
        y=1,
        yref="paper",
        yanchor="top",
        xanchor="right" if room else "left",
        text=f"← {top} selected" if room else f"{top} selected, to the left",
        showarrow=False,
        xshift=-5 if room else 5,
    )


def _decided(drawn: pd.DataFrame) -> str:
    """Say which factor explains most of the spread of the log score; the three shares sum to one."""
    used = where(drawn, np.isfinite(numbers(drawn, "total_log2")))
    total = numbers(used, "total_log2")
    if not len(total):
        return "No tensor has a positive score: there is nothing to rank"
    spread = float(np.var(total))
    if spread == 0:
        return "All tensors have the same score: nothing decided the ranking"
    shares = {
        factor: float(np.cov(numbers(used, f"{factor}_log2"), total, bias=True)[0, 1]) / spread for factor in _FACTORS
    }
    first = max(shares, key=lambda factor: shares[factor])
    rest = ", ".join(f"{_WORDS[f].lower()} {shares[f]:.1%}".replace("-", "−") for f in _FACTORS if f != first)
    return f"{_WORDS[first]} decided the ranking: {shares[first]:.1%} of the spread in log score ({rest})"


@honest
def plot_selection(ranking: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw which projections were selected, with their rank.

    Args:
        ranking: ``ranking.parquet``.
        title: The point in plain words; by default how many were selected of each projection.
        subtitle: Model, revision, dtype, seed.
    """
    need(ranking, _RANKING, figure="plot_selection", writer="mastlens rank")
    once_per_cell(ranking, "plot_selection")
    drawn = take(ranking, _RANKING)
    chosen = flags(drawn, "selected")
    grid = CellGrid.of(drawn)
    fig = make_subplots()
    states = np.where(chosen, "selected", "not selected, stays as it is")
    hover = [
        f"{text}<br>{state}"
        for text, state in zip(hover_text(drawn, {"rank": "{rank}", "score": "{score:.4g}"}), states, strict=True)
    ]
    texts = words(drawn, "rank")
    pale = "#EEF1F4"
    add_map(fig, drawn, chosen.astype(float), grid=grid, hover=hover, coloraxis="coloraxis", texts=texts)
    fig.update_layout(coloraxis={"colorscale": [[0, pale], [1, BLUE]], "cmin": 0, "cmax": 1, "showscale": False})
    for name, colour in (("selected", BLUE), ("not selected", pale)):
        marker = {"symbol": "square", "size": 13, "color": colour, "line": {"width": 1, "color": "#AEB6BF"}}
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker))
    if title is None:
        each = ", ".join(
            f"{int(chosen[(drawn['projection'].astype(str) == p).to_numpy()].sum())} {p}" for p in grid.projections
        )
        title = f"{int(chosen.sum())} of {count(len(drawn), 'projection')} are selected: {each}"
    return finish(
        fig,
        drawn,
        title=title,
        subtitle=subtitle,
        note="Numbers: rank by score, 1 = first." if grid.annotated else "",
        plot_height=grid.height,
        legend_rows=1,
    )
