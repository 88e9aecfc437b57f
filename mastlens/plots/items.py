"""Items lost and gained, one cell each."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import (
    distinct,
    every_few,
    layout_of,
    need,
    need_unique,
    numbers,
    ordered,
    rows_with,
    take,
    words,
)
from mastlens.plots.template import GREEN, VERMILLION
from mastlens.statistics import mcnemar_exact

_STATES = (
    ("kept right", "#BBD7EA"),
    ("lost", VERMILLION),
    ("gained", GREEN),
    ("wrong both times", "#E7EAED"),
)

_MOST = 5000  # cells of a figure


@honest
def plot_items(items: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw every item of every split as a cell: kept, lost, gained or never right.

    Args:
        items: One row per item: ``split``, ``item``, ``before`` and ``after`` (whether it was right, or, of several
            samples, the share that was: then lost and gained mean that it fell or rose).
        title: The point in plain words; by default items lost and gained in every split.
        subtitle: Model, revision, dtype, seed.
    """
    need(items, ("split", "item", "before", "after"), figure="plot_items", writer="mastlens compare")
    drawn = take(items, ["split", "item", "before", "after"])
    need_unique(drawn, ["split", "item"], figure="plot_items")
    before, after = (numbers(drawn, column) for column in ("before", "after"))
    drawn["state"] = np.select([after < before, after > before, after > 0], [1, 2, 0], default=3)
    shares = not set(np.unique([before, after])) <= {0.0, 1.0}
    splits = distinct(drawn, "split")
    wide = 50
    parts = {split: ordered(rows_with(drawn, "split", split), "state") for split in splits}
    step = every_few(len(drawn), _MOST)  # cells are in the order of their states: taken evenly they keep their shares
    shown = {split: part.iloc[::step] for split, part in parts.items()}
    rows = [-(-len(part) // wide) for part in shown.values()]
    gap, each = 44, 17
    height = each * sum(rows) + gap * (len(splits) - 1)
    captions, sentences = [], []
    for split, part in parts.items():
        state = np.asarray(part["state"])
        lost, gained = int((state == 1).sum()), int((state == 2).sum())
        p = mcnemar_exact(lost, gained)
        captions.append(
            f"<b>{plain(split)}</b>: {lost} lost, {gained} gained of {len(state)} (exact McNemar p = {p:.2g})"
        )
        sentences.append(f"{split} lost {lost} and gained {gained}")
    fig = make_subplots(
        len(splits),
        1,
        row_heights=rows,
        vertical_spacing=gap / height if len(splits) > 1 else 0,
        subplot_titles=captions,
    )
    for row, part in enumerate(shown.values(), start=1):
        cells = rows[row - 1] * wide
        z = np.full(cells, np.nan)
        z[: len(part)] = np.asarray(part["state"], dtype=float)
        text = np.full(cells, "", dtype=object)
        text[: len(part)] = [
            f"item {plain(item)}<br>{_STATES[state][0]}" + (f"<br>{was:.0%} right, then {now:.0%}" if shares else "")
            for item, state, was, now in zip(
                words(part, "item"),
                part["state"].tolist(),
                numbers(part, "before"),
                numbers(part, "after"),
                strict=True,
            )
        ]
        fig.add_trace(
            go.Heatmap(
                z=z.reshape(-1, wide),
                customdata=text.reshape(-1, wide),
                hovertemplate="%{customdata}<extra></extra>",
                hoverongaps=False,
                coloraxis="coloraxis",
                xgap=2,
                ygap=2,
                showlegend=False,
            ),
            row=row,
            col=1,
        )
    fig.update_layout(
        coloraxis={
            "colorscale": [[edge, colour] for i, (_, colour) in enumerate(_STATES) for edge in (i / 4, (i + 1) / 4)],
            "cmin": -0.5,
            "cmax": 3.5,
            "showscale": False,
        }
    )
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False, autorange="reversed")
    for name, colour in _STATES:
        marker = {"symbol": "square", "size": 12, "color": colour}
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker), row=1, col=1)
    done = finish(
        fig,
        drawn,
        title=title or f"Item by item: {'; '.join(sentences)}",
        subtitle=subtitle,
        note=f"One cell {'an item' if step == 1 else f'for {step} items'}, by what became of it. "
        + ("Lost: fewer of its samples are right" if shares else "Lost: right before, wrong after")
        + "; gained: the other way. "
        "p is two-sided, from lost against gained.",
        plot_height=height,
        legend_rows=1,
        panel_titles=True,
        left=14,
        right=14,
        bottom=14,
        min_width=600,
    )
    for annotation in layout_of(done).annotations[: len(splits)]:
        annotation.update(x=0, xanchor="left", align="left")
    return done
