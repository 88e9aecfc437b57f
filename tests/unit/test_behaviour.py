"""What identifies a model beside its weights: a change of any of it is noticed, named, and never mixed into a table."""

import json
import os
import shutil
from contextlib import suppress

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.runs.ledger import Ledger
from mastlens.runs.stages import RECORD


def in_json(file, **changes):
    def change(folder):
        path = folder / file
        said = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(said | changes))

    return change


def new_token(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["What is"])
    tokenizer.save(str(folder / "tokenizer.json"))


TEMPLATE = "{{ messages[0]['content'] }} REALLY:"
# What is changed, and what the message calls it.
CHANGES = {
    "rope": (in_json("config.json", rope_theta=123.0), "config.json"),
    "epsilon": (in_json("config.json", rms_norm_eps=1e-2), "config.json"),
    "penalty": (in_json("generation_config.json", repetition_penalty=1.5), "generation_config.json"),
    "template": (in_json("tokenizer_config.json", chat_template=TEMPLATE), "chat template"),
    "template in its own file": (lambda f: (f / "chat_template.jinja").write_text(TEMPLATE), "chat template"),
    "tokenizer": (new_token, "tokenizer.json"),
    "side": (in_json("tokenizer_config.json", add_bos_token=True), "tokenizer_config.json"),
    "code": (lambda f: (f / "modeling_own.py").write_text("x = 1"), "modeling_own.py"),
}
RUNS = {
    "couple": lambda t, model: {"sft": t.sft, "rlvr": model, "forget": t.forget, "retain": t.retain, "directions": 2},
    "causal_map": lambda t, model: {"sft": t.sft, "rlvr": model, "forget": t.forget, "limit": 3},
    "cumulative_curves": lambda t, model: {"sft": t.sft, "rlvr": model, "forget": t.forget, "limit": 3, "draws": 1,
        "ranking": [p.name for p in Checkpoint(model).projections],
    },
    "score": lambda t, model: {
        "rule": "path", "sft": t.sft, "rlvr": model, "forget": t.forget, "limit": 2, "parameters": {"points": 1.0},
    },
    "evaluate": lambda t, model: {"model": model, "splits": {"forget": t.forget}, "max_new_tokens": 1},
    "unlearn": lambda t, model: {
        "rlvr": model, "forget": t.forget, "objective": "ga", "steps": 1, "lr": 1e-3, "where": "v_proj",
    },
    "generate_traces": lambda t, model: {"model": model, "forget": t.forget, "max_new_tokens": 2},
    "token_differences": lambda t, model: {"sft": t.sft, "rlvr": model, "splits": {"forget": t.forget}},
    "inside_depart": lambda t, model: {"sft": t.sft, "rlvr": model, "splits": {"f": t.forget}, "limit": 2, "draws": 0},
    "attack": lambda t, model: {
        "name": "quantise", "model": model, "control": t.sft, "splits": {"forget": t.forget}, "limit": 2,
        "max_new_tokens": 1, "formats": ["int8"],
    },
}  # fmt: skip


@pytest.fixture
def model(tiny, tmp_path):
    return shutil.copytree(tiny.rlvr, tmp_path / "model")


def run(name, tiny, model, out):
    asked = RUNS[name](tiny, model)
    return getattr(m, name)(*([asked.pop("name")] if "name" in asked else []), **asked, out=out, progress=False)


def files(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", sorted(CHANGES))
def test_every_change_is_seen_and_named_and_weights_stay(model, kind):
    before = Checkpoint(model)
    fingerprint, behaviour, digest = before.fingerprint, before.behaviour, before.behaviour_digest
    change, part = CHANGES[kind]
    change(model)
    after = Checkpoint(model)
    assert after.fingerprint == fingerprint  # what geometry and edits are tied to
    assert after.behaviour_digest != digest
    assert part in {name for name in after.behaviour if after.behaviour[name] != behaviour.get(name)}


@given(st.permutations(["a", "b", "c"]), st.sampled_from([None, 2]))
@settings(max_examples=10, deadline=None)
def test_how_a_file_is_written_is_no_change(tmp_path_factory, order, indent):
    folder = tmp_path_factory.mktemp("written")
    values = {"a": 1, "b": [1.5, None], "c": {"d": "ü"}}
    (folder / "config.json").write_text(json.dumps({key: values[key] for key in order}, indent=indent))
    (folder / "notes.txt").write_text(str(order))  # nothing that transformers reads
    from mastlens.checkpoints.behaviour import MODEL, TOKENIZER, behaviour_parts, digest_of

    assert behaviour_parts(folder, MODEL + TOKENIZER) == {"config.json": digest_of(values)}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_every_stage_that_runs_the_model_is_tied_to_it(tiny, model, tmp_path, name):
    out = tmp_path / "out"
    run(name, tiny, model, out)
    made = files(out)
    run(name, tiny, model, out)
    assert files(out) == made  # the same again does nothing
    change, part = CHANGES["template"]
    change(model)
    with pytest.raises(m.MastlensError, match=f"other {part} of the (rlvr|model) checkpoint"):
        run(name, tiny, model, out)
    assert files(out) == made


def test_geometry_and_edits_are_tied_to_the_weights(tiny, model, tmp_path):
    asked = {"base": tiny.base, "sft": tiny.sft, "rank": 2, "out": tmp_path / "g", "progress": False}
    m.geometry(rlvr=model, **asked)
    made = files(tmp_path / "g")
    edit = run("unlearn", tiny, model, tmp_path / "u").edit
    for change, _ in CHANGES.values():
        change(model)
    m.geometry(rlvr=model, **asked)
    assert files(tmp_path / "g") == made
    edit.check_source(Checkpoint(model))  # does not raise


def test_a_folder_of_before_is_computed_again_with_that_reason(tiny, model, tmp_path):
    out = tmp_path / "out"
    run("evaluate", tiny, model, out)
    table = (out / "responses.parquet").read_bytes()
    record = json.loads((out / RECORD).read_text())
    told = record["stages"]["evaluate"].pop("behaviour")
    (out / RECORD).write_text(json.dumps(record))
    (out / "responses.parquet").touch()
    with pytest.warns(m.MastlensWarning, match=r"computed again.*does not say.*model"):
        run("evaluate", tiny, model, out)
    assert (out / "responses.parquet").read_bytes() == table
    assert json.loads((out / RECORD).read_text())["stages"]["evaluate"]["behaviour"] == told
    run("evaluate", tiny, model, out)  # and now it is known: no warning, which would be an error here


def test_stages_of_one_folder_have_one_behaviour(tiny, model, tmp_path):
    out = tmp_path / "out"
    run("couple", tiny, model, out)
    CHANGES["template"][0](model)
    with pytest.raises(m.MastlensError, match=r"stage 'couple'.*same weights.*rlvr.*another chat template"):
        run("causal_map", tiny, model, out)


def test_a_resumed_table_has_one_prompt(tiny, model, tmp_path, monkeypatch):
    """Stopped after some responses, the template changed, started again: nothing of the old prompt is in the table."""
    out, plain, count = tmp_path / "out", Ledger.add, []

    def stop(self, name, value):
        plain(self, name, value)
        count.append(name)
        if len(count) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        run("evaluate", tiny, model, out)
    monkeypatch.setattr(Ledger, "add", plain)
    assert list(out.glob("*.partial.jsonl"))
    CHANGES["template"][0](model)
    run("evaluate", tiny, model, out)
    run("evaluate", tiny, model, tmp_path / "fresh")
    mixed, fresh = (pd.read_parquet(folder / "responses.parquet") for folder in (out, tmp_path / "fresh"))
    pd.testing.assert_frame_equal(mixed, fresh)
    assert fresh["prompt"].str.endswith("REALLY:").all()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_lines_are_dropped_and_changed_ones_not_believed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("ledger") / "l"
    values = {"a": [1.5, "x"], "b": {"text": "ü", "n": None}, "c": float("inf"), "d": [[], ""]}

    def stopped(key):
        with suppress(KeyboardInterrupt), Ledger(path, key) as ledger:
            for name in values:
                if name not in ledger:
                    ledger.add(name, values[name])
            raise KeyboardInterrupt

    stopped("key")
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255))
    path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    hit = next(i for i in range(len(lines)) if place < sum(map(len, lines[: i + 1])))
    with Ledger(path, "key") as ledger:
        for i, name in enumerate(values):
            if i not in (hit, hit + 1) or name in ledger:
                assert ledger[name] == values[name]
    path.unlink(missing_ok=True)
    stopped("key")
    assert path.read_bytes() == whole
    with Ledger(path, "another key") as ledger:
        assert not any(name in ledger for name in values)


def test_an_adapter_brings_its_settings_and_its_tokenizer(tiny, tmp_path):
    pytest.importorskip("peft")
    from tests.reference.test_adapters import write_adapter

    adapter = tmp_path / "adapter"
    write_adapter(tiny.sft, adapter, merge=False, target_modules=["q_proj"])
    base, own = Checkpoint(tiny.sft), Checkpoint(adapter)
    assert {name: part for name, part in own.behaviour.items() if name != "adapter_config.json"} == base.behaviour
    moved = json.loads((adapter / "adapter_config.json").read_text())
    copy = shutil.copytree(tiny.sft, tmp_path / "copy")
    (adapter / "adapter_config.json").write_text(json.dumps(moved | {"base_model_name_or_path": str(copy)}))
    assert Checkpoint(adapter).behaviour == own.behaviour  # where the base lies does not matter
    (adapter / "adapter_config.json").write_text(json.dumps(moved | {"lora_dropout": 0.5}))
    assert Checkpoint(adapter).behaviour != own.behaviour
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny.sft / name, adapter / name)
    CHANGES["template"][0](adapter)
    changed = Checkpoint(adapter).behaviour
    assert "chat template" in changed and changed["config.json"] == own.behaviour["config.json"]


def test_the_digest_of_the_weights_is_remembered_and_verified_on_demand(model, monkeypatch):
    from mastlens.checkpoints import digests as module

    read = []
    whole = module.tensor_digests
    monkeypatch.setattr(module, "tensor_digests", lambda c: read.append(c.spec) or whole(c))
    weights = model / "model.safetensors"
    fingerprint = Checkpoint(model).fingerprint
    assert Checkpoint(model).fingerprint == fingerprint
    assert len(read) == 2  # just written: within a clock's tick a second write could go unseen
    monkeypatch.setattr(module, "_SETTLED", -1.0)
    assert {Checkpoint(model).fingerprint for _ in range(3)} == {fingerprint}
    assert len(read) == 3
    data, times = bytearray(weights.read_bytes()), weights.stat()
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # set back; the time of the change cannot be
    assert Checkpoint(model).fingerprint != fingerprint
    assert len(read) == 4
    states = module._state
    monkeypatch.setattr(module, "_state", lambda c: [one._replace(changed=(0, 0)) for one in states(c)])
    assert Checkpoint(model).fingerprint == Checkpoint(model).fingerprint
    Checkpoint(model).verify()
    data[-1] ^= 1
    weights.write_bytes(data)  # what no time tells
    with pytest.raises(m.MastlensError, match="not what they were"):
        Checkpoint(model).verify()
    assert Checkpoint(model).fingerprint == fingerprint  # and the memory is corrected


@pytest.mark.parametrize(
    "damage",
    [b"", b"[]", b"[" * 100_000, b'{"digests": 3}', b"\xff\xfe", b'{"digests": {"a": "b"}, "fingerprint": ""}'],
)
def test_a_damaged_memory_is_none(model, monkeypatch, tmp_path, damage):
    from mastlens.checkpoints import digests as module

    monkeypatch.setattr(module, "_SETTLED", -1.0)
    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path / "cache"))
    fingerprint = Checkpoint(model).fingerprint
    (kept,) = (tmp_path / "cache").rglob("*.json")
    kept.write_bytes(damage)
    assert Checkpoint(model).fingerprint == fingerprint
    kept.unlink()
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file, so that nothing can be kept")
    assert Checkpoint(model).fingerprint == fingerprint


def test_the_command_line_verifies(tiny, capsys):
    from mastlens.cli import main

    assert main(["inspect", str(tiny.sft), "--verify", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["behaviour"] == Checkpoint(tiny.sft).behaviour_digest != told["fingerprint"]
