"""Every command that a page or the README shows exists, with every option that it is shown with."""

import argparse
import functools
import re
import shlex
from pathlib import Path

import pytest

from mastlens.cli.parser import build_parser
from tests.docs.pages import DOCS, read_blocks

PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("*/*.md"))]
WRITTEN = ("reference", "notebooks")  # pages that are made from the code itself
PLACEHOLDERS = ("COMMAND", "...", "")


def commands(page: Path) -> list[str]:
    """Return the commands in a page's blocks, and those in its text that have an option."""
    text = page.read_text(encoding="utf-8")
    blocks = [block.code for block in read_blocks(page) if block.language == "sh"]
    blocks += re.findall(r"(?ms)^```\n(.*?)^```", text)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    lines += [" ".join(code.split()) for code in re.findall(r"`(mastlens [^`]* --[^`]*)`", prose)]
    alone = [part.strip() for line in lines for part in line.split("&&")]
    return [line for line in alone if line.startswith("mastlens ")]


@functools.cache
def command_line() -> argparse.ArgumentParser:
    """Return the parser, made once."""
    return build_parser()


def unknown_words(command: str) -> list[str]:
    """Return the words of a command that are no command, action or option of the command line."""
    parser, words = command_line(), shlex.split(command, comments=True)[1:]
    while found := [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]:
        word = words.pop(0) if words else ""
        if word not in found[0].choices:
            return [] if word in PLACEHOLDERS or word.startswith("--") else [word]
        parser = found[0].choices[word]
        if word == "estimate":  # in front of another command line
            return unknown_words(shlex.join(["mastlens", *words]))
    options = {option for one in parser._actions for option in one.option_strings}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name not in WRITTEN], ids=lambda p: p.name)
def test_every_command_that_is_shown_exists(page):
    assert {command: wrong for command in commands(page) if (wrong := unknown_words(command))} == {}


def test_there_are_commands_to_look_at():
    assert sum(len(commands(page)) for page in PAGES) > 60


def test_a_wrong_command_is_seen():
    assert unknown_words("mastlens geometri --out x") == ["geometri"]
    assert unknown_words("mastlens geometry --basis x --out run") == ["--basis"]
    assert unknown_words("mastlens edit aply EDIT") == ["aply"]
    assert unknown_words("mastlens geometry --base x --rlvr y --rank 90% --out run  # --not-one") == []
