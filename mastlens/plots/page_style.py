"""The style and the script of a report page."""

CSS = """
:root { --ink: #1f2328; --muted: #59636e; --rule: #dfe3e8; --wash: #f5f7f9; --accent: #0069a6; --on-accent: #fff;
  --edge: #848d97; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.6 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .75rem; text-wrap: balance; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 3.25rem 0 .75rem; padding-top: .5rem;
  border-top: 1px solid var(--rule); }
p { margin: 0 0 1rem; max-width: 44rem; white-space: pre-line; }
.question { font-size: 1.1rem; color: var(--muted); }
.verdict { margin: 1.5rem 0 2rem; padding: 1rem 1.25rem; border-left: 4px solid var(--accent);
  background: var(--wash); }
.verdict p { max-width: none; margin: 0 0 .6rem; }
.verdict p:first-child { font-size: 1.15rem; line-height: 1.5; }
.verdict p:not(:first-child) { font-size: .95rem; }
.verdict p:last-child { margin-bottom: 0; }
nav { margin: 2rem 0 0; }
nav ol { margin: 0; padding-left: 1.4rem; columns: 2 18rem; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
figure { margin: 1.75rem 0 2rem; }
figcaption { margin: 0 0 .5rem; max-width: 50rem; }
figcaption strong { font-weight: 650; }
.sub, .note { color: var(--muted); font-size: .875rem; }
.sub { display: block; }
.note { margin: .35rem 0 0; max-width: 50rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
.still { display: block; width: 100%; height: 100%; font-family: system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
.tools { margin: .25rem 0 0; font-size: .875rem; }
.tools button { font: inherit; color: var(--accent); background: none; border: 0; padding: .3rem 0;
  cursor: pointer; }
.tools button[hidden] { display: inline-block; visibility: hidden; }  /* keeps its place */
.tools button:hover { text-decoration: underline; }
.missing { color: var(--muted); }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.45; font-variant-numeric: tabular-nums; }
.table { margin: 1.75rem 0 2rem; }
.table > .scroll { border-bottom: 1px solid var(--rule); }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top;
  border-top: 1px solid var(--rule); }
th:not(:first-child), td:not(:first-child) { padding-left: .35rem; }
thead th { border-top: 0; border-bottom: 1.5px solid var(--ink); font-weight: 600; vertical-align: bottom; }
tbody tr:first-child td { border-top: 0; }
.n { text-align: right; white-space: nowrap; }
.s { white-space: nowrap; }
thead th.n, thead th.s { white-space: normal; }
td.l { min-width: 16rem; }
.said { margin: 1.25rem 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: .6rem 1rem;
  margin-top: .6rem; }
.pair > div { min-width: 0; }
.side { font-size: .875rem; color: var(--muted); margin: 0 0 .2rem; }
.fragment .scroll { max-height: 34rem; overflow-y: auto; }
pre { margin: 0; padding: .8rem 1rem; background: var(--wash); border-radius: 4px; font: .85rem/1.5 ui-monospace,
  SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 26rem; overflow-y: auto; unicode-bidi: isolate; }
dl { margin: 0; }
dt { font-weight: 600; margin-top: .9rem; }
dd { margin: .25rem 0 0; }
@media (max-width: 40rem) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  .table .s { white-space: normal; }
  td.l { min-width: 11rem; }
}
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --muted: #a6afb8; --rule: #3a4149; --wash: #22272d; --accent: #6cb6ff; --on-accent: #10151a;
    --edge: #7d8791; color-scheme: dark; }
  body { background: #15191e; }
  /* Figures are drawn in ink on white. */
  .figure, .fragment .scroll { --ink: #1f2328; --muted: #59636e; --accent: #0069a6; color: var(--ink); background: #fff;
    border-radius: 4px; padding: .25rem .5rem; color-scheme: light; }
}
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
@media print {
  @page { margin: 14mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  nav, .tools, .modebar { display: none !important; }
  h2 { break-after: avoid; }
  .figure, .table tr, .verdict, .side { break-inside: avoid; }
  .side { break-after: avoid; }
  thead { display: table-header-group; }
  .scroll, .fragment .scroll { overflow: visible; max-height: none; }
  /* A table that is wider than paper would shrink every page. */
  .table table { font-size: 7.5pt; table-layout: auto; width: 100%; }
  .table th, .table td { white-space: normal; overflow-wrap: anywhere; hyphens: auto; padding: .2rem .35rem .2rem 0; }
  td.l { min-width: 0; }
  /* The script lays figures out wider than paper is before printing. */
  .figure > .scroll { zoom: var(--paper, .72); }
  pre { max-height: none; }
  .verdict, pre { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
"""The page's look; every font in it is one that the reader's machine has."""

SCRIPT = """
(function () {
  "use strict";
  var config = %(config)s;
  var boxes = Array.prototype.slice.call(document.querySelectorAll("[data-figure]"));
  var touch = window.matchMedia && window.matchMedia("(hover: none), (pointer: coarse)").matches;
  if (touch) { config.displayModeBar = false; }

  var specs = {};  // name to figure, once it is unpacked

  function draw(box) {
    var figure = specs[box.getAttribute("data-figure")];
    if (!figure || box.getAttribute("data-drawn")) { return; }
    box.setAttribute("data-drawn", "yes");
    var still = box.firstElementChild;
    box.textContent = "";
    // On a touch screen a finger on a figure should scroll the page, not draw a zoom box.
    if (touch) { figure.layout.dragmode = false; }
    // One figure that fails says so and keeps no other from being drawn.
    function failed(error) {
      console.error(box.id, error);
      box.textContent = "This figure could not be drawn (" + error.message + "). Its data is below.";
      if (still) { box.appendChild(still); }
    }
    try { Plotly.newPlot(box, figure.data, figure.layout, config).catch(failed); } catch (error) { failed(error); }
  }

  // Figures near the window first, as they are scrolled to; the rest when the browser has nothing else to do.
  var watcher = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
    });
  }, { rootMargin: "400px 0px" });
  var idle = window.requestIdleCallback || function (callback) { return window.setTimeout(callback, 200); };
  function next(i) {
    while (i < boxes.length && boxes[i].getAttribute("data-drawn")) { i += 1; }
    if (i < boxes.length) { draw(boxes[i]); idle(function () { next(i + 1); }); }
  }
  boxes.reduce(function (before, box) {
    return before.then(function () {
      var name = box.getAttribute("data-figure");
      return unpacked(name).then(function (figure) {
        specs[name] = figure;
        if (box === boxes[0]) { draw(box); }  // at once, wherever it stands: it is what a reader looks for
        watcher.observe(box);
      });
    });
  }, Promise.resolve()).then(function () {
    // Once the first ones are on the screen.
    window.setTimeout(function () { idle(function () { next(0); }); }, 500);
  }).catch(function (error) {
    console.error(error);
    boxes.forEach(function (box) {
      if (box.getAttribute("data-drawn") || box.firstElementChild) { return; }
      box.textContent = "This figure needs a browser of 2023 or later.";
    });
  });

  // Between its margins a page is at least 182 mm (A4) by 251 mm (letter), in pixels: two figures stand on one, so that
  // none leaves half a page empty.
  var paper = { wide: 687, tall: 949 };
  function onPaper(box) {
    var scroll = box.parentNode, tall = box.layout.height || box.offsetHeight;
    var said = scroll.parentNode.getBoundingClientRect().height - scroll.getBoundingClientRect().height;
    var half = (0.47 * paper.tall - said) / tall;
    var zoom = Math.min(paper.wide / 930, Math.max(0.5, half), (paper.tall - said) / tall);
    scroll.style.setProperty("--paper", zoom.toFixed(3));
    Plotly.relayout(box, { width: Math.floor(paper.wide / zoom) });
  }
  window.addEventListener("beforeprint", function () {
    boxes.forEach(function (box) { draw(box); if (box.layout) { onPaper(box); } });
  });
  window.addEventListener("afterprint", function () {
    boxes.forEach(function (box) { if (box.layout) { Plotly.relayout(box, { width: null, autosize: true }); } });
  });

  function cell(value) {
    var text = value === null ? "" : String(value);
    return /[",\\n\\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  }

  function download(event) {
    var id = event.currentTarget.getAttribute("data-table");
    var table = specs[id].layout.meta.table;
    var lines = [table.columns.map(cell).join(",")];
    var rows = table.values.length ? table.values[0].length : 0;
    for (var i = 0; i < rows; i += 1) {
      lines.push(table.values.map(function (column) { return cell(column[i]); }).join(","));
    }
    var link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\\n") + "\\n"], { type: "text/csv" }));
    link.download = id + ".csv";
    link.click();
    window.setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
  }
  Array.prototype.forEach.call(document.querySelectorAll("[data-table]"), function (button) {
    button.hidden = false;
    button.addEventListener("click", download);
  });
})();
"""
"""Draws the figures in order and hands out their data; ``%(config)s`` is how plotly is to behave."""
