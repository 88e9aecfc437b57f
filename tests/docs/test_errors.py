"""Each kind of error has its page, each page its kind; the command line names the page with --debug alone."""

import ast
from pathlib import Path

import pytest

import mastlens
from mastlens import errors
from mastlens.cli import main
from tests.docs.pages import DOCS, run_page

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MastlensError)]


def test_every_kind_has_a_page_and_every_page_a_kind():
    assert len(KINDS) > 6
    pages = {kind.page for kind in KINDS}
    assert len(pages) == len(KINDS)
    assert pages == {f"docs/errors/{path.name}" for path in (DOCS / "errors").glob("*.md")}
    for kind in set(KINDS) - {errors.MastlensError}:
        assert getattr(mastlens, kind.__name__) is kind
        assert f"`mastlens.{kind.__name__}`" in (DOCS.parent / kind.page).read_text(encoding="utf-8")


def _plain_raises(folder: Path) -> list[str]:
    """Return where an error is made that is of no kind."""
    return [
        f"{path.name}:{node.lineno}"
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", None) or getattr(node.func, "attr", None)) == "MastlensError"
    ]


def test_every_error_is_of_a_kind(tmp_path):
    assert _plain_raises(Path(mastlens.__file__).parent) == []
    (tmp_path / "plain.py").write_text("def f():\n    raise MastlensError('x')\n")
    (tmp_path / "other.py").write_text("def f(error):\n    return errors.MastlensError(f'{error}')\n")
    (tmp_path / "kind.py").write_text("raise BadSetting('x')\n")
    assert _plain_raises(tmp_path) == ["other.py:2", "plain.py:2"]


def test_the_page_runs(tmp_path, monkeypatch):
    assert "error" not in run_page("errors/index", tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("inspect organism:qwen2/rlrv", errors.UnknownName),
        ("inspect nowhere/at-all/x", errors.NotFound),
        ("rank {folder} --top 3", errors.NotFound),
        ("inspect {folder}", errors.NotFound),
        ("inspect {folder}/broken", errors.BadFile),
        ("rank {folder} --rule random", errors.BadSetting),
        ("geometry --base organism:qwen2/base --rlvr organism:think/think --out {folder}/run", errors.NotTogether),
    ],
)
def test_a_mistake_has_its_kind_and_the_message_stays(tmp_path, capsys, command, kind):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    words = command.format(folder=tmp_path).split()
    assert main(words) == 2
    plain = capsys.readouterr().err
    assert plain.startswith("mastlens: ")
    assert "docs/errors" not in plain
    assert main([*words, "--debug"]) == 2
    debug = capsys.readouterr().err
    assert debug.rstrip().endswith(f"See {kind.page}")
    assert plain.removeprefix("mastlens: ").strip() in debug
