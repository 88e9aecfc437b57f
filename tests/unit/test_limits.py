"""Programs that come with a model end in time: templates that loop, templates that flood, patterns that backtrack."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.cli import main
from mastlens.errors import BadFile
from mastlens.evaluation import evaluate
from mastlens.organisms.settings import ListOrganismsSettings
from mastlens.problems.thinking import render_prompt
from mastlens.runs import limits
from mastlens.runs.calls import takes

from ..conftest import write_tokenizer

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i + j %}{% endfor %}{% endfor %}"


@pytest.fixture
def tokenizer(tmp_path):
    write_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def in_a_thread(call):
    found = []

    def run():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(300)
    return found[0]


def test_a_template_that_loops_is_stopped(tokenizer, monkeypatch):
    monkeypatch.setattr(limits, "TEMPLATE_SECONDS", 0.5)
    tokenizer.chat_template = LOOP
    with pytest.raises(BadFile, match="chat template does not come to an end"):
        render_prompt("q", tokenizer)
    error = in_a_thread(lambda: render_prompt("q", tokenizer))
    assert isinstance(error, BadFile)
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    assert render_prompt("q", tokenizer) == "q!"  # and nothing comes later
    time.sleep(0.7)


def test_a_template_that_floods_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(limits, "LONGEST_PROMPT", 1000)
    tokenizer.chat_template = "{{ 'a' * 1001 }}"
    with pytest.raises(BadFile, match="1,001 characters"):
        render_prompt("q", tokenizer)
    tokenizer.chat_template = "{{ 'a' * 1000 }}"
    assert render_prompt("q", tokenizer) == "a" * 1000


def test_a_busy_machine_is_not_the_files_fault(monkeypatch):
    """What counts is what a block computes; one that only waits is left alone, but not for ever."""
    if not hasattr(time, "pthread_getcpuclockid"):
        pytest.skip("no processor time of a thread on this system")

    def wait(seconds):
        ended = time.monotonic() + seconds
        while time.monotonic() < ended:
            time.sleep(0.05)

    with limits.bounded("x", 0.5):
        wait(1.2)
    monkeypatch.setattr(limits, "_BUSY", 1.5)
    with pytest.raises(BadFile, match="does not come to an end"), limits.bounded("x", 0.5):
        wait(20)


PROFILED = """
import cProfile
from mastlens.errors import BadFile
from mastlens.runs import limits

def called(count):
    return sum(called(0) for _ in range(count)) + 1

def busy():
    while True:
        pass

with cProfile.Profile() as profile:
    with limits.bounded("x"):
        called(3)
    assert called(3) == 4
    try:
        with limits.bounded("x", 0.2):
            busy()
    except BadFile:
        assert called(3) == 4
        print("went on")
"""


def test_a_profiler_does_not_stand_still():
    """A mark that the interpreter keeps, where nothing is to be raised, is a call without end under a profiler."""
    done = subprocess.run([sys.executable, "-c", PROFILED], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "went on\n", done.stderr


def test_what_ends_a_block_comes_once(monkeypatch):
    """Also where it was on its way when the block ended by itself."""
    monkeypatch.setattr(limits, "_AGAIN", 0.01)
    for _ in range(20):
        with contextlib.suppress(BadFile), limits.bounded("x", 0.02):
            ended = time.thread_time() + 0.02
            while time.thread_time() < ended:
                pass
        for _ in range(1000):
            time.perf_counter()


def test_a_block_keeps_its_own_errors():
    with pytest.raises(KeyError), limits.bounded("x"):
        raise KeyError("own")
    with limits.bounded("x", 5.0):
        value = 1
    assert value == 1
    assert threading.active_count() < 50


def test_a_pattern_that_backtracks_is_the_files_fault(tiny, tmp_path, capsys, monkeypatch):
    """tokenizers gives it up by an error that is no Exception."""
    folder = shutil.copytree(tiny.rlvr, tmp_path / "m")
    written = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    written["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, written["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(written))
    # The class that goes with this architecture writes a pattern of its own; others take the file's.
    loaded = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>")
    monkeypatch.setattr(Checkpoint, "load_tokenizer", lambda self, **_: loaded)
    problem = {"problem": "a" * 40 + "!", "solution": r"\boxed{1}", "answer": "1"}
    (tmp_path / "p.jsonl").write_text(json.dumps(problem))
    asked = ["evaluate", "--model", str(folder), "--split", f"f={tmp_path / 'p.jsonl'}", "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert "pattern in tokenizer.json" in said
    assert not (tmp_path / "out" / "responses.parquet").exists()
    with pytest.raises(BadFile, match=r"pattern in tokenizer\.json"):
        evaluate(model=folder, splits={"f": tmp_path / "p.jsonl"}, out=tmp_path / "out")
    assert limits.pattern_refusal(ValueError("x")) is None


def test_what_is_raised_otherwise_goes_on_as_it_is():
    @takes(ListOrganismsSettings)
    def leave(settings):
        raise SystemExit(5)

    with pytest.raises(SystemExit) as raised:
        leave()
    assert raised.value.code == 5
