"""The script for a GPU works the first time: run here at toy size, every command and what stands beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import gpu
from mastlens.cli.registry import COMMANDS
from mastlens.problems.settings import Reading

ROOT = Path(__file__).parents[2]
# The same passes as causal-map; the same responses as evaluate; passes of two models as inside patch.
ELSEWHERE = {
    "inside direct",
    "inside steer",
    "inside path",
    "inside undo",
    "inside crosscoder",
    "inside dictionary",
    "cumulative-curves",
    "evaluate-safety",
    "depth-score",
}


def test_the_script_runs_every_command_at_toy_size():
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--dry-run"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    size = gpu.SIZES["toy"]
    files = dict.fromkeys(("forget", "retain", "questions"), "x")
    expected = set(gpu.commands(size, dict.fromkeys(gpu.STAGES, "x"), files, Path("x")))
    assert {record["name"] for record in records if record["arm"] == "mastlens"} == expected
    assert {record["name"] for record in records if record["arm"] == "plain"} == set(gpu.BESIDE.values())
    assert all(record["seconds"] > 0 and not record["failed"] for record in records)
    assert "| evaluate, edited |" in done.stdout
    assert "Not run" not in done.stdout


def test_every_command_that_runs_a_model_is_in_it():
    files = dict.fromkeys(("forget", "retain", "questions"), "x")
    lines = gpu.commands(gpu.SIZES["toy"], dict.fromkeys(gpu.STAGES, "x"), files, Path("x")).values()
    typed = {" ".join(words[:2]) for words in lines} | {words[0] for words in lines}
    running = {entry.settings.command for entry in COMMANDS if issubclass(entry.settings, Reading)}
    assert running - typed == ELSEWHERE


def test_a_command_that_fails_is_a_row_and_what_has_no_time_is_told(tmp_path):
    asked = {"size": "toy", "name": "inspect", "arm": "mastlens", "words": ["inspect", str(tmp_path / "nothing")]}
    record = gpu.measure(asked)
    assert record["failed"]
    assert "nothing" in record["why"]
    page = "\n".join(gpu.as_page([record], ["7b"], "it"))
    assert "failed: mastlens:" in page
    assert "Not run, for lack of time or of the model: 7b." in page
    records, left = gpu.measured_all(["toy"], tmp_path, tmp_path / "gpu", minutes=0, here=True)
    assert (records, left) == ([], ["toy"])
