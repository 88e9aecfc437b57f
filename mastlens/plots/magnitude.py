"""How large each increment is: SFT beside RLVR."""

from typing import Any

import numpy as np
import pandas as pd
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import finish, plain, short
from mastlens.plots.heat import (
    BAR_SPACE,
    KEYS,
    CellGrid,
    add_hatch,
    add_hatch_key,
    add_map,
    color_bar,
    color_scale,
    hover_text,
    log_range,
    once_per_cell,
)
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, numbers, records, rows_with, take, words

_NAMES = {"sft": "SFT", "rlvr": "RLVR"}


@honest
def plot_increment_magnitude(geometry: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw how large each increment is, SFT beside RLVR, with the same colour range in each row.

    Args:
        geometry: ``geometry.parquet``. A column ``precision_floor`` (the norm of rounding alone), where
            there is one, marks the cells that lie below it.
        title: The point in plain words; by default how far SFT moved for every step of RLVR.
        subtitle: Model, revision, dtype, seed.
    """
    figure = "plot_increment_magnitude"
    need(
        geometry,
        ["increment", *KEYS, "delta_norm", "relative_norm"],
        figure=figure,
        writer="mastlens geometry",
    )
    floored = "precision_floor" in geometry.columns
    columns = ["increment", *KEYS, "delta_norm", "relative_norm", *(["precision_floor"] if floored else [])]
    drawn = take(geometry, columns)
    present = distinct(drawn, "increment")
    increments = [name for name in ("sft", "rlvr") if name in present]
    increments += [name for name in present if name not in increments]
    metrics = {
        "delta_norm": "Frobenius norm |Δ|",
        "relative_norm": "relative to the tensor it was added to, |Δ| / |W|",
    }
    grid = CellGrid.of(drawn)
    gap = (BAR_SPACE + 30) / (2 * grid.height + BAR_SPACE + 30)
    names = [f"{_NAMES.get(name, plain(name))} increment" for name in increments]
    fig = make_subplots(
        2,
        len(increments),
        subplot_titles=names * 2,
        horizontal_spacing=0.09,
        vertical_spacing=gap,
    )
    inner = 2 * grid.height + BAR_SPACE + 30
    for row, (metric, label) in enumerate(metrics.items(), start=1):
        axis = "coloraxis" if row == 1 else "coloraxis2"
        everything = numbers(drawn, metric)
        logarithmic = log_range(everything)
        shown = _log10(everything) if logarithmic else everything
        fig.update_layout({axis: color_scale(shown, signed=False)})
        if logarithmic:
            fig.update_layout({axis: {"cmin": float(np.nanmin(shown)), "colorbar": _decades(shown)}})
        for col, increment in enumerate(increments, start=1):
            part = rows_with(drawn, "increment", increment)
            once_per_cell(part, figure)
            values = numbers(part, metric)
            lines = {"|Δ|": "{delta_norm:.4g}", "|Δ| / |W|": "{relative_norm:.4g}"}
            if floored:
                lines["floor of the precision"] = "{precision_floor:.3g}"
            add_map(
                fig,
                part,
                _log10(values) if logarithmic else values,
                grid=grid,
                hover=hover_text(part, lines),
                coloraxis=axis,
                texts=[short(value, 2) for value in values],
                row=row,
                col=col,
                layer_title=col == 1,
            )
            if floored:
                add_hatch(fig, grid, part, _below_floor(part), row=row, col=col)
        color_bar(fig, axis, grid=grid, title=label, row=row, to_col=len(increments), height=inner)
    if floored:
        add_hatch_key(fig, "not above the floor of the checkpoint's precision")
    return finish(
        fig,
        drawn,
        title=title or _magnitude_title(drawn, increments),
        subtitle=subtitle,
        note="Both panels of a row have the same colours for the same values.",
        plot_height=inner,
        legend_rows=int(floored),
        panel_titles=True,
        bottom=BAR_SPACE,
        min_width=520 if len(increments) > 1 else 360,
    )


def _below_floor(part: pd.DataFrame) -> np.ndarray:
    return numbers(part, "delta_norm") <= numbers(part, "precision_floor")


def _magnitude_title(drawn: pd.DataFrame, increments: list[str]) -> str:
    names = np.asarray(words(drawn, "increment"))
    norms = np.nan_to_num(numbers(drawn, "delta_norm"))
    total = {name: float(np.sqrt((norms[names == name] ** 2).sum())) for name in increments}
    sft, rlvr = total.get("sft", 0.0), total.get("rlvr", 0.0)
    if sft and rlvr:
        first, second = ("SFT", "RLVR") if sft >= rlvr else ("RLVR", "SFT")
        times = max(sft, rlvr) / min(sft, rlvr)
        return f"{first} moved the attention weights {times:.2g} times as far as {second}"
    if not norms.any():
        return "No attention projection changed"
    top = records(drawn)[int(norms.argmax())]
    return f"The increment is largest in layer {top['layer']}, {top['projection']}"


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, np.log10(values), np.nan)


def _decades(shown: np.ndarray) -> dict[str, Any]:
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    ticks = [
        (np.log10(digit) + power, f"{digit * 10.0**power:g}")
        for power in range(int(np.floor(low)), int(np.ceil(high)) + 1)
        for digit in (1, 3)
    ]
    ticks = [tick for tick in ticks if low <= tick[0] <= high]
    return {"tickvals": [tick[0] for tick in ticks], "ticktext": [tick[1] for tick in ticks]}
