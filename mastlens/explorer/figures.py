"""Every figure of the explorer, without a kernel: the map of a score, and everything about one projection."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.analysis.increments.spectra import gaussian_singular_values
from mastlens.errors import MastlensError, NotFound, NotSupported, unknown
from mastlens.explorer.exploration import Exploration, open_exploration
from mastlens.explorer.scores import Score, score_claim, score_range, score_table

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class ExplorerSection:
    """One thing that is shown of a projection.

    Attributes:
        key: Its name in what ``projection_figures`` returns.
        heading: What it is called.
        draw: Makes the figure; raises ``MastlensError`` where something is missing.
        slow: Whether it runs the model.
    """

    key: str
    heading: str
    draw: "Callable[[Exploration, str, int | None], go.Figure]"
    slow: bool = False


def score_map(
    study: Exploration,
    score: str | None = None,
    *,
    chosen: str | None = None,
    note: str = "",
    over: np.ndarray | None = None,
) -> "go.Figure":
    """Return the map of one score over layers and projections.

    Args:
        study: The run.
        score: Its key, as in ``study.scores``; the first one without it.
        chosen: Name of a projection to frame.
        note: A line below.
        over: Values that the colours range over; by default those of the run's scores of its family.

    Raises:
        MastlensError: If the run has no such score.
    """
    from mastlens.plots.projection_effect import plot_projection_map

    score = score or next(iter(study.scores))
    if score not in study.scores:
        raise unknown("score in this run", score, study.scores)
    found = study.scores[score]
    table = score_table(study.tables, found)
    return plot_projection_map(
        table,
        label=found.label,
        signed=found.signed,
        doublings=found.doublings,
        over=score_range(study.tables, study.scores, found) if over is None else over,
        chosen=chosen,
        note=note,
        title=_map_title(study, found, table),
        subtitle=study.subtitle,
    )


def _map_title(study: Exploration, score: Score, table: pd.DataFrame) -> str | None:
    """Return what the verdicts of a score add up to and the largest of what is beyond chance; None without verdicts."""
    found = score_claim(study.tables, score)
    if found is None:
        return None
    title = f"{score.label[:1].upper()}{score.label[1:]}: {found.sentence('projection')}"
    beyond = table[table["beyond_chance"].fillna(False).astype(bool)]
    if found.holds and len(beyond):
        top = beyond.iloc[int(np.argmax(np.abs(beyond["value"].to_numpy(float))))]
        title += f", largest in layer {top['layer']}, {top['projection']}"
    return title


def projection_figures(
    study: "str | os.PathLike[str] | Exploration", name: str, *, problem: int | None = None, **sources: Any
) -> "dict[str, go.Figure]":
    """Return every figure of one projection that the run's tables, checkpoints and problems allow.

    What cannot be drawn is left out; ``figures_and_gaps`` says why.

    Args:
        study: A run's folder, or what ``open_exploration`` made of it.
        name: The projection's name, or ``LAYER.PROJECTION`` such as ``3.q``.
        problem: Show the attention on this one forget problem, from 0, instead of the mean.
        sources: As for ``explore``.

    Returns:
        Among ``standing``, ``spectrum``, ``angles``, ``heads``, ``coupling``, ``coupling_spectrum``,
        ``coupling_spectrum_retain``, ``effect``, ``put_back``, ``attention``: the figure.

    Raises:
        MastlensError: If there is no such projection.
    """
    return figures_and_gaps(open_exploration(study, **sources), name, problem=problem)[0]


def figures_and_gaps(
    study: Exploration, name: str, *, problem: int | None = None
) -> "tuple[dict[str, go.Figure], dict[str, str]]":
    """Return the figures of one projection, and heading to reason of those that cannot be drawn."""
    name = study.resolve(name)
    figures, gaps = {}, {}
    for section, made in each_section(study, name, problem=problem):
        if isinstance(made, str):
            gaps[section.key] = made
        else:
            figures[section.key] = made
    return figures, gaps


def each_section(
    study: Exploration, name: str, *, problem: int | None = None, slow: bool | None = None
) -> "Iterator[tuple[ExplorerSection, go.Figure | str]]":
    """Yield (section, its figure or why there is none), one at a time, the slow ones last.

    Args:
        study: The run.
        name: The projection's full name.
        problem: As for ``projection_figures``.
        slow: Only those that run the model, or only the others; None for all.
    """
    for section in SECTIONS:
        if slow is None or section.slow == slow:
            try:
                yield section, section.draw(study, name, problem)
            except MastlensError as error:
                yield section, str(error)


def _standing(study: Exploration, name: str, problem: int | None) -> "go.Figure":
    from mastlens.plots.projection import plot_standing

    return plot_standing(study.numbers(name), place=study.place(name), subtitle=study.subtitle)


def _spectrum(study: Exploration, name: str, problem: int | None) -> "go.Figure":
    from mastlens.plots.projection import plot_projection_spectrum

    spectra = study.rows("spectra", name)
    if spectra is None:
        spectra = study.bench.geometry(name)["spectra"]
    rows, cols = _shape(study, name)
    random = gaussian_singular_values(rows, cols, np.random.default_rng(0))
    random = random / np.linalg.norm(random)
    # A random increment of the same norm: the law of its singular values hardly varies from draw to draw.
    norms = spectra.groupby("increment")["singular_value"].transform(lambda values: float(np.linalg.norm(values)))
    index = spectra["index"].to_numpy(int) - 1
    return plot_projection_spectrum(
        spectra.assign(chance=norms.to_numpy() * random[index]), place=study.place(name), subtitle=study.subtitle
    )


def _shape(study: Exploration, name: str) -> tuple[int, int]:
    for table in ("geometry", "coupling"):
        if (found := study.rows(table, name)) is not None:
            return int(found["rows"].iloc[0]), int(found["cols"].iloc[0])
    projection = study.bench.projection(name)
    return projection.rows, projection.cols


def _angles(study: Exploration, name: str, problem: int | None) -> "go.Figure":
    from mastlens.plots.projection import plot_projection_angles

    return plot_projection_angles(study.bench.angles(name), place=study.place(name), subtitle=study.subtitle)


def _heads(study: Exploration, name: str, problem: int | None) -> "go.Figure":
    from mastlens.plots.projection_heads import plot_projection_heads

    heads = study.rows("geometry_heads", name)
    if heads is None:
        heads = study.bench.geometry(name)["heads"]
    if heads.empty:
        raise NotSupported("This matrix has no heads.")
    coupling = study.rows("coupling_heads", name)
    return plot_projection_heads(heads, coupling=coupling, place=study.place(name), subtitle=study.subtitle)


def _coupling(study: Exploration, name: str, problem: int | None) -> "go.Figure":
    from mastlens.plots.projection_heads import plot_projection_coupling

    rows = _needed(study.rows("coupling", name), "coupling.parquet", "mastlens couple")
    return plot_projection_coupling(rows, place=study.place(name), subtitle=study.subtitle)


def _coupling_spectrum(side: str) -> "Callable[[Exploration, str, int | None], go.Figure]":
    def draw(study: Exploration, name: str, problem: int | None) -> "go.Figure":
        from mastlens.plots.coupling_spectrum import plot_coupling_spectrum

        rows = _needed(study.rows("coupling_spectrum", name), "coupling_spectrum.parquet", "mastlens couple")
        if side not in set(rows["side"]):
            raise NotFound(f"The run has no {side} coupling. mastlens couple --{side} FILE measures it.")
        figure = plot_coupling_spectrum(rows, side=side, subtitle=study.subtitle)
        figure.update_traces(marker_showscale=False, selector={"mode": "markers"})  # of one layer there is no scale
        return figure

    return draw


def _effect(study: Exploration, name: str, problem: int | None) -> "go.Figure":
    from mastlens.plots.projection_effect import plot_projection_effect

    rows = _needed(study.rows("causal_map", name), "causal_map.parquet", "mastlens causal-map")
    return plot_projection_effect(rows[rows["head"] == -1], place=study.place(name), subtitle=study.subtitle)


def _put_back(study: Exploration, name: str, problem: int | None) -> "go.Figure":
    from mastlens.plots.projection_effect import plot_put_back

    patched = study.bench.put_back(name)
    return plot_put_back(
        patched.items, patched.table, place=study.place(name), stage=patched.stage, subtitle=study.subtitle
    )


def _attention(study: Exploration, name: str, problem: int | None) -> "go.Figure":
    from mastlens.plots.attention import plot_attention

    patterns = study.bench.attention(name, problem=problem)
    return plot_attention(
        patterns.table,
        change=patterns.change,
        problems=patterns.problems,
        heads=patterns.heads,
        subtitle=f"{study.subtitle}, forget problems",
    )


def _needed(rows: pd.DataFrame | None, file: str, command: str) -> pd.DataFrame:
    if rows is None:
        raise NotFound(f"The run has no {file} with this projection. {command} writes it.")
    return rows


SECTIONS: tuple[ExplorerSection, ...] = (
    ExplorerSection("standing", "Where it stands", _standing),
    ExplorerSection("spectrum", "Singular spectrum", _spectrum),
    ExplorerSection("angles", "Principal angles", _angles),
    ExplorerSection("heads", "Heads", _heads),
    ExplorerSection("coupling", "Coupling", _coupling),
    ExplorerSection("effect", "Causal effect", _effect),
    ExplorerSection("coupling_spectrum", "Coupling spectrum, forget", _coupling_spectrum("forget")),
    ExplorerSection("coupling_spectrum_retain", "Coupling spectrum, retain", _coupling_spectrum("retain")),
    ExplorerSection("put_back", "Put back", _put_back, slow=True),
    ExplorerSection("attention", "Attention before and after", _attention, slow=True),
)
"""What is shown of a projection, in this order."""

HEADINGS: Mapping[str, str] = {section.key: section.heading for section in SECTIONS}
"""Section of the explorer to its heading."""
