"""Make every ``NN_name.ipynb`` from its plain-text twin ``NN_name.py``: ``make notebooks``.

The ``.py`` (jupytext's percent format) is what is edited, reviewed and run by the tests; the ``.ipynb`` holds the same
cells without outputs and without the assertions, which hold what is said and are nothing to read. It comes out as the
same bytes every time: a cell's id is the hash of what it says.

- ``python notebooks/sync.py [NUMBER ...]`` writes the ``.ipynb`` of these, or of all;
- ``python notebooks/sync.py --check`` writes nothing, names those that are out of date, and exits with 1.
"""

import argparse
import ast
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def twins(folder: Path = HERE, only: list[str] | None = None) -> list[Path]:
    """Return the plain-text notebooks of a folder in their order.

    Args:
        folder: Where they lie.
        only: Beginnings of their names, such as ``02``; without it, all.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.py"))
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def without_checks(source: str, unused: Collection[str] = ()) -> str:
    """Return a cell's code without its assertions and loops of them, and without the comments right above.

    Args:
        source: The code.
        unused: Names whose imports go too: assertions alone used them.
    """
    lines, dropped = source.split("\n"), set()
    for node in ast.parse(source).body:
        if _checks(node) or (set(_imported(node)) and set(_imported(node)) <= set(unused)):
            first = node.lineno - 1
            while first and lines[first - 1].startswith("#"):
                first -= 1
            last = node.end_lineno or node.lineno
            dropped |= set(range(first, last))
            if _imported(node) and lines[first - 1 : first] in ([], [""]) and lines[last : last + 1] == [""]:
                dropped.add(last)  # a group of imports that is gone leaves no blank line
    kept = "\n".join(line for number, line in enumerate(lines) if number not in dropped)
    return re.sub(r"\n{4,}", "\n\n\n", kept).strip("\n")


def _imported(node: ast.stmt) -> list[str]:
    """Return the names that an import binds."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return []
    return [alias.asname or alias.name.partition(".")[0] for alias in node.names]


def _unused(sources: Iterable[str]) -> set[str]:
    """Return the names that are imported in one of some cells and used in none."""
    trees = [ast.parse(source) for source in sources]
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {name for tree in trees for node in tree.body for name in _imported(node)} - used


def _checks(node: ast.stmt) -> bool:
    """Return whether a statement is an assertion, or a loop of nothing else."""
    if isinstance(node, ast.For | ast.With):
        return all(_checks(inner) for inner in node.body)
    return isinstance(node, ast.Assert)


def build(text: str, *, checks: bool = False) -> NotebookNode:
    """Return the notebook that a plain-text twin describes: no outputs, ids that depend on the text alone.

    Args:
        text: The twin.
        checks: Keep the assertions, to run them; a reader's notebook has none.
    """
    notebook = jupytext.reads(text, fmt="py:percent")
    if not checks:
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        unused = _unused(without_checks(cell.source) for cell in code)
        for cell in code:
            cell.source = without_checks(cell.source, unused)
        notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    seen: Counter[str] = Counter()
    cells = []
    for cell in notebook.cells:
        says = f"{cell.cell_type}\n{cell.source}"
        seen[says] += 1
        name = hashlib.sha256(f"{says}\n{seen[says]}".encode()).hexdigest()[:12]
        code = {"execution_count": None, "outputs": []} if cell.cell_type == "code" else {}
        cells.append(
            NotebookNode(id=name, cell_type=cell.cell_type, metadata=NotebookNode(), source=cell.source, **code)
        )
    metadata = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    return NotebookNode(nbformat=4, nbformat_minor=5, metadata=nbformat.from_dict(metadata), cells=cells)


def render(text: str) -> str:
    """Return the bytes of the ``.ipynb``, as text, that belongs to a plain-text twin."""
    notebook = build(text)
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def out_of_date(folder: Path = HERE) -> list[str]:
    """Return one sentence for each ``.ipynb`` that is missing, differs from its twin, or has none."""
    found = []
    sources = twins(folder)
    for source in sources:
        made = source.with_suffix(".ipynb")
        if not made.exists():
            found.append(f"{made.name} is missing.")
        elif made.read_bytes() != render(source.read_text(encoding="utf-8")).encode():
            found.append(f"{made.name} is not what {source.name} gives.")
    known = {source.stem for source in sources}
    found += [f"{path.name} has no .py." for path in sorted(folder.glob("*.ipynb")) if path.stem not in known]
    return found


def main(arguments: list[str]) -> int:
    """Write the notebooks, or check them; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("only", nargs="*", metavar="NUMBER", help="beginnings of names, such as 02; without any, all")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if one is out of date")
    options = parser.parse_args(arguments)
    if options.check:
        found = out_of_date()
        for sentence in found:
            sys.stderr.write(f"{sentence} The .py is what is edited: run `make notebooks`.\n")
        return 1 if found else 0
    for source in twins(only=options.only):
        made = source.with_suffix(".ipynb")
        made.write_bytes(render(source.read_text(encoding="utf-8")).encode())
        sys.stdout.write(f"{made.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
