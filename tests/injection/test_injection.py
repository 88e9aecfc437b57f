"""Every command that writes is in the table; failures at every k of some of them, at drawn k of others.

In a process of its own: it forks, and a fork takes no threads along.
"""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mastlens.cli.registry import COMMANDS

from .commands import FETCHING, READ_ONLY, ROWS
from .driver import Case

ROOT = Path(__file__).parents[2]


def test_every_command_has_a_row():
    """A new command that writes needs one; one that does not is listed as such."""
    typed = [" ".join(row.words) + " " for row in ROWS]
    names = {entry.settings.command for entry in COMMANDS}
    rows = {name for name in names if any(line.startswith(f"{name} ") for line in typed)}
    assert rows.isdisjoint((*READ_ONLY, *FETCHING))
    assert rows | {*READ_ONLY, *FETCHING} == names


@pytest.mark.slow
def test_a_failure_at_any_change_loses_nothing():
    only = ("rank", "edit scale", "benchmarks take", "edit apply")
    command = [sys.executable, "-m", "tests.injection", "--cheap", "--most", "1", "--moments", "2", "--only", *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " and 2 kills from outside, 0 wrong, " in done.stdout.splitlines()[-1]
    assert "rank {o}: " in done.stdout


def test_what_it_is_there_for_is_seen(tmp_path):
    """A command that writes in place, loses what was there, hides a full disk, or cannot go on is found."""
    start, inputs = tmp_path / "start", tmp_path / "inputs"
    for folder in (start, inputs):
        folder.mkdir()
        (folder / "mine").write_text("mine")
    out = tmp_path / "work" / "out"

    def careless() -> int:
        (out / "table").write_text("some words")
        return 0

    def loses() -> int:
        mine = (out / "mine").read_text()
        (out / "mine").unlink()
        (out / "mine").write_text(mine)
        return 0

    def hides() -> int:
        with contextlib.suppress(OSError):
            (out / "table").write_text("some words")
        return 0

    def spoils() -> int:
        (inputs / "mine").write_text("theirs" if (inputs / "mine").read_text() == "mine" else "mine")
        (out / "table").write_text("x")
        return 0

    def refuses() -> int:
        (out / "one").mkdir(exist_ok=False)
        (out / "two").mkdir()
        return 0

    def slow() -> int:
        with (out / "table").open("w") as stream:
            for word in ("some", "words"):
                stream.write(word)
                stream.flush()
                time.sleep(0.5)
        return 0

    found = {}
    for action in (careless, loses, hides, spoils, refuses, slow):
        case = Case(action.__name__, action, start, inputs, tmp_path / "work")
        ks = range(case.whole(tmp_path / action.__name__))
        found[action.__name__] = [told for k in ks for told in (case.killed(k), case.full(k)) if told]
    assert case.killed_after(60) == ""  # it has ended by then, and all is there
    assert any("half written" in case.killed_after(seconds) for seconds in (0.3, 0.5, 0.7, 0.9))
    for name, word in {
        "careless": "half written",
        "loses": "lost or changed",
        "hides": "not all is there",
        "spoils": "an input was changed",
        "refuses": "the same command exits with 1",
    }.items():
        assert any(word in told for told in found[name]), (name, found[name])
