"""The look and the script of a browser of responses."""

LOOK = """
.browser { border: 1px solid var(--rule); border-radius: 4px; padding: .75rem .9rem; margin: 1.75rem 0 2rem; }
.browser[hidden] { display: none; }
.browser-caption { margin: 0 0 .5rem; }
.browser-bar { display: flex; flex-wrap: wrap; gap: .5rem .9rem; align-items: center; font-size: .9rem; }
.browser-bar button, .browser-bar select, .browser-bar input[type="search"] { font: inherit; color: inherit;
  background: var(--wash); border: 1px solid var(--edge); border-radius: 4px; padding: .25rem .6rem; max-width: 100%; }
.browser-bar button { cursor: pointer; margin-right: .3rem; }
.browser-bar button[aria-pressed="true"] { background: var(--accent); color: var(--on-accent);
  border-color: var(--accent); }
.browser-bar label { display: inline-flex; gap: .35rem; align-items: center; max-width: 100%; }
.browser-bar input[type="search"] { width: 13rem; }
.browser-told { margin: .5rem 0; font-size: .875rem; color: var(--muted); max-width: none; }
.browser-two { display: grid; grid-template-columns: minmax(0, 19rem) minmax(0, 1fr); gap: 1rem; }
.browser-list { position: relative; height: 30rem; overflow-y: auto; border: 1px solid var(--rule);
  border-radius: 4px; }
.browser-list:focus-visible { outline: 3px solid var(--accent); outline-offset: 1px; }
.browser-row { position: absolute; left: 0; right: 0; height: 30px; line-height: 30px; padding: 0 .5rem;
  cursor: pointer; font-size: .85rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.browser-row[aria-selected="true"] { background: var(--accent); color: var(--on-accent); }
.browser-row b { display: inline-block; min-width: 4.6rem; font-weight: 600; }
.browser-one { min-width: 0; }
.browser-one h3 { font-size: 1rem; margin: 0 0 .4rem; }
.browser-one .side { margin: .6rem 0 .2rem; }
.browser del { background: #fbdccd; color: #6b2300; text-decoration: line-through; }
.browser ins { background: #cdeee0; color: #004a36; text-decoration: underline; }
.browser-none { margin: 1rem 0; }
@media (max-width: 48rem) {
  .browser-two { grid-template-columns: minmax(0, 1fr); }
  .browser-list { height: 14rem; }
}
@media screen { .live-responses ~ .said { display: none; } }
@media print { .browser { display: none; } }
"""
"""How a browser looks; on paper the examples below it stand in its place."""

SCRIPT = r"""
(function () {
  "use strict";
  var ROW = 30, FARTHEST = 1500;  // pixels of a row; changed words beyond which a whole text counts as changed
  function each(list, f) { Array.prototype.forEach.call(list, f); }
  function element(parent, kind, look, text) {
    var made = document.createElement(kind);
    if (look) { made.className = look; }
    if (text !== undefined) { made.textContent = text; }
    if (parent) { parent.appendChild(made); }
    return made;
  }

  // Which words of two texts are in no longest common sequence of words (Myers 1986): two lists of true and false.
  function changed(a, b) {
    var start = 0, n = a.length, m = b.length, old = new Array(n).fill(false), now = new Array(m).fill(false);
    while (start < n && start < m && a[start] === b[start]) { start += 1; }
    while (n > start && m > start && a[n - 1] === b[m - 1]) { n -= 1; m -= 1; }
    var x = n - start, y = m - start, most = Math.min(x + y, FARTHEST), zero = most + 1, d, k, i, j, found = false;
    var reach = new Int32Array(2 * most + 3), trace = [];
    for (d = 0; d <= most && !found; d += 1) {
      trace.push(reach.slice());
      for (k = -d; k <= d && !found; k += 2) {
        i = down(reach, k, d) ? reach[zero + k + 1] : reach[zero + k - 1] + 1;
        j = i - k;
        while (i < x && j < y && a[start + i] === b[start + j]) { i += 1; j += 1; }
        reach[zero + k] = i;
        found = i >= x && j >= y;
      }
    }
    function down(at, on, far) {
      return on === -far || (on !== far && at[zero + on - 1] < at[zero + on + 1]);
    }
    if (!found) { old.fill(true, start, n); now.fill(true, start, m); return [old, now]; }
    i = x; j = y;
    for (d = trace.length - 1; d > 0; d -= 1) {
      k = i - j;
      var from = down(trace[d], k, d) ? k + 1 : k - 1, fromI = trace[d][zero + from], fromJ = fromI - from;
      while (i > fromI && j > fromJ) { i -= 1; j -= 1; }
      if (from === k + 1) { now[start + fromJ] = true; } else { old[start + fromI] = true; }
      i = fromI; j = fromJ;
    }
    return [old, now];
  }

  function words(text) { return text.match(/\s*\S+|\s+$/g) || []; }

  function write(pre, parts, marks, kind) {
    pre.textContent = "";
    for (var i = 0; i < parts.length;) {
      var end = i + 1;
      while (end < parts.length && marks[end] === marks[i]) { end += 1; }
      var text = parts.slice(i, end).join("");
      if (marks[i]) {
        var space = text.match(/^\s*/)[0];
        pre.appendChild(document.createTextNode(space));
        element(pre, kind, "", text.slice(space.length));
      } else { pre.appendChild(document.createTextNode(text)); }
      i = end;
    }
  }

  function start(root, data) {
    var two = data.sides.length === 2, count = data.item.length, shown = [], at = 0, kinds, labels;
    var last = data.grades[data.grades.length - 1];
    var state = data.item.map(function (_, i) {
      if (!two) { return last[i] === 1 ? "right" : "wrong"; }
      return data.grades[1][i] < data.grades[0][i] ? "lost" : data.grades[1][i] > data.grades[0][i] ? "gained" : "same";
    });
    kinds = two ? ["lost", "gained", "same"] : ["wrong", "right"];
    labels = { lost: "\u2212 lost", gained: "+ gained", same: "= same", wrong: "\u2717 wrong", right: "\u2713 right" };
    function after(i) { return two && data.responses[1][i] !== null ? data.responses[1][i] : data.responses[0][i]; }
    var heap = null;  // what is searched, in small letters, made when it is first needed
    function haystack(i) {
      heap = heap || data.item.map(function (_, n) {
        return [data.prompt[n], data.gold[n], data.responses[0][n], after(n)].join("\n").toLowerCase();
      });
      return heap[i];
    }

    var bar = element(root, "div", "browser-bar"), group = element(bar, "div"), buttons = {}, chosen = "";
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "Which items");
    [""].concat(kinds).forEach(function (kind) {
      var n = kind ? state.filter(function (s) { return s === kind; }).length : count;
      var button = buttons[kind] = element(group, "button", "", (kind ? labels[kind] : "all") + " " + n);
      button.type = "button";
      button.addEventListener("click", function () { chosen = kind; filter(); });
    });
    function menu(label, values) {
      var different = Array.from(new Set(values)).filter(function (v) { return v !== ""; });
      if (different.length < 2) { return { value: "" }; }
      var box = element(bar, "label", "", label), select = element(box, "select");
      [""].concat(different).forEach(function (value) {
        element(select, "option", "", value || "all").value = value;
      });
      select.addEventListener("change", filter);
      return select;
    }
    var split = menu("split", data.split), subject = menu("subject", data.subject);
    var searching = element(bar, "label", "", "search"), search = element(searching, "input");
    search.type = "search";
    search.addEventListener("input", filter);
    var differences = { checked: false };
    if (two) {
      var marking = element(bar, "label");
      differences = element(marking, "input");
      differences.type = "checkbox";
      differences.checked = true;
      marking.appendChild(document.createTextNode("mark differing words"));
      differences.addEventListener("change", show);
    }
    var told = element(root, "p", "browser-told");
    told.setAttribute("role", "status");
    var both = element(root, "div", "browser-two"), list = element(both, "div", "browser-list");
    var one = element(both, "div", "browser-one"), all = element(list, "div");
    list.tabIndex = 0;
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Items");
    all.setAttribute("role", "presentation");
    element(root, "p", "browser-told", "Keys: arrows, Page Up and Down, Home and End in the list; j and k for the " +
      "next and the one before, / to search.");

    function title(i) { return data.split[i] + ", item " + data.item[i]; }

    // Only the rows in view exist, so that thousands cost what thirty do.
    function rows() {
      var first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
      var end = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW) + 10);
      all.textContent = "";
      all.style.height = shown.length * ROW + "px";
      for (var n = first; n < end; n += 1) { row(n); }
      if (shown.length && (at < first || at >= end)) { row(at); }
      if (shown.length) { list.setAttribute("aria-activedescendant", root.getAttribute("data-responses") + "-" + at); }
    }
    function row(n) {
      var i = shown[n], line = element(all, "div", "browser-row");
      line.id = root.getAttribute("data-responses") + "-" + n;
      line.style.top = n * ROW + "px";
      line.setAttribute("role", "option");
      line.setAttribute("aria-selected", String(n === at));
      line.setAttribute("aria-posinset", n + 1);
      line.setAttribute("aria-setsize", shown.length);
      element(line, "b", "", labels[state[i]]);
      line.appendChild(document.createTextNode(title(i) + ": " + data.prompt[i].slice(0, 80)));
      line.addEventListener("mousedown", function () { go(n); });
    }
    list.addEventListener("scroll", function () { window.requestAnimationFrame(rows); });

    function go(n) {
      if (!shown.length) { return; }
      at = Math.max(0, Math.min(shown.length - 1, n));
      var top = at * ROW;
      if (top < list.scrollTop) { list.scrollTop = top; }
      if (top + ROW > list.scrollTop + list.clientHeight) { list.scrollTop = top + ROW - list.clientHeight; }
      rows();
      show();
    }

    function graded(value) {
      return value === 1 ? "right" : value === 0 ? "wrong" : Math.round(100 * value) + " % of the samples right";
    }
    function verbatim(text) {
      var pre = element(one, "pre", "", text);
      pre.dir = "auto";
      pre.tabIndex = 0;
      return pre;
    }
    function show() {
      one.textContent = "";
      if (!shown.length) { return; }
      var i = shown[at], said = [data.responses[0][i], after(i)];
      var about = title(i) + (data.subject[i] ? ", " + data.subject[i] : "");
      element(one, "h3", "", about + ": " + labels[state[i]].slice(2));
      verbatim(data.prompt[i]);
      element(one, "p", "side", "gold answer " + data.gold[i]);
      var same = two && said[0] === said[1];
      if (same) {
        element(one, "p", "side", "before and after alike: " + graded(data.grades[1][i]));
        verbatim(said[0]);
        return;
      }
      var parts = said.map(words), marks = parts.map(function (p) { return p.map(function () { return false; }); });
      if (differences.checked) {
        var bare = parts.map(function (p) { return p.map(function (w) { return w.trim(); }); });
        marks = changed(bare[0], bare[1]);
      }
      data.sides.forEach(function (side, n) {
        element(one, "p", "side", (side ? side + ": " : "") + graded(data.grades[n][i]));
        write(verbatim(""), parts[n], marks[n], n ? "ins" : "del");
      });
    }

    function filter() {
      var sought = search.value.trim().toLowerCase();
      shown = [];
      for (var i = 0; i < count; i += 1) {
        if (chosen && state[i] !== chosen) { continue; }
        if (split.value && data.split[i] !== split.value) { continue; }
        if (subject.value && data.subject[i] !== subject.value) { continue; }
        if (sought && haystack(i).indexOf(sought) < 0) { continue; }
        shown.push(i);
      }
      for (var kind in buttons) { buttons[kind].setAttribute("aria-pressed", String(kind === chosen)); }
      told.textContent = shown.length + " of " + count + " items" + (shown.length ? "" : ": none is as asked for");
      both.hidden = !shown.length;
      both.style.display = shown.length ? "" : "none";
      list.scrollTop = 0;
      at = 0;
      rows();
      show();
    }

    list.addEventListener("keydown", function (event) {
      var page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
      var to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0,
        End: shown.length - 1 }[event.key];
      if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) { return; }
      event.preventDefault();
      go(to);
    });
    root.addEventListener("keydown", function (event) {
      if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) { return; }
      if (event.key === "j") { go(at + 1); }
      if (event.key === "k") { go(at - 1); }
      if (event.key === "/") { event.preventDefault(); search.focus(); }
    });
    root.hidden = false;
    root.classList.add("live-responses");
    filter();
  }

  each(document.querySelectorAll("[data-responses]"), function (root) {
    unpacked(root.getAttribute("data-responses")).then(function (data) {
      start(root, data);
    }).catch(function (error) { console.error(error); });
  });
})();
"""
"""Brings every browser of a page to life."""
