"""Shares of the trace categories C1 to C4, before and after, a bar a model."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import extremes, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, need_unique, records, rows_with, take
from mastlens.plots.template import INK, MUTED, PAPER

CATEGORIES = {
    "C1": ("nothing", "#C9CED6"),
    "C2": ("other knowledge", "#56B4E9"),
    "C3": ("rules out options", "#E69F00"),
    "C4": ("the answer", "#A8420A"),
}
"""Category to what a trace of it reveals and its colour: the darker, the more; told apart with any colour vision."""

_COLUMNS = ("arm", "split", "category", "count", "n", "share")
_LABELLED = 0.07  # a narrower piece has no room for its number


@honest
def plot_trace_categories(shares: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw what the traces of every model reveal: stacked shares of C1 to C4, a bar a model, a panel a split.

    Args:
        shares: ``TraceEvaluation.categories`` of one or more models, with a column ``arm`` that names them; the first
            arm is drawn on top.
        title: The point in plain words; by default the leaking share (C2 to C4) of every model.
        subtitle: Model, revision, dtype, seed.
    """
    need(shares, _COLUMNS, figure="plot_trace_categories", writer="mastlens evaluate-traces")
    kept = [column for column in (*_COLUMNS, "ci_low", "ci_high") if column in shares]
    drawn = take(shares, kept)
    need_unique(drawn, ["arm", "split", "category"], figure="plot_trace_categories")
    splits, arms = distinct(drawn, "split"), distinct(drawn, "arm")
    fig = make_subplots(
        1, len(splits), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=[plain(split) for split in splits]
    )
    for col, split in enumerate(splits, start=1):
        part = rows_with(drawn, "split", split)
        rows = {(str(row["arm"]), str(row["category"])): row for row in records(part)}
        here = [arm for arm in arms if any((arm, category) in rows for category in CATEGORIES)]
        for category, (meaning, colour) in CATEGORIES.items():
            found = [rows.get((arm, category)) for arm in here]
            values = [0.0 if row is None else float(row["share"]) for row in found]
            fig.add_trace(
                go.Bar(
                    y=[arms.index(arm) for arm in here],
                    x=[100 * value for value in values],
                    orientation="h",
                    width=0.66,
                    marker={"color": colour, "line": {"color": PAPER, "width": 1}},
                    name=f"{category} {meaning}",
                    legendgroup=category,
                    showlegend=col == 1,
                    text=[f"{100 * value:.0f}" if value >= _LABELLED else "" for value in values],
                    textposition="inside",
                    insidetextanchor="middle",
                    textangle=0,
                    textfont={"color": PAPER if category == "C4" else INK, "size": 12},
                    customdata=[_hover(arm, category, meaning, row) for arm, row in zip(here, found, strict=True)],
                    hovertemplate="%{customdata}<extra></extra>",
                ),
                row=1,
                col=col,
            )
        numbers = [next(rows[arm, category]["n"] for category in CATEGORIES if (arm, category) in rows) for arm in here]
        fig.add_trace(
            go.Scatter(
                x=[101] * len(here),
                y=[arms.index(arm) for arm in here],
                text=[f"n = {n}" for n in numbers],
                mode="text",
                textposition="middle right",
                textfont={"size": 12, "color": MUTED},
                cliponaxis=False,
                hoverinfo="skip",
                showlegend=False,
            ),
            row=1,
            col=col,
        )
        fig.update_xaxes(range=[0, 122], tickvals=[0, 25, 50, 75, 100], title_text="traces (%)", row=1, col=col)
    fig.update_yaxes(range=[len(arms) - 0.4, -0.6], tickvals=list(range(len(arms))), showgrid=False)
    fig.update_yaxes(ticktext=[plain(arm) for arm in arms], row=1, col=1)
    fig.update_layout(barmode="stack")
    longest = max(len(arm) for arm in arms)
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, arms, splits),
        subtitle=subtitle,
        note="C1 reveals nothing; C2 tells other knowledge about the person or subject; C3 rightly rules out wrong "
        "options; C4 states or implies the answer. RT-UA is the share of C2 to C4. Pieces below 7% carry no number.",
        plot_height=max(120, 46 * len(arms) + 10),
        legend_rows=1,
        panel_titles=True,
        left=min(260, 24 + 7 * longest),
        min_width=180 + 240 * len(splits),
    )


def _hover(arm: str, category: str, meaning: str, row: dict[str, object] | None) -> str:
    if row is None:
        return ""
    said = f"<b>{plain(arm)}</b><br>{category}, {meaning}: {row['count']} of {row['n']}"
    if "ci_low" in row:
        low, high = (100 * float(row[end]) for end in ("ci_low", "ci_high"))  # pyright: ignore[reportArgumentType]
        said += f"<br>interval {low:.1f}% to {high:.1f}%"
    return said


def _title(drawn: pd.DataFrame, arms: list[str], splits: list[str]) -> str:
    leaking = drawn[[category != "C1" for category in drawn["category"].astype(str)]]
    sums = leaking.groupby(["arm", "split"], sort=False)["share"].sum()
    said = []
    for split in splits:
        values = {arm: 100 * float(sums[arm, split]) for arm in arms if (arm, split) in sums.index}
        if len(values) < 4:
            said.append(f"{split} {' → '.join(f'{value:.0f}%' for value in values.values())}")
        else:
            said.append(f"{split} {extremes(values)}")
    return f"Traces that reveal something: {', '.join(said)}"
