"""What a direction tells in SFT and RLVR, and what RLVR does along it, by layer, beside its null."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mastlens.errors import unknown
from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.marks import add_band, interval_bars, told_symbols, whole_ticks
from mastlens.plots.measures import label_of
from mastlens.plots.tables import distinct, need, numbers, rows_with, take, words
from mastlens.plots.template import COLOURWAY
from mastlens.statistics import claim

_PLACE = ("probe", "layer", "site", "head", "position")
_STREAM = ("embed", "resid_pre", "resid_mid", "resid_post")
_MODELS = {"auc_before": "SFT", "auc_after": "RLVR"}
_WRITER = "mastlens inside direct"
MEASURES = ("auc", "writes", "reads")
"""What can be drawn."""


@honest
def plot_directions(
    table: pd.DataFrame, measure: str = "auc", probe: str | None = None, *, subtitle: str = ""
) -> Figure:
    """Draw by layer how well a direction tells held-out texts apart, or what RLVR does along it.

    Args:
        table: ``inside_direct.parquet``.
        measure: ``auc`` (in both models, with intervals, beside shuffled labels), ``writes`` or ``reads`` (of RLVR,
            beside random changes).
        probe: ``mean`` or ``logistic``; by default the first that the table has.
        subtitle: Model, revision, dtype, seed.

    Raises:
        MastlensError: For another measure, a probe that the table does not have, or a table that lacks a column.
    """
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    columns = list(_MODELS) if measure == "auc" else [measure]
    wanted = [f"{column}{end}" for column in columns for end in ("", "_null", "_distinguishable")]
    ends = [f"{column}_{end}" for column in columns for end in _ends(measure)]
    need(table, [*_PLACE, *wanted, *ends], figure="plot_directions", writer=_WRITER)
    there = distinct(table, "probe")
    chosen = there[0] if probe is None else probe
    if chosen not in there:
        raise unknown("probe", chosen, there)
    extra = [column for column in (f"{one}_p" for one in columns) if column in table]
    drawn = take(table, [*_PLACE, *wanted, *ends, *extra])
    drawn = rows_with(drawn, "probe", chosen).reset_index(drop=True)
    drawn["place"] = _places(drawn)
    fig = go.Figure()
    several = len(distinct(drawn, "place")) > 1
    lines = [(place, column) for place in distinct(drawn, "place") for column in columns]
    for (place, column), colour in zip(lines, COLOURWAY * len(lines), strict=False):
        part = rows_with(drawn, "place", place).sort_values("layer", kind="stable")
        named = [plain(place)] * several + [_MODELS.get(column, "RLVR")] * (measure == "auc" or not several)
        _line(fig, part, column, ", ".join(named), colour, intervals=measure == "auc")
    fig.update_yaxes(title_text=plain(label_of(measure)))
    fig.update_xaxes(title_text="layer (−1: the embedding)", **whole_ticks(numbers(drawn, "layer")))
    if measure == "auc":
        lowest = min(float(np.nanmin(numbers(drawn, column), initial=0.5)) for column in [*columns, *ends])
        fig.update_yaxes(range=[lowest - 0.04, 1.04])
    note = "Dotted: shuffled labels (mean). Bars: 95 % intervals over texts. Open: not beyond chance"
    if measure != "auc":
        note = "Dotted: random changes (mean). Band: where 95 % lie by chance, of random changes or of directions from "
        note += "shuffled labels, whichever explains it best. Open: not beyond both"
    return finish(
        fig,
        drawn.drop(columns="place"),
        title=_title(drawn, columns, measure),
        subtitle=subtitle,
        note=note + " (two-sided, p ≥ 0.001 for each).",
        legend_rows=1,
        min_width=480,
    )


def _line(fig: go.Figure, part: pd.DataFrame, column: str, name: str, colour: str, *, intervals: bool) -> None:
    x, y, null = numbers(part, "layer"), numbers(part, column), numbers(part, f"{column}_null")
    bars = {}
    if intervals:
        bars = {"error_y": interval_bars(part, column)}
    if not intervals and np.isfinite(null).any():
        low, high = (f"{column}_{end}" for end in _ends(column))
        add_band(fig, part, "layer", low, high, colour)
    fig.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 8, "symbol": told_symbols(part, f"{column}_distinguishable")},
            customdata=null,
            hovertemplate=f"{name}, layer %{{x}}<br>%{{y:.4g}}; by chance %{{customdata:.4g}}<extra></extra>",
            **bars,
        )
    )
    if np.isfinite(null).any():
        fig.add_trace(
            go.Scatter(
                x=x,
                y=null,
                mode="lines",
                name=f"{name}, by chance",
                line={"color": colour, "width": 1.5, "dash": "dot"},
                hovertemplate="by chance %{y:.4g}<extra></extra>",
            )
        )


def _ends(measure: str) -> tuple[str, str]:
    return ("low", "high") if measure == "auc" else ("chance_low", "chance_high")


def _places(table: pd.DataFrame) -> list[str]:
    """Return what each row's line is called: the stream is one, whatever part of a block it is read at."""
    sites = words(table, "site")
    stream = sum(site in _STREAM[1:] for site in distinct(table, "site")) <= 1
    heads, positions = numbers(table, "head"), numbers(table, "position")
    told = len(set(positions)) > 1
    found = []
    for site, head, position in zip(sites, heads, positions, strict=True):
        name = "stream" if stream and site in _STREAM else site + (f"{head:.0f}" if head >= 0 else "")
        at = "all tokens" if position < 0 else f"token {position:.0f}"
        found.append(f"{name}, {at}" if told else name)
    return found


def _title(drawn: pd.DataFrame, columns: list[str], measure: str) -> str:
    if measure == "auc":
        found = {_MODELS[column]: claim(drawn, column) for column in columns}
        said = [f"{one.beyond if one.holds else 0} of {one.of} probes in {model}" for model, one in found.items()]
        return f"Texts are told apart beyond chance by {' and '.join(said)}"
    said = {"writes": "What RLVR moves along the direction", "reads": "How RLVR's answer to the direction changed"}
    return f"{said[measure]}: {claim(drawn, measure).sentence('reading')}"
