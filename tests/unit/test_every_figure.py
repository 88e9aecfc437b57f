"""Every figure function, fed with the worst of tables: it draws, says what is missing, and runs no script."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mastlens import plots
from mastlens.errors import MastlensError
from mastlens.plots.frame import without_captions
from mastlens.plots.still import LARGEST, WIDE, still
from mastlens.plots.tables import layout_of
from tests.drawn import DRAWN, SMALL, Size
from tests.stills import kinds, read

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
FIXED = ("increment", "direction", "side", "order", "model", "kind", "objective", "split", "category", "note", "attack")
"""Columns whose words have a meaning: others than these are another table."""
LEGEND = 8
PANELS = {"token_text_html", "token_weights_html", "token_sides_html", "trace_text_html", "item_responses_html"}

every = pytest.mark.parametrize("drawn", DRAWN, ids=[one.name for one in DRAWN])


def shown(figure):
    """Return what a reader's browser gets to interpret, without the data that is kept beside."""
    if isinstance(figure, str):
        return str(figure)
    spec = figure.to_plotly_json()
    spec["layout"].pop("meta", None)
    return json.dumps(spec, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value))


def title_of(figure):
    return str(figure) if isinstance(figure, str) else layout_of(figure).meta["title"]


def test_every_public_figure_is_here():
    public = {name for name in plots.__all__ if name.startswith("plot_") or name.endswith("_html")}
    assert public == {one.name for one in DRAWN}


def test_the_page_on_figures_has_every_one_with_its_call():
    page = (Path(__file__).parents[2] / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("| `")] == [
        f"| `{one.name}` | `{one.call}` |" for one in DRAWN
    ]


@every
def test_a_table_without_rows_is_drawn_and_says_so(drawn):
    first, *others = drawn.make(SMALL)
    figure = drawn.draw(first.head(0), *others)
    assert "Nothing to draw: the table has no rows" in title_of(figure)
    assert "EVIL" not in shown(figure)


@every
def test_one_layer_is_enough_and_no_label_shows_its_own_markup(drawn):
    figure = drawn.draw(*drawn.make(Size(1, ("q",), 1, 1, 3)))
    assert title_of(figure)
    if drawn.name not in PANELS:
        # A tag that was written here and then escaped as if it came from a table.
        assert not re.search(r"&lt;/?(br|span|b|i|sub|sup)\b", shown(figure))


@every
def test_values_that_are_all_missing_are_no_traceback_and_no_claim(drawn):
    tables = [t.assign(**dict.fromkeys(t.select_dtypes("float").columns, np.nan)) for t in drawn.make(SMALL)]
    title = title_of(drawn.draw(*tables))
    assert "nan" not in title.lower().replace("nanos", "")


@every
def test_names_that_are_markup_are_text(drawn):
    tables = []
    for table in drawn.make(SMALL):
        texts = [c for c in table if pd.api.types.is_string_dtype(table[c]) and c not in FIXED]
        texts = [c for c in texts if all(isinstance(value, str) for value in table[c])]
        tables.append(table.assign(**{c: [f"{EVIL}{value}" for value in table[c]] for c in texts}))
    figure = drawn.draw(*tables)
    assert "<script" not in shown(figure)
    assert "<img" not in shown(figure)
    if drawn.name not in PANELS:
        drawn_still(without_captions(figure))


def drawn_still(figure):
    """Hold that a figure has a drawing that needs no script, whatever its names are."""
    svg = still(figure, "figure-1", EVIL)
    assert 500 < len(svg) < LARGEST
    assert "nan" not in svg
    tree = read(svg)
    assert (tree.get("role"), tree.get("aria-label")) == ("img", EVIL)
    assert tree.get("viewBox") == f"0 0 {WIDE} {layout_of(figure).height}"
    assert {"path", "text"} <= set(kinds(tree)) <= {"svg", "path", "text", "tspan", "defs", "linearGradient", "stop"}


@every
@pytest.mark.slow
def test_large_models_have_a_short_legend(drawn):
    figure = drawn.draw(*drawn.make(drawn.large))
    if drawn.name in PANELS:
        return
    named = {html.unescape(str(t.name)) for t in figure.data if t.name and t.showlegend is not False}
    assert not layout_of(figure).showlegend or len(named) <= LEGEND
    assert layout_of(figure).height <= 4000


MANY = {
    "plot_items": 50_000,
    "plot_token_differences": 12_500,
    "plot_unlearning_curve": 100_000,
}
"""Figures to the items of which their tables have a hundred thousand rows."""


@pytest.mark.parametrize("name", MANY)
def test_a_hundred_thousand_rows_are_thinned_and_that_is_said(name):
    drawn = next(one for one in DRAWN if one.name == name)
    first, *others = drawn.make(Size(items=MANY[name]))
    figure = drawn.draw(first, *others)
    drawn_points = max(np.size(t.z if t.type == "heatmap" else t.y) for t in figure.data)
    assert drawn_points <= 5100
    assert layout_of(figure).height < 4000
    note = layout_of(figure).meta["note"]
    assert any(said in note for said in ("is drawn", "are drawn", "One cell for", "is drawn through"))
    assert len(figure.table) > 10_000 or name == "plot_token_differences"  # the table is whole


def test_a_wrong_table_is_refused_all_the_same():
    with pytest.raises(MastlensError, match="writes such a table"):
        plots.plot_items(pd.DataFrame({"split": []}))
