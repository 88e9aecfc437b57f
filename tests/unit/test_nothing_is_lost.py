"""Nothing a user owns is lost: overwriting, full disks, interruptions, kills, two runs at once."""

import ast
import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import mastlens
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import export, foreign_files
from mastlens.checkpoints.folders import MANIFEST
from mastlens.cli import main
from mastlens.errors import CannotWrite, MastlensWarning, StageRefused
from mastlens.runs import files
from mastlens.runs.files import atomic_path, cannot_write, write_text
from mastlens.runs.locks import abandoned, held
from mastlens.runs.stages import read_record, remembered, stage

MENDABLE = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EDQUOT, errno.EIO]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- overwriting -----------------------------------------------------------------------------------------------


@pytest.fixture
def written(tiny, tmp_path):
    """A checkpoint that was exported once."""
    return export(Checkpoint(tiny.rlvr), {}, tmp_path / "models" / "new", card="first")


def test_overwriting_replaces_what_was_written_and_nothing_else(tiny, written):
    beside = written.parent / "thesis.tex"
    beside.write_text("years of work")
    assert foreign_files(written) == []
    name = next(iter(Checkpoint(tiny.rlvr).tensors))
    changed = {name: Checkpoint(tiny.rlvr).tensor(name) + 1}
    export(Checkpoint(tiny.rlvr), changed, written, card="second", overwrite=True)
    assert (written / "README.md").read_text() == "second"
    assert torch.equal(Checkpoint(written).tensor(name), changed[name])
    assert beside.read_text() == "years of work"


@pytest.mark.parametrize("where", ["thesis.tex", "README.md", "notes/today.md", "link"])
def test_a_folder_with_anything_of_the_users_in_it_is_not_replaced(tiny, written, where):
    mine = written / where
    mine.parent.mkdir(exist_ok=True)
    if where == "link":
        mine.symlink_to(written / "config.json")
    else:
        mine.write_text("mine")
    before = contents(written.parent)
    with pytest.raises(StageRefused, match="holds what mastlens did not write there"):
        export(Checkpoint(tiny.rlvr), {}, written, overwrite=True)
    assert contents(written.parent) == before


def test_a_folder_that_holds_the_source_is_never_replaced(tiny, tmp_path):
    checkpoint = Checkpoint(tiny.rlvr)
    for parent in list(Path(tiny.rlvr).resolve().parents)[:-1]:
        with pytest.raises(StageRefused, match="holds the source checkpoint"):
            export(checkpoint, {}, parent, overwrite=True)
    (tmp_path / "link").symlink_to(Path(tiny.rlvr).parent)
    with pytest.raises(StageRefused, match="holds the source checkpoint"):
        export(checkpoint, {}, tmp_path / "link", overwrite=True)


def test_the_list_of_what_was_written_is_not_handed_on(written, tmp_path):
    again = export(Checkpoint(written), {}, tmp_path / "again")
    assert MANIFEST not in Checkpoint(written).companions
    assert foreign_files(again) == []


# --- disks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", MENDABLE)
def test_what_the_user_can_mend_is_told_and_leaves_what_was_there(number, tmp_path, monkeypatch):
    write_text(tmp_path / "f", "before")

    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CannotWrite, match=os.strerror(number)):
        write_text(tmp_path / "f", "after")
    assert contents(tmp_path) == {"f": b"before"}


def test_an_error_that_is_no_matter_of_the_disk_passes(tmp_path):
    with pytest.raises(OSError, match="Bad file descriptor"), atomic_path(tmp_path / "f"):
        raise OSError(errno.EBADF, "Bad file descriptor")
    assert cannot_write(ValueError("x")) is None


def test_libraries_that_tell_the_number_in_words_are_understood():
    told = cannot_write(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert "No space left on device" in str(told)


@pytest.mark.parametrize(("number", "call"), [*((errno.ENOSPC, call) for call in range(4)), (errno.EROFS, 0)])
def test_a_command_that_cannot_write_exits_with_2_and_goes_on_when_it_can(
    tiny, tmp_path, monkeypatch, capsys, number, call
):
    line = [
        "geometry",
        "--base",
        tiny.base,
        "--rlvr",
        tiny.rlvr,
        "--rank",
        "4",
        "--workers",
        "1",
        "--out",
        tmp_path / "run",
    ]
    line = list(map(str, line))
    real, calls = files.tempfile.mkdtemp, []

    def failing(*given, **named):
        calls.extend([1] * (named["dir"] == tmp_path / "run"))  # not the cache, which is written when its time has come
        if named["dir"] == tmp_path / "run" and len(calls) == call + 1:
            raise OSError(number, os.strerror(number))
        return real(*given, **named)

    monkeypatch.setattr(files.tempfile, "mkdtemp", failing)
    code = main(line)
    failed = len(calls) > call
    captured = capsys.readouterr()
    assert code == (2 if failed else 0)
    assert ("Cannot write" in captured.err) == failed
    assert "Traceback" not in captured.err
    monkeypatch.undo()
    assert main(line) == 0
    assert read_record(tmp_path / "run")["stages"]["geometry"]["outputs"]
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"geometry.parquet", "run.json"}


def test_a_folder_whose_successor_cannot_take_its_place_stays(tmp_path, monkeypatch):
    old = tmp_path / "model"
    old.mkdir()
    (old / "weights").write_text("the user's")
    real = Path.replace

    def full(self, target):
        if Path(target) == old:
            raise OSError(errno.ENOSPC, "full")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CannotWrite), atomic_path(old) as new:
        new.mkdir()
    assert contents(tmp_path) == {"model/weights": b"the user's"}


def test_a_file_inside_a_folder_that_is_being_written_needs_no_scratch_of_its_own(tmp_path):
    with atomic_path(tmp_path / "model") as folder:
        folder.mkdir()
        with atomic_path(folder / "deep" / "card") as card:
            assert card == folder / "deep" / "card"
            card.write_text("x")
        assert not (tmp_path / "model").exists()
    assert contents(tmp_path) == {"model/deep/card": b"x"}
    with atomic_path(tmp_path / "model" / "card") as card:
        assert card.parent.parent == tmp_path / "model"  # it stands there now: what is written to it is seen
        card.write_text("y")


# --- interruptions ---------------------------------------------------------------------------------------------


def made(out: Path, *, then=None, calls: list | None = None) -> str:
    """Make a stage of two outputs, interrupted between them if asked for."""

    def compute() -> str:
        if calls is not None:
            calls.append(1)
        return "result"

    def write(result: str, folder: Path) -> None:
        write_text(folder / "one", result)
        if then is not None:
            raise then
        write_text(folder / "two", result)

    return remembered(
        out, "twofold", outputs=["one", "two"], compute=compute, write=write, read=lambda f: (f / "two").read_text()
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), ValueError("defect")])
def test_a_stage_that_ended_between_two_outputs_goes_on(tmp_path, error):
    with pytest.raises((KeyboardInterrupt, CannotWrite, ValueError)):
        made(tmp_path / "run", then=error)
    assert (tmp_path / "run" / "one").exists()
    assert made(tmp_path / "run") == "result"
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"one", "two", "run.json"}


def test_outputs_of_another_call_are_still_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "one").write_text("somebody's")
    with pytest.raises(StageRefused, match="no record says"):
        made(tmp_path / "run")
    assert (tmp_path / "run" / "one").read_text() == "somebody's"


def test_what_was_generated_survives_a_last_write_that_fails(tiny, tmp_path, monkeypatch):
    import mastlens
    from mastlens.runs import tables

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    asked = {"model": tiny.rlvr, "splits": {"forget": tiny.forget}, "max_new_tokens": 8, "progress": False}
    whole = mastlens.evaluate(**asked, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_table", full)
        with pytest.raises(CannotWrite):
            mastlens.evaluate(**asked, out=tmp_path / "run")
    kept = [p.name for p in (tmp_path / "run").iterdir() if p.name.endswith(".partial.jsonl")]
    assert kept, "the responses are still there"
    again = mastlens.evaluate(**asked, out=tmp_path / "run")
    read = ["logprob_solution", "logprob_answer"]  # in other batches than the first time: the same to rounding
    pd.testing.assert_frame_equal(again.table[read], whole.table[read], rtol=1e-5)
    assert again.table.drop(columns=read).equals(whole.table.drop(columns=read))
    assert not any(p.name.endswith(".partial.jsonl") for p in (tmp_path / "run").iterdir())


# --- kills and two runs at once ----------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from mastlens.runs.stages import remembered
from mastlens.runs.files import write_text
out = Path(sys.argv[1])
def compute():
    print("holds", flush=True)
    time.sleep(float(sys.argv[2]))
    return "theirs"
def write(result, folder):
    write_text(folder / "one", result)
remembered(out, "slow", outputs=["one"], compute=compute, write=write, read=lambda folder: "")
"""


def holder(out: Path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(out), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


def slow(out: Path, calls: list) -> str:
    return remembered(
        out,
        "slow",
        outputs=["one"],
        compute=lambda: calls.append(1) or "mine",
        write=lambda result, folder: write_text(folder / "one", result),
        read=lambda folder: (folder / "one").read_text(),
    )


def test_a_second_run_waits_and_finds_what_the_first_made(tmp_path):
    process, calls = holder(tmp_path / "run", 1.0), []
    with pytest.warns(MastlensWarning, match="Another run writes to"):
        assert slow(tmp_path / "run", calls) == "theirs"
    assert process.wait(20) == 0
    assert not calls


def test_a_kill_leaves_no_lock_behind(tmp_path):
    process, calls = holder(tmp_path / "run", 60), []
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert slow(tmp_path / "run", calls) == "mine"
    assert calls
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"one", "run.json"}


def test_one_process_may_open_a_stage_inside_a_stage(tmp_path):
    with stage(tmp_path, "outer", outputs=[]), stage(tmp_path, "inner", outputs=[]):
        pass
    assert set(read_record(tmp_path)["stages"]) == {"outer", "inner"}


def test_what_a_killed_writer_left_goes_and_what_it_took_away_comes_back(tmp_path):
    left = tmp_path / ".model.ab12cd34"
    (left / "replaced").mkdir(parents=True)
    (left / "replaced" / "weights").write_text("the user's")
    (tmp_path / ".model.notours").mkdir()
    with pytest.raises(ValueError, match="stop"), atomic_path(tmp_path / "model"):
        raise ValueError("stop")
    assert (tmp_path / "model" / "weights").read_text() == "the user's"
    assert not left.exists()
    assert (tmp_path / ".model.notours").exists()


def test_what_a_kill_right_after_the_record_left_goes_with_the_same_command(tmp_path):
    made(tmp_path / "run")
    (tmp_path / "run" / ".twofold.under-way.json").write_text("{}")
    for name in ("run.json", "one", ".twofold.under-way.json"):
        (tmp_path / "run" / f".{name}.ab12cd34").mkdir()
    assert made(tmp_path / "run") == "result"
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"one", "two", "run.json"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_a_killed_overwrite_took_away_is_there_again_before_it_is_judged(tiny, written, overwrite):
    left = written.parent / f".{written.name}.ab12cd34"
    left.mkdir()
    written.rename(left / "replaced")
    if overwrite:
        export(Checkpoint(tiny.rlvr), {}, written, card="second", overwrite=True)
    else:
        with pytest.raises(StageRefused, match="not empty"):
            export(Checkpoint(tiny.rlvr), {}, written, card="second")
    assert (written / "README.md").read_text() == ("second" if overwrite else "first")
    assert [p.name for p in written.parent.iterdir()] == [written.name]


def test_a_writer_at_work_is_left_alone(tmp_path):
    with atomic_path(tmp_path / "f") as mine:
        mine.write_text("mine")
        assert not abandoned(mine.parent)
        write_text(tmp_path / "f", "theirs")
        assert mine.read_text() == "mine"
    assert (tmp_path / "f").read_text() == "mine"


def test_a_folder_is_free_again_once_it_is_let_go(tmp_path):
    with held(tmp_path), held(tmp_path):
        assert not abandoned(tmp_path)
    assert abandoned(tmp_path)


def test_what_is_written_once_has_its_leftovers_removed_all_the_same(tmp_path):
    """A writer that was killed right after its file was in place leaves its scratch folder: nobody writes it again."""
    from mastlens.plots.files import _share_plotly

    for name in (".sft.abcd1234", ".rlvr.0123abcd", ".rlvr.x", "rlvr.abcd1234"):
        (tmp_path / name).mkdir()
    files.remove_all_leftovers(tmp_path / "not there")
    with held(tmp_path / ".rlvr.0123abcd"):  # whose writer is at work
        files.remove_all_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".rlvr.0123abcd", ".rlvr.x", "rlvr.abcd1234"}
    files.remove_all_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".rlvr.x", "rlvr.abcd1234"}
    shared = tmp_path / "figures"
    _share_plotly(shared)
    (shared / ".plotly.min.js.abcd1234").mkdir()
    _share_plotly(shared)
    assert [path.name for path in shared.iterdir()] == ["plotly.min.js"]


def test_what_stands_is_asked_for_without_what_killed_writers_of_it_left(tmp_path):
    (tmp_path / ".sft.abcd1234" / "sft").mkdir(parents=True)
    (tmp_path / ".rlvr.abcd1234").mkdir()
    assert not files.stands(tmp_path / "sft")
    assert [path.name for path in tmp_path.iterdir()] == [".rlvr.abcd1234"]  # which is not asked for
    (tmp_path / "rlvr").mkdir()
    assert files.stands(tmp_path / "rlvr")
    assert [path.name for path in tmp_path.iterdir()] == ["rlvr"]


def _looks(node: ast.AST) -> Iterator[str]:
    """Return what a condition looks for by itself: ``path.is_dir()`` and the like."""
    for call in ast.walk(node):
        if isinstance(call, ast.Attribute) and call.attr in ("is_dir", "is_file", "exists"):
            yield ast.unparse(call.value)


def test_no_writer_of_what_is_written_once_looks_for_it_by_itself():
    """``is_dir()`` before ``atomic_path`` leaves a killed writer's scratch folder for ever; ``stands`` does not."""
    found, writers = [], 0
    for path in sorted(Path(mastlens.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "atomic_path":
                writers += 1
            if not isinstance(node, ast.If):
                continue
            made = {
                ast.unparse(call.args[0])
                for part in node.body
                for call in ast.walk(part)
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "atomic_path"
            }
            found += [f"{path.name}:{node.lineno}: {place}" for place in _looks(node.test) if place in made]
    assert writers > 15
    assert not found
