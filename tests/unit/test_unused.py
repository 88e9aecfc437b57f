"""No function that only its test calls: it is public, with a page, or it goes."""

import ast
import re
from collections import Counter
from pathlib import Path

import mastlens

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mastlens"
DRAWS = {
    "random_increments",
    "random_subspaces",
}  # what the laws of the nulls say, drawn: tests hold one against the other
_READ = re.compile(r"\w+")


def _words(folder: Path) -> Counter[str]:
    """Return how often each word is in the Python, Markdown and Makefile text of a folder, generated files left out."""
    files = [path for path in folder.rglob("*") if path.suffix in (".py", ".md")] if folder.is_dir() else [folder]
    return sum((Counter(_READ.findall(path.read_text(encoding="utf-8"))) for path in files), Counter())


def _called(path: Path) -> Counter[str]:
    """Return the names that the code of a module reads; what it only imports or lists, to export it, does not count."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    return Counter(names + [node.attr for node in nodes if isinstance(node, ast.Attribute)])


def unused(package: Path, users: list[Path], public: set[str]) -> list[str]:
    """Return the functions at the top of a package's modules that are named nowhere but where they stand.

    A decorated one is found by what decorates it.
    """
    used = Counter[str]()
    for path in package.rglob("*.py"):
        used += _called(path) if path.name == "__init__.py" else _words(path)
    for folder in users:
        used += _words(folder)
    return [
        f"{path.relative_to(package)}: {node.name}"
        for path in sorted(package.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.decorator_list and not node.name.startswith("__")
        if node.name not in public and used[node.name] <= (path.name != "__init__.py")
    ]


def test_no_function_is_used_by_tests_alone():
    users = [ROOT / name for name in ("docs", "notebooks", "benchmarks", "Makefile")]
    assert unused(PACKAGE, users, set(mastlens.__all__) | DRAWS) == []


def test_an_unused_function_is_found(tmp_path):
    (tmp_path / "one.py").write_text(
        "def alone():\n    pass\n\n\ndef called():\n    pass\n\n\ndef shown():\n    pass\n"
    )
    (tmp_path / "two.py").write_text("from one import called\n\ncalled()\n")
    (tmp_path / "__init__.py").write_text("from one import alone\n")
    assert unused(tmp_path, [], {"shown"}) == ["one.py: alone"]
