"""Executes what a page shows: its blocks of Python and its mastlens commands, from top to bottom, in one folder.

    namespace = run_page("extending/rule", tmp_path, monkeypatch)

A fenced block of ``python`` runs in one namespace that all of a page's blocks share. A block of any language
that begins with ``# file: NAME`` is written to that file instead, in the working folder, from where later blocks import
it. In a block of ``sh``, lines that begin with ``mastlens`` run as commands, and must succeed. A block under
``<!-- not run: why -->`` is shown only. An error names the page and its line.
"""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mastlens.cli import main

DOCS = Path(__file__).parents[2] / "docs"
_FILE = "# file: "
_FENCE = re.compile(r"^```(\w+)\s*$")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    code: str
    line: int  # of the page, where the code begins
    run: bool


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page that name a language."""
    lines = page.read_text(encoding="utf-8").splitlines()
    blocks, number = [], 0
    while number < len(lines):
        match = _FENCE.match(lines[number])
        if match:
            end = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```"))
            said = next((line for line in reversed(lines[:number]) if line.strip()), "")
            code = "\n".join(lines[number + 1 : end]) + "\n"
            blocks.append(Block(match[1], code, number + 2, not said.startswith("<!-- not run")))
            number = end
        number += 1
    return blocks


def run_page(
    name: str, folder: Path, monkeypatch, *, changed: Mapping[str, str] | None = None, **given: Any
) -> dict[str, Any]:
    """Run a page of ``docs/`` in ``folder`` and return the namespace it leaves behind.

    Args:
        name: The page's path in ``docs/`` without its suffix, e.g. ``extending/rule``.
        folder: An empty folder, where the page's files go.
        monkeypatch: Pytest's.
        changed: What the page says to what is run in its place; it must say it once.
        given: Names that the page may use without having made them.
    """
    page = DOCS / f"{name}.md"
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    namespace: dict[str, Any] = {"__name__": "page", **given}
    ran, found = 0, list(changed or {})
    known = set(sys.modules)
    try:
        for block in read_blocks(page):
            for said, meant in (changed or {}).items():
                if said in block.code:
                    block = block._replace(code=block.code.replace(said, meant))
                    found.remove(said)
            if block.run and block.code.startswith(_FILE):
                (folder / block.code.partition("\n")[0].removeprefix(_FILE).strip()).write_text(block.code, "utf-8")
            elif block.run and block.language == "python":
                exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
                ran += 1
            elif block.run and block.language == "sh":
                ran += _run_commands(block, page)
    finally:
        for module in set(sys.modules) - known:  # another page may write a file of that name
            if Path(str(getattr(sys.modules[module], "__file__", ""))).parent == folder:
                del sys.modules[module]
    assert not found, f"{page} does not say {found}"
    assert ran, f"{page} has nothing to run"
    return namespace


def _run_commands(block: Block, page: Path) -> int:
    ran = 0
    for line in re.sub(r"\\\n\s*", " ", block.code).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["mastlens"]:
            assert main(words[1:]) == 0, f"{page}, line {block.line} and below: {line}"
            ran += 1
    return ran
