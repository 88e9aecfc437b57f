"""The map as a grid of buttons: the same cells and colours as the figure, to be clicked or walked with arrow keys.

It takes kilobytes where a plotly widget takes megabytes, and a screen reader can read it.
"""

import html
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale, unlabel_rgb

from mastlens.plots.frame import plain, short
from mastlens.plots.heat import BELOW_FLOOR, CellGrid
from mastlens.plots.tables import figure_table, flags, layout_of, words

SCRIPT = """
function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "ml-map";
  el.appendChild(root);

  function press(name) {
    model.set("chosen", name);
    model.set("presses", model.get("presses") + 1);
    model.save_changes();
  }

  function walk(event) {
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    const step = steps[event.key];
    if (!step) { return; }
    // The notebook would take the arrow keys for its own cells.
    event.preventDefault();
    event.stopPropagation();
    const row = Number(event.target.dataset.row) + step[0], column = Number(event.target.dataset.column) + step[1];
    const next = root.querySelector(`button[data-row="${row}"][data-column="${column}"]`);
    if (next) { next.focus(); }
  }

  function mark() {
    for (const button of root.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.name === model.get("chosen")));
    }
  }

  function add(parent, kind, look, text) {
    const made = document.createElement(kind);
    made.className = look;
    if (text !== undefined) { made.textContent = text; }
    parent.appendChild(made);
    return made;
  }

  function draw() {
    const shown = model.get("shown");
    root.textContent = "";
    const grid = add(root, "div", "ml-grid");
    grid.setAttribute("role", "group");
    grid.setAttribute("aria-label", shown.label);
    grid.style.gridTemplateColumns = `auto repeat(${shown.projections.length}, minmax(36px, 1fr))`;
    add(grid, "span", "ml-axis", "layer");
    for (const projection of shown.projections) { add(grid, "span", "ml-axis", projection); }
    const at = new Map(shown.cells.map((cell) => [`${cell.row},${cell.column}`, cell]));
    shown.layers.forEach((layer, row) => {
      add(grid, "span", "ml-axis", String(layer));
      shown.projections.forEach((projection, column) => {
        const cell = at.get(`${row},${column}`);
        if (!cell) { add(grid, "span", "ml-empty"); return; }
        const button = add(grid, "button", "ml-cell", cell.text);
        Object.assign(button.dataset, { name: cell.name, row, column });
        button.title = cell.tip;
        button.setAttribute("aria-label", cell.tip);
        button.style.backgroundColor = cell.colour;
        if (cell.hatched) { button.classList.add("ml-hatched"); }
        button.style.color = cell.ink;
        button.addEventListener("click", () => press(cell.name));
        button.addEventListener("keydown", walk);
      });
    });
    const bar = add(root, "div", "ml-bar");
    bar.style.background = `linear-gradient(to right, ${shown.colours.join(", ")})`;
    const ticks = add(root, "div", "ml-ticks");
    for (const tick of shown.ticks) { add(ticks, "span", "", tick); }
    add(root, "div", "ml-note", shown.label);
    for (const key of shown.keys) { add(root, "div", "ml-note", key); }
    mark();
  }

  model.on("change:shown", draw);
  model.on("change:chosen", mark);
  draw();
  return () => { model.off("change:shown", draw); model.off("change:chosen", mark); };
}
export default { render };
"""

LOOK = """
.ml-map { max-width: 560px; padding: 4px 4px 8px 0; }
.ml-grid { display: grid; gap: 2px; align-items: stretch; }
.ml-axis { font-size: 12px; align-self: center; justify-self: center; padding: 0 6px; }
.ml-cell { border: 0; border-radius: 2px; min-height: 28px; padding: 2px; font: inherit;
  font-size: 12px; font-variant-numeric: tabular-nums; cursor: pointer; }
.ml-hatched { background-image: repeating-linear-gradient(135deg, #767676 0 1px, transparent 1px 7px); }
.ml-cell:hover { outline: 2px solid #7A7A7A; outline-offset: 0; z-index: 1; }
.ml-cell:focus-visible { outline: 3px solid #0072B2; outline-offset: 1px; z-index: 2; }
.ml-cell[aria-pressed="true"] { outline: 3px solid #000; outline-offset: -1px; z-index: 1;
  box-shadow: 0 0 0 2px #fff inset; }
.ml-bar { height: 10px; margin: 12px 0 2px; }
.ml-ticks { display: flex; justify-content: space-between; font-size: 11px; }
"""


def grid_of(figure: go.Figure, label: str) -> dict[str, Any]:
    """Return what a grid draws, out of a figure of ``plot_projection_map``: its cells, values, colours and hover text.

    Args:
        figure: The figure.
        label: What the value is called, with its unit.
    """
    table, axis = figure_table(figure), layout_of(figure).coloraxis
    grid = CellGrid.of(table)
    places = grid.positions(table)
    heatmap: Any = figure.data[0]
    hover, shown, low, span = heatmap.customdata, heatmap.z, float(axis.cmin), float(axis.cmax - axis.cmin)
    below = flags(table, "below_floor")
    inside = [
        beyond == "False" and not floor for beyond, floor in zip(words(table, "beyond_chance"), below, strict=True)
    ]
    cells = []
    for (row, column), name, ring, floor in zip(places, words(table, "name"), inside, below, strict=True):
        value = float(shown[row][column])
        colour = "rgb(238,238,238)" if value != value else _colour(axis.colorscale, (value - low) / span)
        tip = html.unescape(str(hover[row][column]).replace("<b>", "").replace("</b>", "").replace("<br>", "\n"))
        cells.append(
            {
                "row": row,
                "column": column,
                "name": name,
                "text": str(heatmap.text[row][column]) if grid.annotated else " ○" * ring,
                "tip": tip.partition("\n<i>")[0],
                "colour": colour,
                "ink": _ink(colour),
                "hatched": bool(floor),
            }
        )
    stops = [i / 10 for i in range(11)]
    return {
        "layers": list(grid.layers),
        "projections": [plain(projection) for projection in grid.projections],
        "cells": cells,
        "label": label,
        "colours": [_colour(axis.colorscale, stop) for stop in stops],
        "ticks": [_tick(end, axis.colorbar.ticktext is not None) for end in (low, low + span / 2, low + span)],
        "keys": ["○ cannot be told from chance"] * any(inside) + [f"hatched: {BELOW_FLOOR}"] * bool(below.any()),
    }


def _tick(end: float, ratio: bool) -> str:
    return f"{2.0**end:.2g}×" if ratio else short(end) if end else "0"


def _colour(scale: Any, part: float) -> str:
    return str(sample_colorscale([list(stop) for stop in scale], [min(max(part, 0.0), 1.0)])[0])


def _ink(colour: str) -> str:
    """Return black or white, whichever has more contrast with the colour: 4.5 : 1 at the least, as WCAG 2 counts."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in unlabel_rgb(colour))
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#FFFFFF" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"
