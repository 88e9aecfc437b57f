"""How far the selections of several rules agree, beside what chance gives."""

import numpy as np
import pandas as pd
from plotly.subplots import make_subplots

from mastlens.plots.figure import Figure
from mastlens.plots.frame import count, finish, plain
from mastlens.plots.heat import BAR_SPACE, CellGrid, add_map, add_ring_key, color_bar
from mastlens.plots.honest import honest
from mastlens.plots.tables import distinct, need, need_unique, numbers, records, take, where, words
from mastlens.plots.template import SEQUENTIAL

_PAIR = ("first", "second")
_COLUMNS = (*_PAIR, "first_size", "second_size", "candidates", "shared", "jaccard", "jaccard_chance", "p")
_LINE = 7  # pixels a character of a label


@honest
def plot_selection_overlap(
    overlap: pd.DataFrame, *, level: float = 0.95, title: str | None = None, subtitle: str = ""
) -> Figure:
    """Draw the Jaccard overlap of every two selections, rings where it is one that chance gives.

    Args:
        overlap: What ``selection_overlap`` returns. The order of the labels in it is the order drawn.
        level: Share of independent random selections that would get no pair above chance, all pairs together.
        title: The point in plain words; by default how many pairs can be told from chance, and what is nearest to the
            first label.
        subtitle: Model, revision, dtype, seed.
    """
    figure = "plot_selection_overlap"
    need(overlap, _COLUMNS, figure=figure, writer="mastlens.selection.selection_overlap")
    need_unique(overlap, list(_PAIR), figure=figure)
    drawn = take(overlap, [*_COLUMNS, *(c for c in ("jaccard_parameters",) if c in overlap)])
    labels = list(dict.fromkeys([*distinct(drawn, "first"), *distinct(drawn, "second")]))
    pairs = where(drawn, np.asarray(words(drawn, "first")) != np.asarray(words(drawn, "second")))
    bound = (1 - level) / max(int(np.isfinite(numbers(pairs, "p")).sum()), 1)
    drawn["within_chance"] = numbers(drawn, "p") > bound

    # The map's rows and columns are labels here; its own machinery lays them out.
    grid = CellGrid(tuple(range(len(labels))), tuple(labels))
    cells = _both_ways(drawn).assign(layer=lambda t: [labels.index(first) for first in words(t, "first")])
    cells["projection"] = words(cells, "second")
    fig = make_subplots()
    add_map(
        fig,
        cells,
        numbers(cells, "jaccard"),
        grid=grid,
        hover=_hover(cells),
        coloraxis="coloraxis",
        texts=[f"{value:.2f}" for value in numbers(cells, "jaccard")],
        ringed=cells["within_chance"],
    )
    longest = max(map(len, labels))
    fig.update_yaxes(tickvals=list(grid.layers), ticktext=[plain(label) for label in labels], title_text=None)
    fig.update_xaxes(title_text=None, tickangle=-45, side="top")
    fig.update_layout(coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1})
    color_bar(fig, "coloraxis", grid=grid, title="Jaccard overlap: shared / in either (no unit)")
    add_ring_key(fig, "cannot be told from chance")
    return finish(
        fig,
        drawn,
        title=title or _title(labels, drawn),
        subtitle=subtitle,
        note=f"○: independent random selections of these sizes give such an overlap; two-sided, {level:.0%} for all "
        "pairs together. Where two selections have different candidates there is no chance level, and no ring.",
        plot_height=grid.height,
        legend_rows=1,
        above=int(_LINE * longest * 0.71) + 12,  # labels at 45 degrees stand above the map
        bottom=BAR_SPACE,
        left=24 + _LINE * longest,
        right=max(24, int(_LINE * 0.71 * len(labels[-1]))),  # the last label leans over the edge of the map
        min_width=max(480, 60 * len(labels) + _LINE * longest),
    )


def _both_ways(drawn: pd.DataFrame) -> pd.DataFrame:
    other = {"first": "second", "second": "first", "first_size": "second_size", "second_size": "first_size"}
    both = pd.concat([drawn, drawn.rename(columns=other)], ignore_index=True)
    return both.drop_duplicates(subset=list(_PAIR), ignore_index=True)


def _hover(cells: pd.DataFrame) -> list[str]:
    texts = []
    for row in records(cells):
        if row["first"] == row["second"]:
            texts.append(f"<b>{plain(row['first'])}</b><br>{row['first_size']} selected")
            continue
        text = (
            f"<b>{plain(row['first'])}</b> and <b>{plain(row['second'])}</b>"
            f"<br>{row['first_size']} and {row['second_size']} selected, {row['shared']} of them shared"
            f"<br>Jaccard overlap: {row['jaccard']:.3f}"
        )
        if "jaccard_parameters" in row:
            text += f"<br>counted by parameters: {row['jaccard_parameters']:.3f}"
        if np.isfinite(row["jaccard_chance"]):
            text += f"<br>by chance: {row['jaccard_chance']:.3f} of {row['candidates']} candidates (p {row['p']:.2g})"
        else:
            text += "<br>by chance: not known, their candidates differ"
        texts.append(text)
    return texts


def _title(labels: list[str], drawn: pd.DataFrame) -> str:
    pairs = [row for row in records(drawn) if row["first"] != row["second"] and np.isfinite(row["p"])]
    if not pairs:
        return f"{count(len(labels), 'selection')}, none with another to compare it with"
    beyond = sum(not row["within_chance"] for row in pairs)
    title = f"{beyond} of {count(len(pairs), 'pair')} of selections can be told from chance"
    own = [row for row in pairs if labels[0] in (row["first"], row["second"])]
    if own:
        near = max(own, key=lambda row: row["jaccard"])
        other = near["second"] if near["first"] == labels[0] else near["first"]
        title += f"; nearest to {labels[0]} is {other} ({near['jaccard']:.2f})"
    return title
