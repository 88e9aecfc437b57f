"""What an increment did to single tokens: its distribution, by entropy, and the text itself in colour."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from mastlens.errors import BadSetting, UnknownName, unknown
from mastlens.plots.cells import escaped
from mastlens.plots.figure import Figure, TextFigure
from mastlens.plots.frame import count, finish, plain
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, numbers, ordered, records, rows_with, take, where, words
from mastlens.plots.template import COLOURWAY, DIVERGING, INK, MUTED, PAPER, SEQUENTIAL

_NAMES = {"sft": "SFT − base", "rlvr": "RLVR − SFT"}
_POINTS = 400
_LINEAR = 1e-4
"""Up to here the axis of differences is linear, beyond it logarithmic: most tokens hardly move, a few move by nats."""
_TEXT = ("increment", "split", "item", "position", "token", "difference")
_WRITER = "mastlens tokens"
Scale = Sequence[Sequence[Any]]
"""(place in 0 to 1, colour) pairs, as plotly has them."""
SEQUENTIAL_STOPS: Scale = [[i / (len(SEQUENTIAL) - 1), colour] for i, colour in enumerate(SEQUENTIAL)]


@honest
def plot_token_differences(tokens: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw the cumulative distribution of log-probability differences: a panel an increment, a line a split.

    Args:
        tokens: ``tokens.parquet``.
        title: The point in plain words; by default the mean and the share above zero of every increment.
        subtitle: Model, revision, dtype, seed.
    """
    need(tokens, ["increment", "split", "difference"], figure="plot_token_differences", writer=_WRITER)
    increments, splits = distinct(tokens, "increment"), distinct(tokens, "split")
    names = [plain(_NAMES.get(increment, increment)) for increment in increments]
    fig = make_subplots(1, len(increments), shared_yaxes=True, subplot_titles=names, horizontal_spacing=0.06)
    lines, sentences = [], []
    for col, increment in enumerate(increments, start=1):
        chosen = rows_with(tokens, "increment", increment)
        everything = numbers(chosen, "difference")
        sentences.append(
            f"{increment.upper()} {signed_nats(everything.mean())} nats a token on average, "
            f"{(everything > 0).mean():.0%} of tokens up"
        )
        for split, colour in zip(splits, COLOURWAY * len(splits), strict=False):
            values = np.sort(numbers(rows_with(chosen, "split", split), "difference"))
            if not values.size:
                continue
            share = np.arange(1, values.size + 1) / values.size
            kept = np.unique(np.linspace(0, values.size - 1, _POINTS).astype(int))
            line = pd.DataFrame({"difference": values[kept], "share": share[kept]})
            line.insert(0, "split", split)
            line.insert(0, "increment", increment)
            lines.append(line)
            fig.add_trace(
                go.Scatter(
                    x=_stretched(numbers(line, "difference")),
                    customdata=line["difference"],
                    y=line["share"],
                    mode="lines",
                    line={"color": colour, "width": 2, "shape": "hv"},
                    name=plain(split),
                    legendgroup=split,
                    showlegend=col == 1,
                    hovertemplate=f"{plain(split)}<br>%{{y:.1%}} of tokens up to %{{customdata:+.4g}}<extra></extra>",
                ),
                row=1,
                col=col,
            )
        fig.update_xaxes(title_text="difference of log-probability (nats)", row=1, col=col)
        fig.add_vline(x=0, line={"color": MUTED, "width": 1, "dash": "dot"}, row=1, col=col)  # pyright: ignore[reportArgumentType]
    end = max(float(np.abs(numbers(tokens, "difference")).max()), 10 * _LINEAR)
    sizes = [10.0**power for power in range(-4, int(np.floor(np.log10(end))) + 1)]
    ticks = [*(-size for size in reversed(sizes)), 0.0, *sizes]
    # Every second power of ten is written: there is room for no more.
    labels = [
        "" if (tick and round(np.log10(abs(tick))) % 2) or abs(tick) == _LINEAR else signed_nats(tick) for tick in ticks
    ]
    ends = 1.02 * _stretched(np.array([-end, end]))
    fig.update_xaxes(range=ends.tolist(), tickvals=_stretched(np.array(ticks)).tolist(), ticktext=labels, tickangle=0)
    fig.update_yaxes(range=[0, 1], tickformat=".0%")
    fig.update_yaxes(title_text="tokens at or below", row=1, col=1)
    return finish(
        fig,
        pd.concat(lines, ignore_index=True),
        title=title or f"Teacher-forced on fixed texts: {'; '.join(sentences)}",
        subtitle=subtitle,
        note=f"Solution tokens only. Dotted: no change. The axis is linear up to ±{_LINEAR:g} nats and logarithmic "
        f"beyond. A line is drawn through at most {_POINTS} of its tokens.",
        legend_rows=1,
        panel_titles=True,
        min_width=360 if len(increments) == 1 else 640,
    )


def _stretched(values: np.ndarray) -> np.ndarray:
    """Return where differences stand on the axis: linear near 0, logarithmic beyond."""
    return np.arcsinh(values / _LINEAR)


@honest
def plot_token_entropy(summary: pd.DataFrame, *, title: str | None = None, subtitle: str = "") -> Figure:
    """Draw the mean difference by entropy before the increment, with its interval: a panel an increment.

    Args:
        summary: ``token_summary.parquet``.
        title: The point in plain words; by default where the last increment's tokens moved most.
        subtitle: Model, revision, dtype, seed.
    """
    columns = ["increment", "split", "entropy_quantile", "tokens", "mean", "ci_low", "ci_high"]
    need(summary, columns, figure="plot_token_entropy", writer=_WRITER)
    drawn = ordered(take(where(summary, numbers(summary, "entropy_quantile") > 0), columns), "increment")
    increments, splits = distinct(summary, "increment"), distinct(summary, "split")
    names = [plain(_NAMES.get(increment, increment)) for increment in increments]
    fig = make_subplots(1, len(increments), subplot_titles=names, horizontal_spacing=0.12)
    for col, increment in enumerate(increments, start=1):
        for place, (split, colour) in enumerate(zip(splits, COLOURWAY * len(splits), strict=False)):
            line = rows_with(rows_with(drawn, "increment", increment), "split", split)
            mean = numbers(line, "mean")
            shift = 0.5 * (place - (len(splits) - 1) / 2) / max(len(splits), 1)  # intervals must not hide each other
            fig.add_trace(
                go.Scatter(
                    x=numbers(line, "entropy_quantile") + shift,
                    y=mean,
                    error_y={
                        "array": numbers(line, "ci_high") - mean,
                        "arrayminus": mean - numbers(line, "ci_low"),
                        "thickness": 1.5,
                        "width": 4,
                    },
                    mode="markers",
                    marker={"color": colour, "size": 9},
                    name=plain(split),
                    legendgroup=split,
                    showlegend=col == 1,
                    customdata=numbers(line, "tokens"),
                    hovertemplate=f"{plain(split)}<br>%{{y:+.4g}} nats over %{{customdata:,}} tokens<extra></extra>",
                ),
                row=1,
                col=col,
            )
        fig.add_hline(y=0, line={"color": MUTED, "width": 1, "dash": "dot"}, row=1, col=col)  # pyright: ignore[reportArgumentType]
        fig.update_xaxes(dtick=1, title_text="entropy before, quantile (low to high)", row=1, col=col)
    fig.update_yaxes(title_text="mean difference (nats a token)", row=1, col=1)
    return finish(
        fig,
        drawn,
        title=title or _entropy_title(drawn, increments[-1]),
        subtitle=subtitle,
        note="Bars: 95% intervals, items resampled whole. Dotted: no change. Quantiles are equal shares of all tokens "
        "of an increment, all splits together. Each panel has its own range.",
        legend_rows=1,
        panel_titles=True,
        left=74,
        min_width=360 if len(increments) == 1 else 640,
    )


def _entropy_title(drawn: pd.DataFrame, increment: str) -> str:
    by: dict[int, list[tuple[float, float]]] = {}
    rows = records(rows_with(drawn, "increment", increment))
    apart = {int(row["entropy_quantile"]) for row in rows if row["ci_low"] > 0 or row["ci_high"] < 0}
    if not apart:
        return f"{increment.upper()} moved the tokens of no entropy class beyond its interval"
    for row in rows:
        by.setdefault(int(row["entropy_quantile"]), []).append((row["mean"] * row["tokens"], row["tokens"]))
    pooled = {quantile: sum(s for s, _ in parts) / sum(n for _, n in parts) for quantile, parts in by.items()}
    most = max(apart, key=lambda quantile: abs(pooled[quantile]))
    names = {min(pooled): "most certain", max(pooled): "most uncertain"}
    place = names.get(most, f"entropy class {most}")
    return f"{increment.upper()} moved the {place} tokens most: {signed_nats(pooled[most])} nats each"


def signed_nats(value: float) -> str:
    """Return a number with its sign, three digits and a real minus; 0 has none."""
    return f"{value:+.3g}".replace("-", "−") if value else "0"


@honest
def token_text_html(
    tokens: pd.DataFrame, *, increment: str = "rlvr", split: str | None = None, items: Sequence[int] = (0,)
) -> TextFigure:
    """Return solutions as an HTML fragment, every token coloured by what the increment did to it.

    The colours are diverging around 0 and the same for all items shown; the largest 2% of differences share the end
    colours. All text is escaped. The fragment brings its styles with it and needs no script.

    Args:
        tokens: ``tokens.parquet``.
        increment: ``sft`` or ``rlvr``.
        split: Which split; by default the first.
        items: Which items of it, counted from 0.

    Raises:
        MastlensError: For an increment, split or item that the table does not have.
    """
    need(tokens, _TEXT, figure="token_text_html", writer=_WRITER)
    chosen = tokens
    for column, value in (("increment", increment), ("split", split)):
        valid = distinct(chosen, column)
        value = valid[0] if value is None else value
        if value not in valid:
            raise unknown(column, value, valid)
        chosen = rows_with(chosen, column, value)
    split = words(chosen, "split")[0]
    there = sorted({int(item) for item in chosen["item"].tolist()})
    if missing := [item for item in items if item not in there]:
        raise UnknownName(
            f"Split {split} has no item {missing[0]}; its {count(len(there), 'item')} begin at {there[0]}."
        )
    parts = {item: ordered(where(chosen, numbers(chosen, "item") == item), "position") for item in items}
    if not parts:
        raise BadSetting("token_text_html was given no items to show.")
    end = scale_end(np.concatenate([numbers(part, "difference") for part in parts.values()]))
    blocks = [
        (
            f"item {item}: {signed_nats(numbers(part, 'difference').sum())} nats in all, {count(len(part), 'token')}",
            [token_span(row, end) for row in records(part)],
        )
        for item, part in parts.items()
    ]
    said = f"{_NAMES.get(increment, increment)}, {split}: difference of each token’s log-probability"
    html = _coloured(said, blocks, DIVERGING, f"−{end:.2g}", f"+{end:.2g} nats")
    return TextFigure(html, pd.concat(parts.values(), ignore_index=True))


@honest
def token_weights_html(weights: pd.DataFrame, *, items: Sequence[int] = (0,)) -> TextFigure:
    """Return forget solutions as an HTML fragment, every token coloured by the weight that it was forgotten with.

    Args:
        weights: ``token_weights.parquet``.
        items: Which problems, counted from 0.

    Raises:
        MastlensError: For an item that the table does not have.
    """
    need(weights, ("item", "position", "text", "weight"), figure="token_weights_html", writer="mastlens unlearn")
    there = sorted({int(item) for item in weights["item"].tolist()})
    if missing := [item for item in items if item not in there]:
        raise UnknownName(f"There is no item {missing[0]}; the {count(len(there), 'item')} begin at {there[0]}.")
    blocks, parts = [], []
    for item in items:
        part = ordered(where(weights, numbers(weights, "item") == item), "position")
        mean = numbers(part, "weight").mean()
        parts.append(part)
        blocks.append((f"item {item}: mean weight {mean:.2f}, {count(len(part), 'token')}", _weighed(part)))
    html = _coloured("Weight of each forget token", blocks, SEQUENTIAL_STOPS, "0", "1")
    return TextFigure(html, pd.concat(parts, ignore_index=True) if parts else weights.iloc[:0])


def _weighed(part: pd.DataFrame) -> list[str]:
    spans = []
    for row in records(part):
        weight = float(row["weight"])  # pyright: ignore[reportArgumentType] - a column of numbers
        said = f"weight {weight:.3f}"
        if "logprob" in row:
            said += f"; log-probability {signed_nats(float(row['logprob']))} nats"  # pyright: ignore[reportArgumentType]
        spans.append(_span(str(row["text"]), said, weight, SEQUENTIAL_STOPS, dark=weight > 0.5))
    return spans


def _coloured(said: str, blocks: Sequence[tuple[str, list[str]]], scale: Scale, low: str, high: str) -> str:
    """Return the figure: a caption, a legend, and for each block its heading and its text."""
    body = "".join(
        f'<p style="margin:0 0 4px;color:{MUTED}">{heading}</p>\n'
        f'<p style="margin:0 0 16px;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7">{"".join(spans)}</p>\n'
        for heading, spans in blocks
    )
    return (
        f'<figure class="tokens" style="margin:0;color:{INK};background:{PAPER}">\n'
        f"<figcaption>{escaped(said)}</figcaption>\n{legend_of(scale, low, high)}{body}</figure>\n"
    )


def legend_of(scale: Scale, low: str, high: str) -> str:
    """Return the bar of a scale of colours between what its ends mean."""
    stops = ",".join(f"{colour} {100 * place:g}%" for place, colour in scale)
    return (
        f'<p style="display:flex;gap:8px;align-items:center;margin:4px 0 12px"><span>{low}</span>'
        '<span aria-hidden="true" style="display:inline-block;width:160px;height:12px;'
        f'background:linear-gradient(to right,{stops})"></span><span>{high}</span></p>\n'
    )


def scale_end(differences: np.ndarray) -> float:
    """Return the difference at which colours end: the largest 2% share the end colours."""
    sizes = np.abs(differences)
    return float(np.quantile(sizes, 0.98)) or float(sizes.max()) or 1.0


def token_span(row: dict[str, object], end: float, mark: str = "", *, by: str = "difference") -> str:
    """Return one token: its colour, its text, and its numbers where the pointer rests on it.

    Args:
        row: With ``token`` and ``difference``; ``logprob_before`` and ``entropy_before`` where they are known.
        end: The difference at which colours end.
        mark: Further style.
        by: The column that decides the colour.
    """
    difference = float(row["difference"])  # pyright: ignore[reportArgumentType] - a column of numbers
    value = float(row[by])  # pyright: ignore[reportArgumentType]
    place = 0.5 + 0.5 * max(-1.0, min(1.0, value / end)) if value == value else 0.5
    said = f"{signed_nats(difference)} nats"
    if "logprob_before" in row:
        said += f", from {signed_nats(float(row['logprob_before']))}"  # pyright: ignore[reportArgumentType]
    if "entropy_before" in row:
        said += f"; entropy before {float(row['entropy_before']):.3g}"  # pyright: ignore[reportArgumentType]
    if "gradient_share" in row:
        said += f"; {100 * float(row['gradient_share']):.3g} % of the gradient"  # pyright: ignore[reportArgumentType]
    return _span(str(row["token"]), said, place, DIVERGING, dark=abs(place - 0.5) > 0.4, mark=mark)


def _span(text: str, said: str, place: float, scale: Scale, *, dark: bool, mark: str = "") -> str:
    colour = str(sample_colorscale(scale, [place])[0]).replace(" ", "")
    ink = PAPER if dark else INK  # readable on both ends of the scale
    # A line end would be a token without a body to colour.
    shown = escaped(text).replace("\n", "↵\n")
    style = f"background:{colour};color:{ink};border-radius:2px{';' * bool(mark)}{mark}"
    return f'<span style="{style}" title="{escaped(said)}">{shown}</span>'
