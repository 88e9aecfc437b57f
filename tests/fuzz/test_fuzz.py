"""500 damaged inputs and what once failed: each is read or refused with a reason; nothing is written outside or run.

In a process of its own, without the shape checks of the other tests: a reader's own words are what is tested.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INPUTS = 500


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)


@pytest.mark.slow
def test_every_reader_reads_or_refuses():
    done = fuzz("--inputs", str(INPUTS))
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    counted = [int(part.split()[0]) for part in last.partition(": ")[2].split(", ")]
    assert sum(counted) >= INPUTS
    assert " read" in last  # not everything is refused: sound parts are still read
    assert "refused" in last


def test_the_worker_sees_what_it_is_there_for(tmp_path, monkeypatch):
    """A reader that hangs, floods, writes elsewhere, runs something, dies, or raises anything else is found."""
    from . import targets, working

    outside = tmp_path / "outside"
    readers = {
        "hang of": lambda folder: _forever(),
        "MemoryError": lambda folder: bytearray(4 * 2**30),
        "outside: open": lambda folder: outside.write_text("x"),
        "outside: os.system": lambda folder: __import__("os").system("true"),
        "the process died": lambda folder: __import__("os")._exit(3),
        "KeyError": lambda folder: {}["x"],
        "read": lambda folder: (folder / "inside").write_text("x"),
        "refused": lambda folder: targets.read_facts(folder / "none"),
    }
    monkeypatch.setattr(working, "SECONDS", 1)
    for name, read in readers.items():
        monkeypatch.setitem(targets.TARGETS, name, targets.Target(lambda folder, rng: None, read, 1))
    worker = working.Worker()
    try:
        for name in readers:
            found = worker.read(name, 0)
            assert found.outcome.startswith(name), (name, found)
            assert found.good == (name in ("read", "refused"))
    finally:
        worker.close()


def _forever():
    while True:
        pass
