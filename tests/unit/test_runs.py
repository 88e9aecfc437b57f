"""The output folder: what is done is not done again, what differs is refused, what breaks leaves nothing behind."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers

import mastlens as m
from mastlens.analysis.increments import singular_values

STAGES = ("geometry", "couple", "rank", "unlearn", "evaluate")
OUTPUTS = {
    "geometry": ["geometry.parquet"],
    "couple": ["coupling.parquet"],
    "rank": ["ranking.parquet"],
    "unlearn": ["edit.safetensors", "steps.parquet"],
    "evaluate": ["responses.parquet", "accuracy.json"],
}
# One change a stage that decides the result.
CHANGES = {
    "geometry": {"rank": 5},
    "couple": {"retain": None},
    "rank": {"top": 2},
    "unlearn": {"lr": 2e-3},
    "evaluate": {"max_new_tokens": 2},
}


def call(stage, tiny, out, **changes):
    """Run a stage with small settings."""
    if stage == "rank":
        return m.rank(out, **({"top": 3} | changes))
    settings = {
        "geometry": {"base": tiny.base, "sft": tiny.sft, "rlvr": tiny.rlvr, "rank": 4},
        "couple": {"sft": tiny.sft, "rlvr": tiny.rlvr, "forget": tiny.forget, "retain": tiny.retain},
        "unlearn": {
            "rlvr": tiny.rlvr, "forget": tiny.forget, "objective": "ga", "steps": 2, "lr": 1e-3, "where": "v_proj",
        },
        "evaluate": {"model": tiny.rlvr, "splits": {"forget": tiny.forget}, "max_new_tokens": 1},
    }[stage]  # fmt: skip
    return getattr(m, stage)(**(settings | {"out": out, "progress": False} | changes))


def prepare(stage, tiny, out):
    """Make what the stage reads."""
    if stage == "rank":
        call("geometry", tiny, out)
        call("couple", tiny, out)


def state(folder):
    """Return name to (bytes, time of change) of every file but what an interrupted stage goes on from."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.endswith(".partial.jsonl")
    }


def contents(folder):
    return {name: data for name, (data, _) in state(folder).items()}


@pytest.fixture
def unable(monkeypatch):
    """Return a function after which nothing can be computed any more."""

    def stop(*_, **__):
        raise AssertionError("this was computed")

    def disable():
        for owner, name in (
            (torch.linalg, "svd"),
            (torch.linalg, "svdvals"),
            (torch.linalg, "eigh"),
            (singular_values, "eigh"),
            (transformers.AutoModelForCausalLM, "from_pretrained"),
        ):
            monkeypatch.setattr(owner, name, stop)

    return disable


def table_of(result):
    return result.table.drop(columns=[c for c in ("seconds",) if c in result.table])


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_again_does_nothing(tiny, tmp_path, unable, stage):
    out = tmp_path / "run"
    prepare(stage, tiny, out)
    first = call(stage, tiny, out)
    before = state(out)
    assert set(OUTPUTS[stage]) | {"run.json"} <= set(before)
    unable()
    again = call(stage, tiny, out)
    assert state(out) == before
    pd.testing.assert_frame_equal(again.table, first.table)
    if stage == "unlearn":
        assert {n: t.tolist() for n, t in again.edit.after.items()} == {
            n: t.tolist() for n, t in first.edit.after.items()
        }
    if stage != "rank":  # ranking decomposes nothing and loads no model
        with pytest.raises((AssertionError, m.MastlensError), match="computed"):
            call(stage, tiny, tmp_path / "elsewhere")


@pytest.mark.parametrize("stage", STAGES)
def test_other_settings_are_refused_and_overwrite_replaces(tiny, tmp_path, stage):
    out = tmp_path / "run"
    prepare(stage, tiny, out)
    call(stage, tiny, out)
    before = state(out)
    with pytest.raises(m.MastlensError) as error:
        call(stage, tiny, out, **CHANGES[stage])
    assert "overwrite" in str(error.value).lower()
    assert str(out) in str(error.value)
    assert state(out) == before

    made = call(stage, tiny, out, overwrite=True, **CHANGES[stage])
    after = contents(out)
    assert after[OUTPUTS[stage][0]] != before[OUTPUTS[stage][0]][0]
    assert {n for n in before if n not in after} == set()
    if stage != "rank":
        fresh = call(stage, tiny, tmp_path / "fresh", **CHANGES[stage])
        pd.testing.assert_frame_equal(made.table, fresh.table)
        for name in OUTPUTS[stage]:
            assert after[name] == (tmp_path / "fresh" / name).read_bytes()


@pytest.mark.parametrize("which", ["couple", "unlearn", "evaluate"])
def test_other_problems_under_the_same_name_are_other_inputs(tiny, tmp_path, which):
    path = tmp_path / "forget.jsonl"
    shutil.copy(tiny.forget, path)
    key = {"splits": {"forget": path}} if which == "evaluate" else {"forget": path}
    out = tmp_path / "run"
    call(which, tiny, out, **key)
    before = state(out)
    moved = tmp_path / "moved.jsonl"
    shutil.copy(path, moved)
    same = {"splits": {"forget": moved}} if which == "evaluate" else {"forget": moved}
    call(which, tiny, out, **same)  # the same content elsewhere is the same input
    assert state(out) == before
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(m.MastlensError, match=r"(?i)overwrite"):
        call(which, tiny, out, **key)
    assert state(out) == before


def test_tables_of_different_lineages_never_meet(tiny, tmp_path):
    out = tmp_path / "run"
    call("geometry", tiny, out)
    before = state(out)
    for stage, changes in (("couple", {"sft": tiny.base}), ("unlearn", {"rlvr": tiny.sft})):
        with pytest.raises(m.MastlensError, match=r"(?i)lineage|checkpoint"):
            call(stage, tiny, out, **changes)
        assert state(out) == before
    call("couple", tiny, out)  # the lineage that lives there is welcome
    assert "coupling.parquet" in state(out)
    assert state(out)["geometry.parquet"] == before["geometry.parquet"]


def test_a_ranking_of_an_older_table_is_not_taken_for_the_new_one(tiny, tmp_path):
    for stage in ("geometry", "couple", "rank"):
        call(stage, tiny, tmp_path)
    call("geometry", tiny, tmp_path, rank=5, overwrite=True)
    before = contents(tmp_path)
    with pytest.raises(m.MastlensError, match=r"(?i)overwrite"):
        call("rank", tiny, tmp_path)
    assert contents(tmp_path) == before
    call("rank", tiny, tmp_path, overwrite=True)
    assert contents(tmp_path)["ranking.parquet"] != before["ranking.parquet"]


class Interruption:
    """Let a function work ``calls`` times, then interrupt as Control-C does."""

    def __init__(self, function, calls):
        self.function, self.left = function, calls

    def __call__(self, *args, **kwargs):
        if self.left <= 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.function(*args, **kwargs)


def interrupt(monkeypatch, stage):
    if stage == "geometry":
        monkeypatch.setattr(singular_values, "eigh", Interruption(singular_values.eigh, 3))
    else:
        forward = transformers.Qwen2ForCausalLM.forward
        left = [2]

        def stopping(self, *args, **kwargs):
            if left[0] <= 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(transformers.Qwen2ForCausalLM, "forward", stopping)
        model = transformers.Qwen2Model.forward  # where only the trunk is called
        trunk = [2]

        def stopping_trunk(self, *args, **kwargs):
            if trunk[0] <= 0:
                raise KeyboardInterrupt
            trunk[0] -= 1
            return model(self, *args, **kwargs)

        monkeypatch.setattr(transformers.Qwen2Model, "forward", stopping_trunk)


@pytest.mark.parametrize("stage", ["geometry", "couple", "unlearn", "evaluate"])
def test_an_interrupted_stage_leaves_nothing_half_written(tiny, tmp_path, stage):
    out = tmp_path / "run"
    small = {"batch_size": 2} if stage in ("couple", "evaluate") else {"steps": 6} if stage == "unlearn" else {}
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, stage)
        with pytest.raises(KeyboardInterrupt):
            call(stage, tiny, out, **small)
    assert not out.exists() or not state(out)
    call(stage, tiny, out, **small)  # and the next run is none the worse
    call(stage, tiny, tmp_path / "undisturbed", **small)
    for name in OUTPUTS[stage]:
        again, whole = out / name, tmp_path / "undisturbed" / name
        if name != "responses.parquet":
            assert again.read_bytes() == whole.read_bytes()
            continue
        # What was left was read in other batches: the same responses, log-probabilities to rounding.
        again, whole = pd.read_parquet(again), pd.read_parquet(whole)
        read = ["logprob_solution", "logprob_answer"]
        pd.testing.assert_frame_equal(again[read], whole[read], rtol=1e-5)
        assert again.drop(columns=read).equals(whole.drop(columns=read))


@pytest.mark.parametrize("stage", ["geometry", "unlearn"])
def test_an_interrupted_overwrite_keeps_what_was_there(tiny, tmp_path, stage, unable):
    out = tmp_path / "run"
    call(stage, tiny, out)
    before = state(out)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, stage)
        with pytest.raises(KeyboardInterrupt):
            call(stage, tiny, out, overwrite=True, **CHANGES[stage] | ({"steps": 6} if stage == "unlearn" else {}))
    assert state(out) == before
    unable()
    call(stage, tiny, out)  # still known to be done
    assert state(out) == before


@pytest.mark.parametrize("stage", ["geometry", "couple", "unlearn", "evaluate"])
def test_a_full_disk_leaves_nothing_half_written(tiny, tmp_path, monkeypatch, stage):
    out = tmp_path / "run"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        for name in ("replace", "rename"):
            patch.setattr(os, name, full)
            patch.setattr(Path, name, full)
        with pytest.raises((OSError, m.MastlensError)):
            call(stage, tiny, out)
    assert not out.exists() or not state(out)
    call(stage, tiny, out)
    assert set(OUTPUTS[stage]) <= set(state(out))


@pytest.mark.parametrize(
    ("stage", "damage"),
    [("geometry", "changed"), ("geometry", "cut"), ("geometry", "gone"), ("couple", "changed"), ("rank", "changed"),
     ("unlearn", "cut"), ("unlearn", "gone"), ("evaluate", "changed"), ("evaluate", "cut")],
)  # fmt: skip
def test_a_damaged_output_is_made_again(tiny, tmp_path, stage, damage):
    prepare(stage, tiny, tmp_path)
    call(stage, tiny, tmp_path)
    before = contents(tmp_path)
    for name in OUTPUTS[stage][:1]:
        path = tmp_path / name
        if damage == "gone":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(before[name][: len(before[name]) // 2])
        else:
            middle = len(before[name]) // 2
            path.write_bytes(before[name][:middle] + bytes([before[name][middle] ^ 1]) + before[name][middle + 1 :])
    call(stage, tiny, tmp_path)
    after = contents(tmp_path)
    for name in OUTPUTS[stage]:
        assert after[name] == before[name], name


def test_run_json_says_what_was_made_from_what(tiny, tmp_path):
    for stage in STAGES:
        call(stage, tiny, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert set(STAGES) <= set(record)
    for stage in STAGES:
        text = json.dumps(record[stage])
        assert {"inputs", "settings", "versions", "cost"} <= set(record[stage])
        assert torch.__version__ in text
        assert record[stage]["cost"]["seconds"] >= 0
    assert record["geometry"]["lineage"] == {
        role: m.Checkpoint(getattr(tiny, role)).fingerprint for role in ("base", "sft", "rlvr")
    }
    assert record["unlearn"]["settings"]["lr"] == 1e-3
    assert record["unlearn"]["settings"]["seed"] == 0


def test_times_are_in_run_json_alone(tiny, tmp_path):
    records = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        for stage in STAGES:
            call(stage, tiny, folder)
        records.append(json.loads((folder / "run.json").read_text())["stages"])
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert set(one) == set(two)
    assert {name for name in one if one[name] != two[name]} <= {"run.json"}
    for stage in STAGES:  # and there in the cost, and in what was typed, which names the folder
        first, second = ({k: v for k, v in r[stage].items() if k not in ("cost", "command")} for r in records)
        assert first == second


def test_without_out_nothing_is_written(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stage in ("geometry", "couple", "unlearn", "evaluate"):
        call(stage, tiny, None)
    assert list(tmp_path.rglob("*")) == []


def test_killed_between_outputs_and_record_the_same_goes_on_and_another_is_refused(tiny, tmp_path):
    """The note that a stage is under way tells its own outputs from a stranger's; a stage that fails takes it back."""
    out = tmp_path / "run"
    call("geometry", tiny, out)
    made = contents(out)
    record = json.loads((out / "run.json").read_text())
    stage = record["stages"].pop("geometry")
    asked = {part: stage[part] for part in ("lineage", "inputs", "settings")}
    (out / "run.json").write_text(json.dumps(record))
    note = out / ".geometry.under-way.json"
    note.write_text(json.dumps(asked))
    (out / "geometry.parquet").write_bytes(b"torn")
    call("geometry", tiny, out)
    assert {n: d for n, d in contents(out).items() if n != "run.json"} == {
        n: d for n, d in made.items() if n != "run.json"
    }
    assert not note.exists()
    (out / "run.json").write_text(json.dumps(record))
    note.write_text(json.dumps({**asked, "settings": {**asked["settings"], "rank": 99}}))
    with pytest.raises(m.MastlensError, match="no record says"):
        call("geometry", tiny, out)
