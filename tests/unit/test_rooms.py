"""The order of rooms: data flows one way, and no room imports from one below it in the list, lazily or not."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2] / "mastlens"

ROOMS = (
    *("lazy", "errors", "columns", "registry", "statistics", "runs", "plots"),
    *("architectures", "checkpoints", "problems", "models", "decoding"),
    *("analysis", "selection", "edits", "unlearning", "evaluation"),
    *("organisms", "attacks", "studies", "estimating"),
    *("explorer", "reporting", "paper", "cli", "__main__"),
)
"""Rooms in the order of imports: each imports from itself and from those before it."""

ALLOWED = {
    # organism:NAME/STAGE is an address like a folder or a hub id; which ones there are, their registry knows.
    ("mastlens.checkpoints.folders", "organisms"),
}
"""Imports from a later room that stand, each with its reason; three at most."""


class Import(NamedTuple):
    """One import of the package by itself."""

    module: str
    line: int
    target: str
    typing: bool  # under TYPE_CHECKING: never run
    deferred: bool  # inside a function: run when it is called

    @property
    def rooms(self) -> tuple[str, str]:
        return _room(self.module), _room(self.target)


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_imports(root: Path) -> Iterator[Import]:
    """Yield the package's imports of itself, wherever in a module they stand."""
    paths = {_module(path, root): path for path in sorted(root.rglob("*.py"))}
    for module, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}:{node.lineno} is a relative import: write it in full"
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [target if target in paths else str(node.module) for target in targets]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                continue
            for target in targets:
                if target.split(".")[0] == root.name:
                    yield Import(module, node.lineno, target, id(node) in typing, node.col_offset > 0)


def against_the_order(root: Path) -> list[str]:
    """Return a line for each import that goes against the order of rooms."""
    found = []
    for item in read_imports(root):
        room, target = item.rooms
        if not room or not target or (item.module, target) in ALLOWED:
            continue
        if ROOMS.index(target) > ROOMS.index(room):
            found.append(f"{item.module}, line {item.line}: the room '{room}' imports from '{target}', which is later")
    return found


def circles(root: Path) -> list[list[str]]:
    """Return circles of modules that import each other as they are loaded.

    Between rooms the order allows none, deferred or not; within a room a method may defer the import of its helper.
    """
    edges: dict[str, set[str]] = {}
    for item in read_imports(root):
        if not item.typing and not item.deferred and _room(item.module):
            edges.setdefault(item.module, set()).add(item.target)
    done: set[str] = set()
    found = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            start = path.index(module)
            found.append([*path[start:], module])
            return
        if module in done:
            return
        for target in sorted(edges.get(module, ())):
            if target != module:
                visit(target, [*path, module])
        done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return found


def test_every_room_is_in_the_list():
    there = {p.stem for p in ROOT.glob("*.py")} | {p.name for p in ROOT.iterdir() if (p / "__init__.py").is_file()}
    assert there - {"__init__"} == set(ROOMS)


def test_no_import_goes_against_the_order():
    assert against_the_order(ROOT) == []


def test_the_exceptions_are_few_and_needed():
    assert len(ALLOWED) <= 3
    there = {(item.module, item.rooms[1]) for item in read_imports(ROOT)}
    assert there >= ALLOWED


def test_no_modules_import_each_other_in_a_circle():
    assert circles(ROOT) == []


def test_no_public_name_is_a_module_beside_it():
    import mastlens

    modules = {p.stem for p in ROOT.glob("*.py")} | {p.name for p in ROOT.iterdir() if p.is_dir()}
    assert modules.isdisjoint(mastlens.__all__)


@pytest.mark.parametrize("line", ["from mastlens.cli import main", "def f():\n    import mastlens.cli.main"])
def test_the_order_can_be_broken(tmp_path, line):
    """A module that imports from a later room is found, with its line and both rooms' names."""
    root = tmp_path / "mastlens"
    for room in ("runs", "cli"):
        (root / room).mkdir(parents=True)
        (root / room / "__init__.py").write_text("")
    (root / "cli" / "main.py").write_text("")
    (root / "runs" / "stages.py").write_text(f"import json\n{line}\n")
    (message,) = against_the_order(root)
    number = 2 + line.count("\n")  # the last line is the import
    assert message == f"mastlens.runs.stages, line {number}: the room 'runs' imports from 'cli', which is later"


def test_a_circle_is_found(tmp_path):
    root = tmp_path / "mastlens"
    (root / "runs").mkdir(parents=True)
    (root / "runs" / "one.py").write_text("from mastlens.runs import two\n")
    (root / "runs" / "two.py").write_text("from mastlens.runs.one import x\n")
    (root / "runs" / "__init__.py").write_text("")
    assert ["mastlens.runs.one", "mastlens.runs.two", "mastlens.runs.one"] in circles(root)
