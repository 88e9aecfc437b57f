"""Requests in sequence: accuracy of every split, by stage, a panel an order."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import colour_with, count, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, need_unique, numbers, records, rows_with, take
from mastlens.plots.tradeoff import arm_colour

_COLUMNS = ("order", "stage", "request", "split", "side", "n", "accuracy", "ci_low", "ci_high", "change")
_COLUMNS = (*_COLUMNS, "change_low", "change_high")


@honest
def plot_requests(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw the accuracy of every split after every request.

    Args:
        table: ``requests.parquet``.
        title: The point in plain words; by default how many requests, in how many orders.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, _COLUMNS, figure="plot_requests", writer="mastlens.unlearn_requests")
    drawn = take(table, _COLUMNS)
    need_unique(drawn, ["order", "stage", "split"], figure="plot_requests")
    orders, splits = distinct(drawn, "order"), distinct(drawn, "split")
    fig = make_subplots(
        1, len(orders), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=[plain(order) for order in orders]
    )
    for col, order in enumerate(orders, start=1):
        part = rows_with(drawn, "order", order)
        for number, split in enumerate(splits):
            _add_line(fig, rows_with(part, "split", split), split, number, col)
        stages = sorted({int(stage) for stage in numbers(part, "stage")})
        said = {int(row["stage"]): str(row["request"]) for row in records(part)}
        labels = [said[stage] or ("source" if not stage else "all") for stage in stages]
        fig.update_xaxes(tickvals=stages, ticktext=[plain(label) for label in labels], showgrid=False, row=1, col=col)
        fig.update_xaxes(title_text="after the request", row=1, col=col)
    fig.update_yaxes(range=[-3, 103], dtick=25, zeroline=False)
    fig.update_yaxes(title_text="accuracy (%)", row=1, col=1)
    return finish(
        fig,
        drawn,
        title=title or _title(drawn),
        subtitle=subtitle,
        note="Bands: Wilson intervals. Dashed: to be kept. A line that rises again after its own request came back.",
        plot_height=320,
        legend_rows=1,
        panel_titles=True,
        left=74,
        min_width=200 + 230 * len(orders),
    )


def _title(drawn: pd.DataFrame) -> str:
    """Return of how many requests the end of an order lies above what the request left, beyond both intervals."""
    asked = came = 0
    for order in distinct(drawn, "order"):
        part = rows_with(drawn, "order", order)
        last = numbers(part, "stage").max()
        for row in records(part):
            if row["request"] and row["request"] == row["split"] and row["stage"] < last:
                end = [one for one in records(part) if one["split"] == row["split"] and one["stage"] == last]
                asked += bool(end)
                came += any(one["ci_low"] > row["ci_high"] for one in end)
    if not asked:
        return f"Accuracy of {count(len(distinct(drawn, 'split')), 'split')} after each request"
    return f"{came or 'None'} of {count(asked, 'request')} came back beyond its interval by the end of its order"


def _add_line(fig: go.Figure, part: pd.DataFrame, split: str, number: int, col: int) -> None:
    colour, stages = arm_colour(number), list(numbers(part, "stage"))
    low, middle, high = (list(100 * numbers(part, column)) for column in ("ci_low", "accuracy", "ci_high"))
    band = {"x": [*stages, *stages[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "mode": "lines"}
    look = {"fillcolor": colour_with(colour, 0.1), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    fig.add_trace(go.Scatter(**band, **look), row=1, col=col)
    kept = records(part)[0]["side"] == "retain"
    hover = [
        f"<b>{plain(split)}</b>, {row['side']}<br>{100 * row['accuracy']:.1f}% of {row['n']}"
        f"<br>{100 * row['change']:+.1f} points [{100 * row['change_low']:+.1f}, {100 * row['change_high']:+.1f}] "
        "since " + ("it was forgotten" if row["side"] == "forgotten" else "the source")
        for row in records(part)
    ]
    fig.add_trace(
        go.Scatter(
            x=stages,
            y=middle,
            mode="lines+markers",
            name=plain(split),
            legendgroup=split,
            showlegend=col == 1,
            marker={"size": 8},
            line={"color": colour, "width": 2, "dash": "dash" if kept else "solid"},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        ),
        row=1,
        col=col,
    )
