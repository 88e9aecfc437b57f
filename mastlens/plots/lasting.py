"""Does forgetting stay? Forgetting kept against retain kept, per edit, before and after each attack."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, flags, need, need_unique, records, rows_with, take, where, words
from mastlens.plots.template import MUTED
from mastlens.plots.tradeoff import arm_colour

_ENDS = ("", "_low", "_high")
_COLUMNS = ("arm", "attack", "variant", "step", "null", "n", *(f"forgotten{end}" for end in _ENDS))
_COLUMNS = (*_COLUMNS, *(f"retain_kept{end}" for end in _ENDS), "came_back", "beyond_chance")
_SYMBOLS = ("square-open", "diamond-open", "triangle-up-open", "triangle-down-open", "pentagon-open", "star-open")


@honest
def plot_lasting(table: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw what stays forgotten against what is kept, intervals both ways: filled before, open after each attack.

    Args:
        table: ``edit_attacks.parquet``. An attack that tested no retain split stands at its edit's own height.
        title: The point in plain words; by default on how many edits something came back.
        subtitle: Model, revision, dtype, seed.
    """
    need(table, _COLUMNS, figure="plot_lasting", writer="mastlens compare-edits")
    drawn = take(table, _COLUMNS)
    need_unique(drawn, ["arm", "attack"], figure="plot_lasting")
    arms = distinct(drawn, "arm")
    attacks = [attack for attack in distinct(drawn, "attack") if attack]
    fig = go.Figure()
    for number, arm in enumerate(arms):
        rows = records(rows_with(drawn, "arm", arm))
        start = next(row for row in rows if not row["attack"])
        for row in rows:
            _add_point(fig, row, start, number, attacks)
    for number, attack in enumerate(attacks):
        look = {"color": MUTED, "size": 10, "symbol": _symbol(number)}
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=f"after {plain(attack)}", marker=look))
    fig.update_xaxes(title_text="still forgotten (percentage points below the source)", zeroline=True)
    fig.update_yaxes(title_text="retain accuracy kept (% of the source's)", zeroline=False)
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, arms),
        subtitle=subtitle,
        note="Filled: the edit as it is; open: after an attack, at the reading that brought most back. Bars: 95 % "
        "intervals over items, each alone. What an attack teaches a retrained model, too, is no recovery.",
        plot_height=420,
        legend_rows=1,
        left=84,
        bottom=70,
        min_width=560,
    )


def _symbol(number: int) -> str:
    return _SYMBOLS[number % len(_SYMBOLS)]


def _ends(row: dict[str, Any], column: str) -> np.ndarray:
    return 100 * np.array([float(row[f"{column}{end}"]) for end in _ENDS])


def _add_point(fig: go.Figure, row: dict[str, Any], start: dict[str, Any], number: int, attacks: list[str]) -> None:
    x, y = _ends(row, "forgotten"), _ends(row, "retain_kept")
    at = _ends(start, "forgotten")[0], _ends(start, "retain_kept")[0]
    tested = not np.isnan(y[0])
    y = y if tested else np.array([at[1], np.nan, np.nan])
    name = f"after {plain(row['attack'])}, {plain(row['variant'])}" if row["attack"] else "as it is"
    hover = f"<b>{plain(row['arm'])}</b><br>{name}" + (f", step {row['step']}" if row["step"] else "")
    hover += f"<br>still forgotten: {x[0]:.1f} points [{x[1]:.1f}, {x[2]:.1f}], n = {row['n']}"
    hover += f"<br>retain kept: {y[0]:.0f} % [{y[1]:.0f}, {y[2]:.0f}]" if tested else "<br>retain was not tested"
    if row["came_back"] == row["came_back"]:
        beyond = f" beyond the {row['null']}" if row["null"] else ""
        hover += f"<br>came back{beyond}: {row['came_back']:.0%}" + ("" if row["beyond_chance"] else ", within chance")
    colour = arm_colour(number)
    if row["attack"]:
        line = {"color": colour, "width": 1.2, "dash": "dot"}
        fig.add_trace(
            go.Scatter(x=[at[0], x[0]], y=[at[1], y[0]], mode="lines", line=line, hoverinfo="skip", showlegend=False)
        )
    bars = {"type": "data", "symmetric": False, "thickness": 1.3, "width": 3, "color": colour}
    fig.add_trace(
        go.Scatter(
            x=[x[0]],
            y=[y[0]],
            mode="markers",
            marker={
                "size": 11,
                "color": colour,
                "symbol": _symbol(attacks.index(row["attack"])) if row["attack"] else "circle",
            },
            error_x={**bars, "array": [x[2] - x[0]], "arrayminus": [x[0] - x[1]]},
            error_y={**bars, "array": [y[2] - y[0]], "arrayminus": [y[0] - y[1]]},
            name=plain(row["arm"]),
            showlegend=not row["attack"],
            hovertemplate=f"{hover}<extra></extra>",
        )
    )


def _title(drawn: pd.DataFrame, arms: list[str]) -> str:
    attacked = where(drawn, [bool(one) for one in words(drawn, "attack")])
    if attacked.empty:
        return f"What {count(len(arms), 'edit')} forgot and kept; none was attacked"
    back = where(attacked, flags(attacked, "beyond_chance"))
    came = f"{len(distinct(back, 'arm'))} of {count(len(distinct(attacked, 'arm')), 'attacked edit')}"
    if back.empty:
        tried = count(len(distinct(attacked, "arm")), "attacked edit")
        return f"Nothing came back of {tried} that can be told from chance"
    return f"Something came back of {came}, beyond what the attacks teach"
