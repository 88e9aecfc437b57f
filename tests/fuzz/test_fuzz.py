"""500 damaged inputs and what once failed: each is read or refused with a reason; nothing is written outside or run.

In a process of its own, without the shape checks of the other tests: a reader's own words are what is tested.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from mastlens import MastlensError

ROOT = Path(__file__).parents[2]
INPUTS = 500


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)


@pytest.mark.slow
def test_every_reader_reads_or_refuses():
    done = fuzz("--inputs", str(INPUTS), "--command-line", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    counted = [int(part.split()[0]) for part in last.partition(": ")[2].split(", ")]
    assert sum(counted) >= INPUTS + 20
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


def test_a_worker_is_renewed_before_libraries_fill_its_memory(monkeypatch):
    """What one input leaves behind is not another's to pay for."""
    from . import targets, working

    left = []

    def keep(folder):
        left.append(bytearray(300 * 2**20))

    monkeypatch.setitem(targets.TARGETS, "keeps", targets.Target(lambda folder, rng: None, keep, 1))
    for renewed, last in ((3, "read"), (100, "MemoryError")):
        monkeypatch.setattr(working, "RENEWED", renewed)
        worker = working.Worker()
        try:
            outcomes = [worker.read("keeps", seed).outcome for seed in range(4)]
        finally:
            worker.close()
        assert outcomes[:3] == ["read"] * 3
        assert outcomes[3].startswith(last)


def test_a_command_that_exits_otherwise_is_seen(monkeypatch, tmp_path):
    from . import targets

    for code, told, kind in ((2, "no", MastlensError), (2, "", AssertionError), (1, "x", AssertionError)):
        monkeypatch.setattr(targets, "main", lambda words, code=code, told=told: print(told, file=sys.stderr) or code)
        with pytest.raises(kind):
            targets.TARGETS["edit"].type(tmp_path)


def _forever():
    while True:
        pass
