"""The page about clusters, arrays and ranks: what it shows is typed."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks import scale
from tests.conftest import write_problems
from tests.ranks import run_ranks

from .pages import DOCS, read_blocks, run_page


@pytest.mark.slow
def test_what_the_page_types_without_a_launcher(tmp_path, monkeypatch):
    run_page("scale", tmp_path, monkeypatch)
    assert (tmp_path / "run" / "geometry.parquet").is_file()


@pytest.mark.slow
def test_what_the_page_types_under_torchrun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_problems(tmp_path / "forget.jsonl", first=3, count=5)
    launched, *typed = (shlex.split(line)[1:] for line in page_lines("torchrun", "organism"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *launched]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Next: mastlens") == 1
    assert len(pd.read_parquet(tmp_path / "ranks" / "coupling.parquet")) == 32
    assert shutil.which("torchrun", path=sys.exec_prefix + "/bin")
    assert {*map(tuple, (line[:4] for line in (launched, *typed)))} == {("--nproc-per-node", "2", "-m", "mastlens")}
    ended = run_ranks([line[4:] for line in typed])  # the launcher was seen to work: this takes a third of its time
    assert [line[4] for line in typed] == ["unlearn", "causal-map", "token-differences"]
    assert [one.codes for one in ended] == [[0] * 3] * 2, ended
    assert ended[0].out.count("Next: mastlens") == 3 and not ended[1].out
    for written in ("edit.safetensors", "causal_map.parquet", "tokens.parquet"):
        assert (tmp_path / "ranks" / written).is_file()


def page_lines(*words: str) -> list[str]:
    """Return the lines of the page's blocks that have all of these words."""
    lines = [line for block in read_blocks(DOCS / "scale.md") for line in block.code.splitlines()]
    return [line for line in lines if all(word in line for word in words)]


def test_the_table_on_paper_is_what_its_command_gives():
    page = (DOCS / "scale.md").read_text(encoding="utf-8")
    lines = scale.paper()
    assert len(lines) == 2 + 4 * 6
    assert "\n".join(["", *lines, ""]) in page
    for size in ("7B", "32B", "70B", "671B"):
        assert sum(line.startswith(f"| {size} |") for line in lines) == 6
    slower = scale.paper(reading=scale.READING / 2)  # the rates are what it follows
    assert slower[2:] != lines[2:] and [line.split("|")[:9] for line in slower] == [
        line.split("|")[:9] for line in lines
    ]


def test_what_the_page_says_of_tensor_parallel_plans():
    files = list((Path(transformers.__file__).parent / "models").glob("*/configuration_*.py"))
    share = sum("base_model_tp_plan" in file.read_text(encoding="utf-8") for file in files) / len(files)
    assert 0.15 < share < 0.35  # a quarter
    kinds = {name: CONFIG_MAPPING[name] for name in ("gpt2", "qwen2", "deepseek_v3")}
    plans = {name: getattr(kind, "base_model_tp_plan", None) for name, kind in kinds.items()}
    assert plans["gpt2"] is None and any("self_attn" in place for place in plans["qwen2"])
    assert plans["deepseek_v3"] and not any("self_attn" in place for place in plans["deepseek_v3"])


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
