"""The explorer as one HTML file that can be clicked without a kernel.

It has the map of every score, and behind each cell all figures of that projection that need no model. The map is the
widget's own, so that mouse, keyboard and screen readers find the same there. A link to a cell,
``#layer=12&projection=o``, opens it.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from mastlens.explorer.comparing import RunComparison
from mastlens.explorer.exploration import Exploration
from mastlens.explorer.figures import HEADINGS, each_section, score_map
from mastlens.plots.cells import escaped, table_html
from mastlens.plots.files import CONFIG
from mastlens.plots.frame import without_captions
from mastlens.plots.packing import packed
from mastlens.plots.page import write_html
from mastlens.plots.tables import layout_of

_LOOK = """
#ml-choose { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; margin: 1.5rem 0 .5rem; }
#ml-choose select { font: inherit; padding: .3rem .5rem; max-width: 100%; color: inherit; background: var(--wash);
  border: 1px solid var(--rule); border-radius: 4px; }
#ml-map { max-width: 36rem; }
.ml-note { color: var(--muted); font-size: .875rem; }
.ml-empty { min-height: 28px; }
#ml-panel h2:focus { outline: none; }
@media (prefers-color-scheme: dark) { .ml-cell[aria-pressed="true"] { outline-color: #fff; } }
"""

_SCRIPT = """
unpacked("ml-data").then(function (data) {
  "use strict";
  var config = %(config)s;
  var panel = document.getElementById("ml-panel"), select = document.getElementById("ml-score");
  var told = document.getElementById("ml-told");
  var values = { shown: data.scores[0].grid, chosen: "", presses: 0 }, heard = {};
  var model = {
    get: function (key) { return values[key]; },
    set: function (key, value) { values[key] = value; (heard["change:" + key] || []).forEach(function (f) { f(); }); },
    save_changes: function () { open(values.chosen, true); },
    on: function (event, f) { (heard[event] = heard[event] || []).push(f); },
    off: function () {}
  };

  function element(kind, look, text) {
    var made = document.createElement(kind);
    if (look) { made.className = look; }
    if (text !== undefined) { made.textContent = text; }
    return made;
  }

  function figure(one) {
    var box = element("figure", "figure"), caption = element("figcaption");
    var plot = element("div"), scroll = element("div", "scroll");
    caption.appendChild(element("strong", "", one.heading + ". "));
    caption.appendChild(document.createTextNode(one.title));
    if (one.subtitle) { caption.appendChild(element("span", "sub", one.subtitle)); }
    plot.style.height = one.height + "px";
    plot.style.minWidth = one.width + "px";
    plot.setAttribute("role", "group");  // not img: plotly puts buttons into it
    plot.setAttribute("aria-label", one.heading + ". " + one.title);
    scroll.tabIndex = 0;
    scroll.appendChild(plot);
    box.appendChild(caption);
    box.appendChild(scroll);
    if (one.note) { box.appendChild(element("p", "note", one.note)); }
    panel.appendChild(box);
    var layout = Object.assign({ template: data.template }, one.figure.layout);
    Plotly.newPlot(plot, one.figure.data, layout, config).catch(function (error) {
      plot.textContent = "This figure could not be drawn (" + error.message + ").";
    });
  }

  function open(name, moved) {
    var one = data.projections[name];
    if (!one) { return; }
    if (values.chosen !== name) { model.set("chosen", name); }
    panel.textContent = "";
    var heading = element("h2", "", one.place);
    heading.tabIndex = -1;
    panel.appendChild(heading);
    panel.appendChild(element("p", "", name));
    var table = element("div");
    table.innerHTML = one.table;  // made by mastlens.plots, which has escaped every text in it
    panel.appendChild(table);
    one.figures.forEach(figure);
    one.gaps.forEach(function (gap) { panel.appendChild(element("p", "missing", gap)); });
    if (moved) {
      history.replaceState(null, "", "#" + one.link);
      heading.focus({ preventScroll: true });
      heading.scrollIntoView();
    }
  }

  function show() {
    var chosen = data.scores[select.selectedIndex];
    told.textContent = chosen.told;
    model.set("shown", chosen.grid);
  }

  function linked() {
    var asked = new URLSearchParams(window.location.hash.slice(1));
    for (var name in data.projections) {
      if (data.projections[name].link === window.location.hash.slice(1) || asked.get("name") === name) { return name; }
    }
    return "";
  }

  data.scores.forEach(function (score) { select.appendChild(element("option", "", score.label)); });
  select.addEventListener("change", show);
  render({ model: model, el: document.getElementById("ml-map") });
  show();
  open(linked() || data.first, Boolean(linked()));
  window.addEventListener("hashchange", function () { var name = linked(); if (name) { open(name, true); } });
}).catch(function (error) {
  console.error(error);
  var told = document.getElementById("ml-told");
  told.textContent = "This page needs a browser of 2023 or later (" + error.message + ").";
});
"""


def write_explorer(study: Exploration, path: Path, first: str, measured: Collection[str] = ()) -> Path:
    """Write the page of a run.

    Args:
        study: The run.
        path: The file.
        first: The projection that is open at first.
        measured: Projections of which also what runs the model is shown.

    Raises:
        MastlensError: If the file cannot be written.
    """
    scores = [_score(score_map(study, score.key), score.label) for score in study.scores.values()]
    template = layout_of(score_map(study)).template.to_plotly_json()
    projections = {name: _projection(study, name, template, slow=name in measured) for name in study.names}
    title = f"Projections of {study.folder.name}"
    return _write(path, title, study.subtitle, scores, template, first, projections)


def write_comparison(pair: RunComparison, path: Path) -> Path:
    """Write the page of two runs: of every score the maps of both and of the difference; behind each cell both.

    Raises:
        MastlensError: If the file cannot be written.
    """
    scores = []
    for score in pair.scores.values():
        labels = [f"{score.label}: {name}" for name in (*pair.called, "ratio" if score.doublings else "difference")]
        scores += [_score(figure, label) for figure, label in zip(pair.maps(score.key), labels, strict=True)]
    template = layout_of(pair.map()).template.to_plotly_json()
    names = [name for name in pair.first.names if name in set(pair.second.names)]
    projections = {name: _both(pair, name, template) for name in names}
    subtitle = f"{pair.first.subtitle}; {pair.second.subtitle}"
    title = f"Projections of {' and '.join(pair.called)}"
    # The difference is what one looks for: it comes first.
    scores = [each for i in range(0, len(scores), 3) for each in (scores[i + 2], *scores[i : i + 2])]
    return _write(path, title, subtitle, scores, template, names[0], projections)


def _both(pair: RunComparison, name: str, template: Any) -> dict[str, Any]:
    """Return what is behind a cell of two runs: each figure of the one followed by that of the other."""
    parts = [_projection(study, name, template, slow=False) for study in (pair.first, pair.second)]
    figures, gaps = [], []
    for part, called in zip(parts, pair.called, strict=True):
        for each in part["figures"]:
            figures.append({**each, "place": each["heading"], "heading": f"{each['heading']}, {called}"})
        gaps += [f"{called}. {gap}" for gap in part["gaps"]]
    order = list(HEADINGS.values())
    figures.sort(key=lambda each: order.index(each.pop("place")))  # stable: of a place the first run comes first
    captioned = [f"<p>{escaped(called)}</p>\n{part['table']}" for part, called in zip(parts, pair.called, strict=True)]
    return {**parts[0], "table": "\n".join(captioned), "figures": figures, "gaps": gaps}


def _score(figure: go.Figure, label: str) -> dict[str, Any]:
    from mastlens.explorer.grid import grid_of

    return {"label": label, "told": _told(figure)["title"], "grid": grid_of(figure, label)}


def _write(
    path: Path,
    title: str,
    subtitle: str,
    scores: list[dict[str, Any]],
    template: Any,
    first: str,
    projections: dict[str, Any],
) -> Path:
    from mastlens.explorer.grid import LOOK, SCRIPT

    data = {"scores": scores, "template": template, "first": first, "projections": projections}
    body = [
        f"<h1>{escaped(title)}</h1>",
        f'<p class="question">{escaped(subtitle)}</p>',
        '<div class="verdict" role="note"><p id="ml-told"></p></div>',
        '<div id="ml-choose"><label for="ml-score">The map shows</label><select id="ml-score"></select></div>',
        '<div id="ml-map">This page needs JavaScript.</div>',
        '<section id="ml-panel" aria-live="polite"></section>',
        packed("ml-data", data),
    ]
    grid = SCRIPT.replace("export default { render };", "").strip()
    script = f"document.getElementById('ml-map').textContent = '';\n{grid}\n{_SCRIPT % {'config': json.dumps(CONFIG)}}"
    return write_html(path, title=title, body="\n".join(body), scripts=(script,), style=LOOK + _LOOK)


def _projection(study: Exploration, name: str, template: Any, *, slow: bool) -> dict[str, Any]:
    figures, gaps = [], []
    for section, made in each_section(study, name, slow=None if slow else False):
        if isinstance(made, str):
            gaps.append(f"{HEADINGS[section.key]}: not shown. {made}")
            continue
        bare = without_captions(made)
        drawn = json.loads(str(bare.to_json()))
        if drawn["layout"].get("template") == json.loads(json.dumps(template)):
            del drawn["layout"]["template"]
        drawn["layout"].pop("meta", None)
        told = _told(made)
        size = {"height": int(layout_of(bare).height or 450), "width": told.pop("width")}
        figures.append({"heading": section.heading, **told, **size, "figure": drawn})
    row = study.places[study.places["name"] == name].iloc[0]
    place, projection = study.place(name), str(row["projection"])
    return {
        "place": place[:1].upper() + place[1:],
        "link": f"layer={row['layer']}&projection={projection}" if projection else f"name={name}",
        "table": table_html(study.numbers(name), caption="Its scores among those of all projections"),
        "figures": figures,
        "gaps": gaps,
    }


def _told(figure: go.Figure) -> dict[str, Any]:
    meta = layout_of(figure).meta
    ours = meta if isinstance(meta, dict) else {}
    texts = {key: str(ours.get(key, "") or "") for key in ("title", "subtitle", "note")}
    return {**texts, "width": int(ours.get("min_width", 320))}
