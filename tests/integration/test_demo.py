"""The main job on the shipped organism, with few items and few steps so that it is quick."""

import json
import re
import shutil

import pandas as pd
import pytest

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.organisms import get_organism, lineage_folder
from mastlens.reporting.demonstration import DemoSettings, demo
from mastlens.unlearning.matching import Grid
from tests.columns import PROBES, check_table

ITEMS = 12
SETTINGS = DemoSettings(
    grid=Grid(learning_rates=(1e-3, 3e-3), steps=4, every=2, batch_size=8), draws=2, evaluation_batch=36
)


@pytest.fixture(scope="module")
def small_lineage(tmp_path_factory):
    """The shipped lineage with only the first lines of each problem file."""
    folder = tmp_path_factory.mktemp("lineage")
    for stage in get_organism("qwen2").stages:
        (folder / stage).symlink_to(lineage_folder("qwen2") / stage)
    for file in lineage_folder("qwen2").glob("*.jsonl"):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / file.name).write_text("".join(lines[:ITEMS]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(small_lineage, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, demo(out, settings=SETTINGS, lineage=small_lineage, progress=False)


def results(folder):
    """Every table and tensor file of a run, by its place."""
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".parquet", ".safetensors")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_every_arm_is_compared_on_every_split(run):
    _, result = run
    arms = ["rlvr", "sft", "rlvr-retain", "selected", "all-same-strength", "all-matched", "random-1", "random-2"]
    assert result.arms["arm"].tolist() == [*arms, "negated"]
    for split in ("forget", "retain-math", "retain-gsm", "retain"):
        rows = result.table[result.table["split"] == split]
        assert rows["arm"].tolist() == result.arms["arm"].tolist()
        # b and c are counts on the same items, and the difference is theirs
        assert ((rows["c"] - rows["b"]) / rows["n"]).tolist() == pytest.approx(rows["difference"].tolist())
    assert f"{result.table.iloc[0]['accuracy']:.1%}" in result.text


def test_arms_change_what_they_say_and_nothing_else(run, small_lineage):
    out, result = run
    source = Checkpoint(small_lineage / "rlvr")
    sizes = {}
    for arm in ("selected", "random-1", "random-2", "negated", "all-matched", "all-same-strength"):
        edit = Edit.load(out / "arms" / arm)
        edit.check_source(source)
        # The model had its old weights again before the edit was saved: what was saved must not have followed it.
        assert all((edit.after[name] != edit.before[name]).any() for name in edit.names)
        sizes[arm] = sum(t.numel() for t in edit.after.values())
        assert not any(name.endswith("bias") or "norm" in name for name in edit.names)
    assert sizes["random-1"] == sizes["random-2"] == sizes["selected"] == sizes["negated"]
    assert sizes["all-matched"] > 2 * sizes["selected"]
    negated = Edit.load(out / "arms" / "negated")
    sft = Checkpoint(small_lineage / "sft")
    assert all((negated.after[name] == sft.tensor(name)).all() for name in negated.names)
    same = result.arms.set_index("arm").loc[["selected", "all-same-strength"], ["lr", "step"]]
    assert (same.iloc[0] == same.iloc[1]).all()


def test_gradients_never_see_calibration_or_eval(run, small_lineage):
    out, _ = run
    record = json.loads((out / "run.json").read_text())
    from mastlens.runs.files import sha256_file

    seen = set(record["stages"]["couple"]["inputs"].values())
    assert seen == {sha256_file(small_lineage / f"{side}-train.jsonl") for side in ("forget", "retain")}


def test_its_tables_have_the_declared_columns(run):
    out, _ = run
    for name in ("summary", "arms", "arms/selected/search"):
        check_table(out / f"{name}.parquet", "mastlens demo")
    check_table(out / "arms" / "selected" / "steps.parquet", "mastlens unlearn", without=(PROBES,))


def test_a_second_run_does_nothing(run, small_lineage):
    out, first = run
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("edit.safetensors")}
    stamps |= {p: p.stat().st_mtime_ns for p in out.rglob("responses.parquet")}
    again = demo(out, settings=SETTINGS, lineage=small_lineage, progress=False)
    pd.testing.assert_frame_equal(again.table, first.table)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


@pytest.mark.long
def test_a_fresh_run_gives_the_same_bytes(run, small_lineage, tmp_path):
    before = results(run[0])
    demo(tmp_path / "fresh", settings=SETTINGS, lineage=small_lineage, progress=False)
    after = results(tmp_path / "fresh")
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.long
def test_another_seed_gives_other_edits(run, small_lineage, tmp_path):
    out, _ = run
    demo(tmp_path / "other", settings=SETTINGS, lineage=small_lineage, seed=1, progress=False)
    ours, other = results(out), results(tmp_path / "other")
    assert ours["arms/selected/edit.safetensors"] != other["arms/selected/edit.safetensors"]
    assert ours["geometry.parquet"] == other["geometry.parquet"]


def test_the_page_stands_alone(run):
    out, result = run
    page = result.report.read_text(encoding="utf-8")
    assert result.report == out / "report.html"
    assert not re.search(r"(?:src|href)=[\"']?https?:", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    for heading in ("What came out", "Where the increment lies", "Which projections were selected", "Limits"):
        assert heading in page
    shutil.rmtree(out / "arms" / "random-1")  # a page is made from what is there
    from mastlens.reporting import report

    assert report(out).read_text(encoding="utf-8")
