"""Where misdirection acts: how far the states of each kind of text have turned, layer by layer and step by step."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from mastlens.errors import unknown
from mastlens.plots.frame import finish, plain, short
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, need_unique, numbers, ordered, rows_with, take, where
from mastlens.plots.template import MUTED, SEQUENTIAL

MEASURES = {
    "cosine": "cosine to the source's state",
    "norm_ratio": "length relative to the source's state",
    "cosine_to_control": "cosine to the control vector",
}
_NAMES = {"forget": "forget texts", "traces": "traces", "cot": "chains of thought", "retain": "retain texts"}
_KEYS = ("step", "text", "layer")


@honest
def plot_misdirection(
    drift: pd.DataFrame,
    *,
    measure: str = "cosine",
    layer: int | None = None,
    title: str | None = None,
    subtitle: str = "",
) -> go.Figure:
    """Draw how far hidden states have turned from the model before unlearning, by layer, one panel a kind of text.

    One line a step, darker the later; the dashed line is the source.

    Args:
        drift: The table of ``measure_drift`` or ``state_drift``.
        measure: ``cosine``, ``norm_ratio`` or ``cosine_to_control``.
        layer: The layer that was steered, marked; None marks none.
        title: The point in plain words; by default where the last step turned each kind of text most.
        subtitle: Model, revision, dtype, seed.
    """
    if measure not in MEASURES:
        raise unknown("measure of drift", measure, MEASURES)
    columns = (*_KEYS, measure, "tokens")
    need(drift, columns, figure="plot_misdirection", writer="mastlens.unlearning.drift.measure_drift")
    need_unique(drift, list(_KEYS), figure="plot_misdirection")
    drawn = ordered(take(drift, columns), "step", "layer")
    texts = [text for text in _NAMES if text in distinct(drawn, "text")]
    texts += [text for text in distinct(drawn, "text") if text not in texts]
    steps = sorted({int(step) for step in numbers(drawn, "step")})
    fig = make_subplots(
        1,
        len(texts),
        shared_yaxes=True,
        horizontal_spacing=0.025,
        subplot_titles=[plain(_NAMES.get(text, text)) for text in texts],
    )
    for column, text in enumerate(texts, start=1):
        part = rows_with(drawn, "text", text)
        for step in steps:
            rows = where(part, numbers(part, "step") == step)
            fig.add_trace(_line(rows, measure, step, steps, legend=column == 1), row=1, col=column)
        if layer is not None:
            fig.add_vline(x=layer, line={"color": MUTED, "width": 1.2, "dash": "dot"}, row=1, col=column)  # pyright: ignore[reportArgumentType] - numbers are what it takes
        fig.update_xaxes(title_text="decoder layer", dtick=_tick(drawn), row=1, col=column)
    fig.update_yaxes(title_text=MEASURES[measure], row=1, col=1)
    note = "Means over a text's tokens, then over texts. Dashed: the source."
    if layer is not None:
        note += f" Dotted: layer {layer}, which was steered."
    return finish(
        fig,
        drawn,
        title=title or _title(drawn, measure, texts, steps),
        subtitle=subtitle,
        note=note,
        plot_height=300,
        legend_rows=1,
        panel_titles=True,
        left=72,
        min_width=180 * len(texts) + 100,
    )


def _line(rows: pd.DataFrame, measure: str, step: int, steps: list[int], *, legend: bool) -> go.Scatter:
    last = max(steps)
    colour = MUTED if step == 0 else sample_colorscale(SEQUENTIAL, [0.25 + 0.65 * step / max(last, 1)])[0]
    name = "source" if step == 0 else f"step {step}"
    return go.Scatter(
        x=numbers(rows, "layer"),
        y=numbers(rows, measure),
        mode="lines" if step == 0 else "lines+markers",
        marker={"size": 5},
        line={"color": colour, "width": 1.4 if step == 0 else 2, "dash": "dash" if step == 0 else "solid"},
        name=name,
        legendgroup=name,
        showlegend=legend,
        customdata=numbers(rows, "tokens"),
        hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>{MEASURES[measure]}: %{{y:.3f}}<br>"
        "%{customdata:,} tokens<extra></extra>",
    )


def _tick(drawn: pd.DataFrame) -> int:
    return max(1, round((numbers(drawn, "layer").max() + 1) / 8))


def _title(drawn: pd.DataFrame, measure: str, texts: list[str], steps: list[int]) -> str:
    last = where(drawn, numbers(drawn, "step") == max(steps))
    parts = []
    for text in texts:
        values = numbers(rows_with(last, "text", text), measure)
        values = values[np.isfinite(values)]
        if values.size:
            # What is steered turns away from the source, or towards the control vector.
            parts.append(f"{_NAMES.get(text, text)} {short(values.max() if 'control' in measure else values.min(), 2)}")
    if not parts or max(steps) == 0:
        return MEASURES[measure][0].upper() + MEASURES[measure][1:]
    which = "Highest" if "control" in measure else "Lowest"
    return f"{which} {MEASURES[measure]} at step {max(steps)}: {', '.join(map(plain, parts))}"
