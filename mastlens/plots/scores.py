"""What a scorer measured of every matrix."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain, short
from mastlens.plots.honest import honest
from mastlens.plots.tables import need, numbers, told_from_zero, where, words
from mastlens.plots.template import BLUE, GREY

_COLUMNS = ("layer", "projection", "name", "score", "standard_error")
_SHOWN = 30


@honest
def plot_scores(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw the scores of the matrices that have the largest, with their 95 % intervals where there are any.

    Args:
        table: ``score_RULE.parquet``.
        title: The point in plain words; by default how many scores are told from zero.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, _COLUMNS, figure="plot_scores", writer="mastlens score")
    spread = "score_low" in table and bool(table["score_low"].notna().any())
    drawn = table[[*_COLUMNS, *(("score_low", "score_high") if spread else ())]].copy()
    sizes = np.abs(numbers(drawn, "score"))
    least = np.sort(sizes)[::-1][min(_SHOWN, len(sizes)) - 1]
    drawn = where(drawn, sizes >= least).sort_values("score", kind="stable", ignore_index=True)
    score, told = numbers(drawn, "score"), told_from_zero(drawn).to_numpy()
    error = numbers(drawn, "score_high") - score if spread else np.zeros(len(drawn))
    fig = go.Figure()
    kinds = ((True, "told from zero", BLUE, "circle"), (False, "not told from zero", GREY, "circle-open"))
    for known, name, colour, symbol in kinds if spread else ((False, "score", BLUE, "circle"),):
        here = told == known
        if here.any():
            fig.add_trace(
                go.Scatter(
                    x=score[here],
                    y=[plain(text) for text, shown in zip(_labels(drawn), here, strict=True) if shown],
                    mode="markers",
                    name=name,
                    marker={"color": colour, "size": 8, "symbol": symbol},
                    error_x={"type": "data", "array": np.nan_to_num(error[here]), "thickness": 1.2, "color": colour},
                    hovertemplate="<b>%{y}</b><br>%{x:+.4g}<extra></extra>",
                )
            )
    fig.update_yaxes(categoryorder="array", categoryarray=[plain(text) for text in _labels(drawn)], title_text="")
    fig.update_xaxes(title_text="score", zerolinewidth=1.5)
    if title is None and not spread:
        title = f"{_labels(drawn)[-1].capitalize()} has the highest score of {len(table)}; an order, without an error"
    if title is None:
        known = int(told_from_zero(table).sum())
        title = (
            f"{count(known, 'score')} of {len(table)} {'is' if known == 1 else 'are'} told from zero one by one; about "
            f"{short(0.05 * len(table), 2)} would be by chance"
        )
    note = f"The {len(drawn)} of {len(table)} matrices with the largest scores. " if len(drawn) < len(table) else ""
    return finish(
        fig,
        drawn,
        title=title,
        subtitle=subtitle,
        note=note + "Bars: 95 % intervals, each for itself." * spread,
        plot_height=max(220, 18 * len(drawn)),
        legend_rows=1,
        left=150,
        min_width=440,
    )


def _labels(table: pd.DataFrame) -> list[str]:
    """Return layer and projection of each matrix, the projection alone where it is in no layer."""
    rows = zip(words(table, "layer"), words(table, "projection"), words(table, "name"), strict=True)
    return [
        f"layer {layer} {projection or name.split('.')[-2]}" if int(layer) >= 0 else projection or name
        for layer, projection, name in rows
    ]
