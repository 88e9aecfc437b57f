"""The report is one safe, complete, repeatable page."""

import base64
import hashlib
import json
import re
import zlib

import pandas as pd
import plotly.graph_objects as go
import pytest

from mastlens import plots
from mastlens.errors import MastlensError
from mastlens.plots.page import Section, table_html, write_page

EVIL = '</pre><script>alert("1")</script> & \u202eback\x00 \ud800 end'


def selection():
    rows = [(i + 1, 0, p, f"layer.0.{p}<i>", 1.0 / (i + 1), i < 2) for i, p in enumerate("qkvo")]
    table = pd.DataFrame(rows, columns=["rank", "layer", "projection", "name", "score", "selected"])
    return plots.plot_selection(table, title="Point </script> here", subtitle="tiny & small")


def sections(count=1):
    table = pd.DataFrame({"arm": ["<b>edit</b>"], "accuracy": [0.441]})
    first = Section(
        "What <happened>",
        "One & two.\n\nThree.",
        figures=(selection(), go.Figure(go.Scatter(x=[1], y=[2]))),
        tables=(("Arms", table),),
        texts=(("Response", EVIL),),
    )
    return [first, *(Section(f"More {i}") for i in range(1, count))]


def write(path, count=1, **changes):
    given = {
        "title": "A <title>",
        "question": "Why?",
        "verdict": "Because 1 < 2.",
        "sections": sections(count),
        "reproduce": {"command": "mastlens demo", "versions": {"torch": "2.13.0"}, "seeds": [0, 1]},
    }
    return write_page(path, **(given | changes))


def markup(path):
    """Return the page without its scripts."""
    return re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_everything_is_there_and_escaped(tmp_path):
    path = write(tmp_path / "new" / "report.html")
    text = markup(path)
    for part in (
        "A &lt;title&gt;",
        "Because 1 &lt; 2.",
        "What &lt;happened&gt;",
        "<p>One &amp; two.</p>\n<p>Three.",
    ):
        assert part in text
    assert "&lt;/pre&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; ⟦U+202E⟧back␀ ? end" in text
    assert "&lt;b&gt;edit&lt;/b&gt;" in text
    assert "44.1%" in text
    assert "Point &lt;/script&gt; here" in text
    assert "tiny &amp; small" in text
    assert "torch: 2.13.0" in text
    assert "alert(" not in re.sub(r"&lt;script&gt;alert", "", text)


def test_page_asks_nothing_of_the_network(tmp_path):
    path = write(tmp_path / "report.html")
    whole, text = path.read_text(encoding="utf-8"), markup(path)
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b", text)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert not re.search(r"@import|url\(", text)
    assert not re.search(r"<script[^>]*\bsrc", whole)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', whole)[1]
    assert "default-src 'none'" in policy
    scripts = re.findall(r"<script>(.*?)</script>", whole, flags=re.DOTALL)
    assert len(scripts) == 3  # plotly.js once, and ours
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_figures_carry_their_data(tmp_path):
    whole = write(tmp_path / "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="text/plain" id="(.*?)">([A-Za-z0-9+/=]*)</script>', whole)
    assert [name for name, _ in blocks] == ["figure-1", "figure-2"]
    spec = json.loads(zlib.decompress(base64.b64decode(blocks[0][1])))
    assert spec["layout"]["meta"]["table"]["values"][3][0] == "layer.0.q<i>"
    assert "title" not in spec["layout"]  # the page shows it as text
    assert whole.count('data-table="') == 1  # the second figure is not ours and carries none


def test_equal_input_gives_equal_bytes(tmp_path):
    first = write(tmp_path / "a.html").read_bytes()
    assert write(tmp_path / "b.html").read_bytes() == first
    assert write(tmp_path / "a.html").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_contents_only_for_many_sections(tmp_path):
    assert "<nav" not in markup(write(tmp_path / "few.html", count=4))
    many = markup(write(tmp_path / "many.html", count=5))
    for target in re.findall(r'href="#(.*?)"', many):
        assert f'id="{target}"' in many


def test_page_without_figures_has_no_script(tmp_path):
    path = write(tmp_path / "report.html", sections=[Section("Text", "Only.")])
    assert "<script" not in path.read_text(encoding="utf-8")
    assert path.stat().st_size < 20_000


def test_unwritable_path_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(MastlensError, match="Cannot write the report"):
        write(tmp_path / "file" / "report.html")


def rows_of(page):
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


def test_numbers_are_written_as_readers_expect():
    table = pd.DataFrame(
        {
            "split": ["forget", "retain"],
            "n": [1500, 200],
            "layer": [1, 12],
            "accuracy": [0.8, 0.755],
            "difference": [-0.38, 0.01],
            "ci_low": [-0.45, -0.02],
            "ci_high": [-0.31, None],
            "mcnemar_p": [1e-9, 0.0078125],
            "seconds": [12.3456, 1.5],
            "rate": [5e-6, 1e-3],
            "selected": [True, False],
        }
    )
    head, first, second = rows_of(table_html(table))
    assert head == [
        *("split", "n", "layer", "accuracy", "difference", "interval", "mcnemar p", "seconds", "rate", "selected")
    ]
    assert first == [
        *("forget", "1,500", "1", "80.0%", "−38.0 pp", "[−45.0, −31.0] pp", "&lt;0.0001", "12.35"),
        *("5.00×10<sup>−6</sup>", "yes"),
    ]
    assert second[3:8] == ["75.5%", "+1.0 pp", '<span class="missing">–</span>', "0.0078", "1.50"]


def test_kinds_labels_and_long_tables():
    table = pd.DataFrame({"x": [0.5] * 7, "y<": range(7)})
    page = table_html(table, caption="Cap & tion", kinds={"x": "percent"}, labels={"x": "Share"}, max_rows=5)
    assert rows_of(page)[0] == ["Share", "y&lt;"]
    assert len(rows_of(page)) == 6
    assert rows_of(page)[1][0] == "50.0%"
    assert "Cap &amp; tion (the first 5 of 7 rows)" in page
    assert '<td class="n">' in page
