"""Geometry in shards and on a Ray cluster: the bytes of one process, and one message where something is not there."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import mastlens as m
from mastlens.analysis.increments import geometry as geometries
from mastlens.analysis.increments.geometry import SHARD, _Measuring
from mastlens.analysis.increments.measures import Options
from mastlens.checkpoints.lineage import Lineage
from mastlens.errors import CannotWrite, MastlensError, NoReply, NotFound, NotTogether
from mastlens.runs import driver, executors, reading
from mastlens.runs.driver import Driver, _versions
from mastlens.runs.executors import Ray, Work, find_executor
from tests.kills import children

QUIET = {"rank": 4, "full": True, "heads": True, "spectra": True, "masks": True, "progress": False}
SHARDS = 3


def stages(tiny):
    return {"base": tiny.base, "sft": tiny.sft, "rlvr": tiny.rlvr}


def tables(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    m.geometry(**stages(tiny), **QUIET, workers=1, out=out)
    return out


@pytest.fixture(scope="module")
def shards(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    for place in range(1, SHARDS + 1):
        part = m.geometry(**stages(tiny), **QUIET, shard=f"{place}/{SHARDS}", out=out / str(place))
        assert 0 < len(part.table) < 16
    return [out / str(place) for place in range(1, SHARDS + 1)]


def test_shards_put_together_are_one_run(tiny, whole, shards, tmp_path):
    m.merge(*reversed(shards), out=tmp_path)
    assert tables(tmp_path) == tables(whole)
    ours, other = (json.loads((folder / "run.json").read_text())["stages"]["geometry"] for folder in (tmp_path, whole))
    for part in ("lineage", "settings", "outputs"):
        assert ours[part] == other[part], part
    assert "--shard" not in ours["command"]["line"]
    again = m.geometry(**stages(tiny), **QUIET, out=tmp_path)  # finished: nothing is measured
    assert again.table.equals(m.merge(*shards, out=tmp_path).table)


def test_what_are_not_all_shards_of_one_geometry_is_refused(tiny, shards, tmp_path):
    with pytest.raises(MastlensError, match=r"1 of 3 shards are missing: 2/3"):
        m.merge(shards[0], shards[2], out=tmp_path / "a")
    with pytest.raises(MastlensError, match="1/3 is given twice"):
        m.merge(*shards, shards[0], out=tmp_path / "b")
    m.geometry(**stages(tiny), **{**QUIET, "seed": 1}, shard="2/3", out=tmp_path / "other")
    with pytest.raises(NotTogether, match="settings"):
        m.merge(shards[0], tmp_path / "other", shards[2], out=tmp_path / "c")
    with pytest.raises(NotFound, match="--shard I/N"):
        m.merge(tmp_path, out=tmp_path / "d")
    damaged = shutil.copytree(shards[1], tmp_path / "damaged")
    (damaged / SHARD).write_text("".join((damaged / SHARD).read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(MastlensError, match="Measure it again"):
        m.merge(shards[0], damaged, shards[2], out=tmp_path / "e")
    assert not any((tmp_path / name).exists() for name in "abcde")


def test_a_shard_larger_than_any_json_is_read_back(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LARGEST_JSON", 20_000)  # run.json has less, a shard with spectra more
    for place in (1, 2):
        m.geometry(**stages(tiny), **QUIET, shard=f"{place}/2", out=tmp_path / str(place))
        assert (tmp_path / str(place) / SHARD).stat().st_size > reading.LARGEST_JSON
    merged = m.merge(tmp_path / "1", tmp_path / "2", out=tmp_path / "out")
    assert len(merged.table) == 16
    monkeypatch.setattr(geometries, "LARGEST_TEXT", 1000)
    with pytest.raises(MastlensError, match="take more shards"):
        m.geometry(**stages(tiny), **QUIET, shard="1/3", out=tmp_path / "3")
    assert not (tmp_path / "3" / SHARD).exists()


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/99", "-1/2"])
def test_what_is_no_shard_is_named(tiny, shard, tmp_path):
    with pytest.raises(MastlensError, match=r"--shard|shards"):
        m.geometry(**stages(tiny), **QUIET, shard=shard, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_needs_a_folder(tiny):
    with pytest.raises(MastlensError, match="--out"):
        m.geometry(**stages(tiny), **QUIET, shard="1/2")


def test_an_executor_that_does_not_exist_is_named(tiny):
    for wrong in ("rey", "local:2", "ray:"):
        with pytest.raises(MastlensError, match="ray:ADDRESS"):
            m.geometry(**stages(tiny), executor=wrong)


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_one_process(tiny, whole, cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.base.parent)  # a path as it is typed: the workers have a folder of their own
    where = {role: path.relative_to(tiny.base.parent) for role, path in stages(tiny).items()}
    m.geometry(**where, **QUIET, executor="ray", out=tmp_path / "run")
    assert tables(tmp_path / "run") == tables(whole)


@dataclass(frozen=True)
class Deadly(Work):
    """A part that ends the process that it runs in, the first so many times."""

    folder: str
    times: int

    def do(self, part: str) -> str:
        marks = list(Path(self.folder).glob(f"{part}-*"))
        if len(marks) < self.times:
            (Path(self.folder) / f"{part}-{len(marks)}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return part.upper()


@pytest.mark.slow
def test_a_part_survives_its_worker_and_a_deadly_one_is_told(cluster, tmp_path):
    parts = ["a", "b"]
    found = dict(driven(Deadly(str(tmp_path), 1), parts))
    assert found == {part: part.upper() for part in parts}
    with pytest.raises(NoReply, match="lost with its worker"):
        list(driven(Deadly(str(tmp_path), 99), ["d"], retries=0))


def driven(work, parts, *, retries=4):
    """Do parts as the driver does, in this process."""
    return Driver("", 2, False, retries, pickle.dumps(work), parts).run()


@dataclass(frozen=True)
class Failing(Work):
    """A part that raises."""

    error: Exception

    def do(self, part: str) -> str:
        raise self.error


@pytest.mark.slow
def test_a_defect_is_no_mistake_of_the_user_and_a_full_disk_is_told_with_its_node(cluster):
    with pytest.raises(ZeroDivisionError, match="a"):
        list(Ray("", 1, False).run(Failing(ZeroDivisionError("a")), ["a"]))
    full = OSError(errno.ENOSPC, "full", "/scratch/run.json")
    with pytest.raises(CannotWrite, match=r"on the worker at \S+: Cannot use /scratch/run.json: No space left"):
        list(driven(Failing(full), ["a"]))


@pytest.mark.slow
def test_a_head_that_is_gone_is_told_and_one_that_is_there_is_let_be(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_LOOK", 0.05)  # a part takes longer than that
    assert dict(driven(Slow(), ["a"])) == {"a": "A"}
    monkeypatch.setattr(driver, "_check_head", lambda address: _check_head_itself("127.0.0.1:1"))
    with pytest.raises(NoReply, match=r"The head of the Ray cluster, 127.0.0.1:1, is gone"):
        list(driven(Slow(), ["a"]))


_check_head_itself = driver._check_head


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import sys; sys.exit('The program will terminate.')",
            r"ended with 1, .* said last: The program will terminate\.",
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            r"ended with -9, as Ray does where .* is gone\. What is finished is kept",
        ),
        ("import sys; sys.stdout.buffer.write(b'\\x80\\x04K')", r"ended with 0"),
    ],
)
def test_a_driver_that_ray_ends_is_told(code, said, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(executors, "_DRIVER", [sys.executable, "-c", code])
    with pytest.raises(NoReply, match=said):
        list(find_executor("ray").run(Slow(), ["a"]))


@pytest.mark.slow
def test_a_command_that_stops_early_leaves_no_driver_behind(cluster):
    running = Ray("", 1, False).run(Slow(), ["a", "b", "c", "d"])
    assert next(running) == ("a", "A")
    assert len(drivers()) == 1
    running.close()
    assert drivers() == []


def drivers():
    """Return the drivers that this process has."""
    lines = [Path(f"/proc/{pid}/cmdline") for pid in children(os.getpid())]
    return [line for line in lines if line.exists() and b"mastlens.runs.driver" in line.read_bytes()]


@dataclass(frozen=True)
class Slow(Work):
    """A part that takes a second."""

    def do(self, part: str) -> str:
        time.sleep(1)
        return part.upper()


@pytest.mark.slow
def test_a_worker_with_other_versions_is_told(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_versions", lambda: _versions() | {"torch": "1.0"})
    with pytest.raises(NotTogether, match=r"on the worker at \S+: it has torch \S+ and not 1.0"):
        list(driven(Deadly(str(tmp_path), 0), ["a"]))


@pytest.mark.slow
def test_other_files_on_a_worker_are_told_with_its_name(tiny, cluster, tmp_path):
    lineage = Lineage.open(tiny.rlvr, sft=tiny.sft, base=tiny.base)
    name = lineage.rlvr.projections[0].name
    work = _Measuring(lineage, Options(rank="4", device="cpu"), {"sft": {name: "another"}})
    with pytest.raises(NotTogether, match=r"on the worker at .*another tensor here"):
        list(driven(work, [name]))
    gone = Lineage.open(shutil.copytree(tiny.rlvr, tmp_path / "rlvr"), sft=tiny.sft, base=tiny.base)
    shutil.rmtree(tmp_path / "rlvr")
    with pytest.raises(NotFound, match="Every worker reads the checkpoints itself"):
        list(driven(replace(work, lineage=gone, digests={}), [name]))


@pytest.mark.slow
def test_a_cluster_that_has_no_gpu_or_is_not_there_does_not_keep_one_waiting(cluster, tiny, tmp_path):
    with pytest.raises(MastlensError, match="no GPU to give"):
        list(find_executor("ray", gpus=True).run(Slow(), ["a"]))
    command = [sys.executable, "-m", "mastlens", "geometry", "--base", str(tiny.base), "--rlvr", str(tiny.rlvr)]
    done = subprocess.run(
        [*command, "--rank", "4", "--executor", "ray:127.0.0.1:1", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "There is no Ray at 127.0.0.1:1" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
