"""The page about clusters, arrays and ranks: what it shows is typed."""

import shlex
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests.conftest import write_problems

from .pages import DOCS, read_blocks, run_page


@pytest.mark.slow
def test_what_the_page_types_without_a_launcher(tmp_path, monkeypatch):
    run_page("scale", tmp_path, monkeypatch)
    assert (tmp_path / "run" / "geometry.parquet").is_file()


@pytest.mark.slow
def test_what_the_page_types_under_torchrun(tmp_path):
    write_problems(tmp_path / "forget.jsonl", first=3, count=5)
    blocks = read_blocks(DOCS / "scale.md")
    lines = [
        line
        for block in blocks
        for line in block.code.splitlines()
        if line.startswith("torchrun") and "organism" in line
    ]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)[1:]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Next: mastlens") == 1
    assert len(pd.read_parquet(tmp_path / "ranks" / "coupling.parquet")) == 32
    assert (tmp_path / "ranks" / "edit.safetensors").is_file() and shutil.which(
        "torchrun", path=sys.exec_prefix + "/bin"
    )


@pytest.mark.slow
def test_what_the_page_hands_to_a_queue(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    (code,) = [
        block.code
        for block in read_blocks(DOCS / "scale.md")
        if "submitit" in block.code and block.language == "python"
    ]
    exec(compile(code, "docs/scale.md", "exec"), {"__name__": "page"})
    tables = [path.read_bytes() for path in (tmp_path / "merged").glob("*.parquet")]
    assert len(tables) == 1 and not (tmp_path / "merged" / "geometry.shard.jsonl").exists()
