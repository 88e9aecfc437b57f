"""The site builds without a warning, needs nothing from the web, and fails on a broken link or an unknown name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, read_blocks, run_page


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-d", str(out / "trees")]
    return subprocess.run([*command, str(source), str(out / "site")], capture_output=True, text=True, cwd=DOCS.parent)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built")
    done = build(DOCS, out)
    assert done.returncode == 0, done.stderr
    return out / "site"


@pytest.mark.slow
def test_site_needs_nothing_from_the_web(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    loading = re.compile(
        r"""<(?:script|img|iframe|source)[^>]*\ssrc=["'](?:https?:)?//|<link[^>]*\shref=["'](?:https?:)?//"""
    )
    for page in pages:
        found = loading.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page}: {found and found[0]}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"""url\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//""", sheet.read_text("utf-8")), (
            sheet
        )


@pytest.mark.slow
def test_every_public_name_has_its_place(site):
    import mastlens

    text = "".join(page.read_text(encoding="utf-8") for page in (site / "reference" / "api").glob("*.html"))
    assert [name for name in mastlens.__all__ if f'id="mastlens.{name}"' not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[gone](nowhere.md)", "nowhere.md"),
        ("[gone](index.md#no-such-heading)", "no-such-heading"),
        ("{py:func}`mastlens.no_such_function`", "no_such_function"),
    ],
)
def test_a_broken_link_or_an_unknown_name_fails(tmp_path, line, said):
    """On a site of one page, built as ours is."""
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text('extensions = ["myst_parser", "sphinx.ext.autodoc"]\nmyst_heading_anchors = 3\n')
    (source / "index.md").write_text("# One page\n\nAnd a word.\n")
    assert build(source, tmp_path / "whole").returncode == 0
    (source / "index.md").write_text(f"# One page\n\nAnd a word: {line}.\n")
    done = build(source, tmp_path / "broken")
    assert done.returncode == 1
    assert said in done.stderr


def test_a_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\n# file: made.py\nvalue = 2\n```\n\n"
        "```python\nimport made\nx = made.value + given\n```\n\n"
        "<!-- not run: it needs a GPU -->\n\n```python\nraise SystemExit\n```\n\n"
        "```sh\nmastlens --no-such-option   # never reached\n```\n"
    )
    monkeypatch.setattr("tests.docs.pages.DOCS", tmp_path)
    (tmp_path / "work").mkdir()
    kinds = [(block.language, block.run, block.line) for block in read_blocks(page)]
    assert kinds == [("python", True, 4), ("python", True, 9), ("python", False, 16), ("sh", True, 20)]
    with pytest.raises(SystemExit):
        run_page("page", tmp_path / "work", monkeypatch, given=1)
    page.write_text(page.read_text().replace("mastlens --no-such-option", "echo no command of ours"))
    assert run_page("page", tmp_path / "work", monkeypatch, given=1)["x"] == 3
    assert "made" not in sys.modules


def test_a_pages_error_names_its_line(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\nassert x == 2\n```\n")
    monkeypatch.setattr("tests.docs.pages.DOCS", tmp_path)
    (tmp_path / "work").mkdir()
    with pytest.raises(AssertionError) as caught:
        run_page("page", tmp_path / "work", monkeypatch)
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno + 1) == (page, 5)


def test_readme_is_short_and_its_links_lead_somewhere():
    readme = DOCS.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert len(links) > 10
    assert [link for link in links if not (readme.parent / link).exists()] == []
