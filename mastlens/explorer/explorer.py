"""What ``explore`` returns: it shows itself as a widget where one works, else as the map, and saves to disk."""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.errors import MissingPackage
from mastlens.explorer.exploration import Exploration, open_exploration
from mastlens.explorer.figures import HEADINGS, figures_and_gaps, score_map
from mastlens.explorer.scores import score_table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.explorer.comparing import RunComparison

_PLOTLY = "application/vnd.plotly.v1+json"
_REST = (
    "This is the map alone: no front end that could run the explorer was found. explorer.figures(NAME) gives "
    "everything about a projection (NAME such as '3.q'), explorer.map(SCORE) another map, explorer.save('x.html') a "
    "page that can be clicked."
)


class Explorer:
    """A run's map, and behind each cell everything about that projection.

    Attributes:
        study: The run: its tables, projections, and what measures them.
    """

    def __init__(self, study: Exploration):
        self.study = study
        self._shown: Any = None

    def __repr__(self) -> str:
        return (
            f"Explorer of {self.study.folder}: {len(self.study.names)} projections, scores "
            f"{', '.join(self.study.scores)}. figures('{_short(self.study)}') gives everything about one."
        )

    @property
    def names(self) -> list[str]:
        """The projections."""
        return self.study.names

    @property
    def scores(self) -> list[str]:
        """What ``map`` can show."""
        return list(self.study.scores)

    def map(self, score: str | None = None) -> "go.Figure":
        """Return the map of a score; of the first one without it.

        Raises:
            MastlensError: If the run has no such score.
        """
        return score_map(self.study, score)

    def figures(self, name: str, *, problem: int | None = None) -> "dict[str, go.Figure]":
        """Return every figure of one projection, by section.

        Args:
            name: Its name, or ``LAYER.PROJECTION`` such as ``3.q``.
            problem: Show the attention on this one forget problem, from 0, instead of the mean over them.

        Raises:
            MastlensError: If there is no such projection.
        """
        return figures_and_gaps(self.study, name, problem=problem)[0]

    def gaps(self, name: str) -> dict[str, str]:
        """Return section to reason of everything that cannot be shown of one projection."""
        return figures_and_gaps(self.study, name)[1]

    def table(self, name: str) -> pd.DataFrame:
        """Return one row a score of one projection: value, what chance gives, its place among all projections.

        Raises:
            MastlensError: If there is no such projection.
        """
        return self.study.numbers(self.study.resolve(name))

    def compare(self, other: "str | os.PathLike[str] | Explorer", **sources: Any) -> "RunComparison":
        """Return this run beside another of the same architecture: both maps, the difference, one page of both.

        Args:
            other: The other run's folder, or its explorer.
            sources: As for ``explore``, where it is a folder.

        Raises:
            MastlensError: If the other holds no run, or they share no projection or no score.
        """
        from mastlens.explorer.comparing import compare_explorations

        found = other.study if isinstance(other, Explorer) else open_exploration(other, **sources)
        return compare_explorations(self.study, found)

    def widget(self, name: str | None = None) -> Any:
        """Return the explorer as an ipywidget; each call makes a new one.

        Args:
            name: The projection to open at once.

        Raises:
            MastlensError: If ipywidgets or anywidget is not installed.
        """
        if missing := [package for package in ("ipywidgets", "anywidget") if not importlib.util.find_spec(package)]:
            raise MissingPackage(f"The widget needs {missing[0]}: pip install 'mastlens[notebooks]'.")
        from mastlens.explorer.widget import explorer_widget

        return explorer_widget(self.study, name)

    def save(
        self,
        path: str | os.PathLike[str],
        names: Sequence[str] | None = None,
        *,
        images: Sequence[str] = ("svg", "png", "pdf"),
    ) -> Path:
        """Write one HTML file that can be clicked, or a folder with a page about some projections and all its figures.

        Args:
            path: A path that ends in ``.html`` is that file: the map of every score, and behind each cell all of that
                projection, opened by a link too (``x.html#layer=12&projection=o``). Anything else is a folder: it
                gets ``index.html`` and each figure's files.
            names: Which projections; by default those that were opened, else the largest of the first score. In one
                file all are there, and of these also what runs the model.
            images: Which of svg, png and pdf to make of every figure, where a browser is found.

        Returns:
            The page.

        Raises:
            MastlensError: If there is no such projection, or the folder cannot be written to.
        """
        from mastlens.plots.files import save_figures
        from mastlens.plots.page import Section, write_page

        folder, study = Path(path), self.study
        chosen = [study.resolve(name) for name in (names or self._opened() or [self._top()])]
        if folder.suffix.lower() == ".html":
            from mastlens.explorer.page import write_explorer

            return write_explorer(study, folder, chosen[0], chosen if names or self._opened() else ())
        figure = score_map(study)
        files = {"map": figure}
        sections = [Section("Every projection", figures=(figure,))]
        for name in chosen:
            place = study.place(name)
            figures, gaps = figures_and_gaps(study, name)
            stem = place.removeprefix("layer ").replace(", ", "-")
            files |= {f"{stem}-{key}": drawn for key, drawn in figures.items()}
            sections.append(
                Section(
                    place[:1].upper() + place[1:],
                    "\n\n".join([name, *(f"{HEADINGS[key]}: not shown. {why}" for key, why in gaps.items())]),
                    figures=tuple(figures.values()),
                    tables=(("Its scores among those of all projections", study.numbers(name)),),
                )
            )
        save_figures(files, folder, images=images)
        return write_page(
            folder / "index.html",
            title=f"Projections of {study.folder.name}",
            question="What is known of each projection: where it stands, what it holds, and what its weights do?",
            verdict=f"{len(chosen)} of {len(study.names)} projections are opened here; the map shows all.",
            sections=sections,
            reproduce={
                "command": "mastlens.explore(FOLDER).save(OUT, NAMES)",
                "names": chosen,
                "checkpoints (SHA-256 over their tensors)": dict(study.sources.recorded),
                "problems": {"limit of each file": study.limit},
            },
        )

    def _opened(self) -> list[str]:
        return self.study.bench.measured if "bench" in self.study.__dict__ else []

    def _top(self) -> str:
        table = score_table(self.study.tables, next(iter(self.study.scores.values())))
        beyond = table["beyond_chance"].fillna(False).to_numpy(dtype=bool)
        return str(table["name"].iloc[int(table["value"].abs().where(beyond | ~beyond.any()).argmax())])

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Return the widget, where one works, and beside it what any viewer can show: figure, table, text."""
        bundle = static_bundle(self.study)
        if not widget_front_end():
            return bundle | {"text/plain": f"{self!r}\n{_REST}"}
        self._shown = self.widget()  # kept, or nobody would hear the clicks
        view: Mapping[str, Any] = self._shown._repr_mimebundle_()
        widget = {kind: data for kind, data in view.items() if kind.endswith("widget-view+json")}
        return bundle | widget | {"text/plain": repr(self)}


def static_bundle(study: Exploration) -> dict[str, Any]:
    """Return the map for viewers without a kernel: as a figure, and as a table for those that draw none."""
    from mastlens.plots.cells import table_html

    figure = score_map(study, note=_REST)
    score = next(iter(study.scores.values()))
    table = score_table(study.tables, score)
    cells = table.pivot(index="layer", columns="projection", values="value").reset_index()
    caption = f"{score.label}. {_REST}"
    return {
        "text/html": table_html(cells, caption=caption),
        _PLOTLY: figure.to_plotly_json(),
    }


def widget_front_end() -> bool:
    """Return whether this is a kernel behind a front end that runs widgets, with the packages they need.

    Jupyter's server and VS Code leave a mark in the kernel's environment; a kernel that merely executes a notebook
    (nbclient, nbconvert, papermill) has none, and nobody could click there.
    """
    if not all(importlib.util.find_spec(package) for package in ("ipywidgets", "anywidget", "IPython")):
        return False
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return False
    marks = ("JPY_SESSION_NAME", "VSCODE_PID", "VSCODE_CWD")
    return any(mark in os.environ for mark in marks) or "google.colab" in sys.modules


def _short(study: Exploration) -> str:
    first = study.places.iloc[0]
    return f"{first['layer']}.{first['projection']}"
