"""The explorer in a notebook: it arranges what the pure functions draw, and draws nothing itself."""

import html
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import anywidget
import ipywidgets as ipw
import plotly.graph_objects as go
import plotly.io as pio
import traitlets

from mastlens.errors import MastlensError
from mastlens.explorer.exploration import Exploration
from mastlens.explorer.figures import SECTIONS, each_section, score_map
from mastlens.explorer.grid import LOOK, SCRIPT, grid_of
from mastlens.plots.cells import Kind, table_html
from mastlens.plots.frame import without_captions
from mastlens.plots.tables import layout_of

_STYLE = """<style>
.mastlens-explorer { font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.mastlens-explorer .ml-title { font-size: 15px; font-weight: 650; margin: 0; line-height: 1.35; }
.mastlens-explorer p { margin: 0 0 2px; }
.mastlens-explorer .ml-heading { font-size: 12px; letter-spacing: .04em; text-transform: uppercase; opacity: .75; }
.mastlens-explorer .ml-note { font-size: 12px; opacity: .8; line-height: 1.4; overflow-wrap: anywhere; }
.mastlens-explorer .ml-error { color: #7A1F00; background: #FBE9E2; border-left: 4px solid #D55E00; padding: 6px 10px; }
.mastlens-explorer .ml-error pre { white-space: pre-wrap; font-size: 12px; color: inherit; }
.mastlens-explorer .ml-name { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 13px; }
.mastlens-explorer .widget-html-content { line-height: 1.4; }
.mastlens-explorer figure.table { margin: 0; }
.mastlens-explorer .ml-numbers { max-height: 420px; overflow: auto; }
.mastlens-explorer .ml-numbers table { font-size: 12px; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.mastlens-explorer .ml-numbers :is(td, th) { padding: 2px 8px 2px 0; text-align: left; white-space: normal; }
.mastlens-explorer .ml-numbers .n { text-align: right; white-space: nowrap; }
</style>"""
_KINDS: dict[str, Kind] = {"relative": "percent"}


def explorer_widget(study: Exploration, name: str | None = None) -> ipw.Widget:
    """Return the widget: a map to click, two drop-downs that do the same by keyboard, and the opened projection.

    Args:
        study: The run.
        name: The projection to open at once.
    """
    return _Panel(study, None if name is None else study.resolve(name)).root


class MapGrid(anywidget.AnyWidget):
    """A map whose cells are buttons.

    Attributes:
        shown: What is drawn; see ``grid_of``.
        chosen: Name of the projection that is framed; a press changes it.
        presses: How often a cell was pressed, so that pressing the same one again says something too.
    """

    _esm = SCRIPT
    _css = LOOK
    shown = traitlets.Dict().tag(sync=True)
    chosen = traitlets.Unicode().tag(sync=True)
    presses = traitlets.Int(0).tag(sync=True)


class _Panel:
    """The parts of one explorer and what happens when one is used."""

    def __init__(self, study: Exploration, name: str | None):
        self.study = study
        wide = {"description_width": "auto"}
        self.score = ipw.Dropdown(
            options=[(score.label, key) for key, score in study.scores.items()],
            description="Map of",
            style=wide,
            layout={"width": "auto", "max_width": "100%", "flex": "1 1 340px"},
        )
        self.name = ipw.Dropdown(
            options=[("choose a projection", ""), *((f"{study.place(n)}: {n}", n) for n in study.names)],
            description="Open",
            style=wide,
            layout={"width": "auto", "max_width": "100%", "flex": "1 1 340px"},
        )
        self.problem = ipw.Dropdown(
            options=[("mean of the problems", -1)],
            description="Attention on",
            style=wide,
            layout={"width": "auto", "max_width": "100%", "flex": "0 1 300px"},
        )
        self.status = ipw.HTML()
        self.caption = ipw.HTML()
        self.numbers = ipw.HTML(layout={"flex": "1 1 380px", "min_width": "300px"})
        self.map = MapGrid()
        self.boxes = {section.key: _Box(section.heading) for section in SECTIONS}
        left = ipw.VBox([self.caption, self.map], layout={"flex": "1 1 420px", "max_width": "100%"})
        top = ipw.Box([left, self.numbers], layout={"display": "flex", "flex_flow": "row wrap", "width": "100%"})
        grid = ipw.Box(
            [box.root for box in self.boxes.values()],
            layout={"display": "flex", "flex_flow": "row wrap", "width": "100%", "overflow": "visible"},
        )
        bar = ipw.Box(
            [self.score, self.name, self.problem], layout={"display": "flex", "flex_flow": "row wrap", "width": "100%"}
        )
        self.root = ipw.VBox([ipw.HTML(_STYLE), bar, self.status, top, grid], layout={"width": "100%"})
        self.root.add_class("mastlens-explorer")
        self._show_map()
        self._say("Click a cell of the map, or choose a projection in the list, to open it.")
        self.map.observe(self.guarded(self._press), "presses")
        self.score.observe(self.guarded(self._show_score), "value")
        self.name.observe(self.guarded(self._open), "value")
        self.problem.observe(self.guarded(self._show_problem), "value")
        if name is not None:
            self.name.value = name

    def guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return the callback so that what goes wrong inside is said in the widget: kernels swallow it otherwise."""

        @wraps(callback)
        def call(*args: Any) -> None:
            try:
                callback(*args)
            except Exception as error:  # also a defect must be seen by the one who clicked
                self._say_error(error)

        return call

    def _say(self, text: str) -> None:
        self.status.value = f'<div class="ml-note" role="status" aria-live="polite">{html.escape(text)}</div>'

    def _say_error(self, error: Exception) -> None:
        message = html.escape(str(error) or type(error).__name__)
        if not isinstance(error, MastlensError):
            trace = html.escape("".join(traceback.format_exception(error)))
            message = f"{type(error).__name__}: {message}<details><summary>where</summary><pre>{trace}</pre></details>"
        self.status.value = f'<div class="ml-error" role="alert">{message}</div>'

    def _press(self, change: Any) -> None:
        if self.name.value == self.map.chosen:
            self._open({"new": self.map.chosen})
        self.name.value = self.map.chosen

    def _show_score(self, change: Any) -> None:
        self._show_map()

    def _show_map(self) -> None:
        score = str(self.score.value)
        figure = score_map(self.study, score)
        self.map.shown = grid_of(figure, self.study.scores[score].label)
        meta = layout_of(figure).meta
        self.caption.value = _captions("Map", meta["title"], meta["subtitle"])

    def _open(self, change: Any) -> None:
        name = change["new"]
        if not name:
            return
        self.map.chosen = name
        place = self.study.place(name)
        table = self.study.numbers(name).drop(columns="score")
        shown = table_html(table, kinds=_KINDS, labels={"label": "score"})
        title = f'<p class="ml-title">{html.escape(place)}</p><p class="ml-name">{html.escape(name)}</p>'
        self.numbers.value = f'{title}<div class="ml-numbers" tabindex="0">{shown}</div>'
        for box in self.boxes.values():
            box.wait()
        self._say(f"Drawing {place} ...")
        for section, made in each_section(self.study, name, slow=False):
            self.boxes[section.key].show(made)
        self._say(f"Measuring {place}: weights put back, attention before and after ...")
        self._show_slow(name)
        self._offer_problems()
        self._say(f"{place} is open: {name}.")

    def _show_problem(self, change: Any) -> None:
        if self.name.value:
            self.boxes["attention"].wait()
            self._show_slow(self.name.value)

    def _show_slow(self, name: str) -> None:
        chosen: Any = self.problem.value
        problem = None if chosen < 0 else int(chosen)
        for section, made in each_section(self.study, name, problem=problem, slow=True):
            self.boxes[section.key].show(made)

    def _offer_problems(self) -> None:
        """List the problems once they have been read."""
        problems = self.study.bench.__dict__.get("problems")
        if problems and len(self.problem.options) == 1:
            texts = [" ".join(problem.problem.split())[:50] for problem in problems["forget"].problems]
            mean = (f"mean of {len(texts)} problems", -1)
            self.problem.options = [mean, *((f"{i}: {text}", i) for i, text in enumerate(texts))]


class _Box:
    """One section: heading, what the figure says, the figure, how to read it."""

    def __init__(self, heading: str):
        self.heading = heading
        self.text, self.note, self.out = ipw.HTML(), ipw.HTML(), ipw.Output()
        self.root = ipw.VBox(
            [self.text, self.out, self.note],
            layout={"flex": "1 1 460px", "min_width": "300px", "margin": "12px 12px 0 0", "display": "none"},
        )

    def wait(self) -> None:
        """Say that the section is on its way; what it showed before is no longer true."""
        self.root.layout.display = "flex"
        self.text.value, self.note.value, self.out.outputs = _captions(self.heading, "...", ""), "", ()

    def show(self, made: "go.Figure | str") -> None:
        """Show the figure, or why there is none."""
        if isinstance(made, str):
            self.text.value = _captions(self.heading, "", made)
            return
        meta = layout_of(made).meta
        # Captions as text: they wrap at any width, and assistive technology reads them.
        self.text.value = _captions(self.heading, meta["title"], "")
        self.note.value = _captions("", "", meta["note"])
        self.root.layout.flex = f"1 1 {max(460, meta['min_width'])}px"
        bundle = _renderer().to_mimebundle(without_captions(made).to_dict())
        self.out.outputs = ({"output_type": "display_data", "data": bundle, "metadata": {}},)


def _captions(heading: str, title: str, note: str) -> str:
    parts = {"ml-heading": heading, "ml-title": title, "ml-note": note}
    return "".join(f'<p class="{look}">{html.escape(text)}</p>' for look, text in parts.items() if text)


def _renderer() -> Any:
    """Return how this front end shows plotly's figures."""
    names = str(pio.renderers.default).split("+")
    found = [pio.renderers[name] for name in names if name in pio.renderers]
    able = [renderer for renderer in found if hasattr(renderer, "to_mimebundle")]
    return able[0] if able else pio.renderers["plotly_mimetype"]
