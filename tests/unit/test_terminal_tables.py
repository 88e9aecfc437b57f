"""Tables on a terminal: no line is wider than it, nothing is left out unsaid, and nothing is read as a command."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastlens.cli.tables import show, terminal_width

WIDE = pd.DataFrame(
    {
        "layer": [0, 1],
        "name": ["model.layers.0.self_attn.q_proj.weight", "model.layers.10.self_attn.o_proj.weight"],
        "off_principal": [0.123456789, 1 / 3],
        "never": [float("nan")] * 2,
        "note": ["", ""],
        "said": ["a\x1b[31mred", None],
        **{f"measure_{i}": [i / 7, float("nan") if i == 3 else i] for i in range(9)},
    }
)


@pytest.mark.parametrize("width", [200, 100, 80, 40])
def test_no_line_is_wider_than_the_terminal_and_what_is_left_out_is_named(width):
    text = show(WIDE, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "never" not in text and "note" not in text  # they say nothing
    assert "\x1b" not in text
    head, _, left = text.partition("more column")
    columns = [c for c in WIDE if c not in ("never", "note")]
    assert all(c in head.split("\n")[0] or c in left for c in columns)
    assert bool(left) == (width < 200)


def test_where_there_is_room_nothing_is_shortened():
    text = show(WIDE, width=1000)
    assert "model.layers.10.self_attn.o_proj.weight" in text and "0.123457" in text and "0.333333" in text
    assert show(WIDE) == text  # output that goes elsewhere than to a terminal has no width
    assert " - " in text or text.rstrip().endswith("-") or " -" in text  # one value of a column that has others


def test_the_width_is_the_terminals(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert terminal_width() == 50
    assert max(map(len, show(WIDE).splitlines())) <= 50
    monkeypatch.delenv("COLUMNS")
    assert terminal_width() is None


def test_named_columns_and_rows():
    text = show(WIDE, ["layer", "absent", "off_principal"], rows=1, width=80)
    assert text.split() == ["layer", "off_principal", "0", "0.123457", "...", "1", "more", "rows"]
    assert "layer" in show(WIDE.head(0), width=80)


@given(
    st.lists(st.tuples(st.text(max_size=60), st.floats(), st.integers(-(10**12), 10**12)), min_size=1, max_size=5),
    st.integers(30, 120),
)
def test_whatever_it_holds_it_fits(rows, width):
    table = pd.DataFrame(rows, columns=["text", "number", "count"])
    assert max(map(len, show(table, width=width).splitlines())) <= width
