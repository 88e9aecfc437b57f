"""Device and type: what auto stands for, on hardware of every kind; what a record keeps; the names of before."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import mastlens as m
from mastlens.analysis.coupling.settings import CoupleSettings
from mastlens.checkpoints import computing
from mastlens.checkpoints.computing import Computing, fast_bfloat16
from mastlens.cli import main
from mastlens.cli.registry import COMMANDS
from mastlens.errors import BadSetting, NotSupported, StageRefused
from mastlens.problems.settings import Reading
from mastlens.runs.devices import check_device, device_of


def stored_as(folder, out, dtype):
    """Copy a checkpoint with its weights in another type."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.fixture(scope="module")
def short(tiny, tmp_path_factory):
    return {
        dtype: m.Checkpoint(stored_as(tiny.rlvr, tmp_path_factory.mktemp("short") / "rlvr", dtype))
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    }


@pytest.mark.parametrize("fast", [True, False])
def test_auto_takes_16_bits_where_they_are_fast_and_lose_nothing(short, fast, monkeypatch):
    monkeypatch.setattr(computing, "fast_bfloat16", lambda device: fast)
    half, other, whole = short.values()
    took = "bfloat16" if fast else "float32"
    assert Computing.of("cpu", "auto", half) == Computing("cpu", took)
    assert Computing.of("cpu", "auto", half, other) == Computing("cpu", took)
    assert Computing.of("cpu", "auto", half, whole) == Computing("cpu", "float32")  # both are computed alike
    assert Computing.of("cpu", "auto", whole) == Computing("cpu", "float32")
    assert Computing.of("cpu", "auto") == Computing("cpu", "float32")
    for dtype in ("float32", "bfloat16", "float16"):
        assert Computing.of("cpu", dtype, whole) == Computing("cpu", dtype)
    assert Computing("cpu", "bfloat16").load(whole).dtype == torch.bfloat16
    assert Computing("cpu", "float32").load(half).dtype == torch.float32


@pytest.mark.parametrize("units", [(False, False), (True, False), (False, True)])
def test_a_processor_is_asked_for_its_units(units, monkeypatch):
    for name, has in zip(("avx512_bf16", "amx_tile"), units, strict=True):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda has=has: has)
    assert fast_bfloat16("cpu") == any(units)


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_is_asked_for_its_generation(capability, fast, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_bfloat16("cuda:1") == fast


def test_auto_is_the_best_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_of("auto") == "cpu"
    assert device_of("cuda:3") == "cuda:3"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_of("auto") == "mps"
    assert device_of("auto", float64=True) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == device_of("auto", float64=True) == "cuda"


def test_a_device_that_is_not_there_is_said(monkeypatch, tiny, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(NotSupported, match=r"--device cuda: torch sees no cuda device here\. Use --device auto"):
        check_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda:1")
    with pytest.raises(NotSupported, match="torch sees 2 cuda devices"):
        check_device("cuda:2")
    with pytest.raises(BadSetting, match="is not a torch device"):
        check_device("gpu")
    with pytest.raises(BadSetting, match="is not a torch device"):  # in Python, too
        m.couple(sft=tiny.sft, rlvr=tiny.rlvr, forget=tiny.forget, device="gpu")
    assert main(["couple", "--sft", "a", "--rlvr", "b", "--forget", "c", "--out", "d", "--dtype", "float8"]) == 2
    assert "There is no dtype 'float8'" in capsys.readouterr().err


def test_everything_that_reads_problems_declares_type_batches_and_limit_once():
    reading = [command.settings for command in COMMANDS if issubclass(command.settings, Reading)]
    assert len(reading) == 23
    for settings in reading:
        assert {"dtype", "batch_size", "limit", "device", "chat_template"} <= set(settings.__dataclass_fields__)
    with pytest.raises(BadSetting, match="at least 1"):
        CoupleSettings(sft="a", rlvr="b", forget="c", limit=0)


def test_the_type_is_in_the_record_and_another_is_refused(tiny, tmp_path):
    asked = {"sft": tiny.sft, "rlvr": tiny.rlvr, "forget": tiny.forget, "spectrum": False, "progress": False}
    asked |= {"out": tmp_path, "limit": 3}
    first = m.couple(**asked).table
    record = json.loads((tmp_path / "run.json").read_text())
    told = record["stages"]["couple"]
    assert told["settings"]["dtype"] == "float32"  # what it came to
    assert "dtype" not in told["command"]["settings"]  # what was asked: the default
    assert told["cost"]["device"] == device_of("auto")
    with pytest.raises(StageRefused, match=r"dtype \(float32, now bfloat16\)"):
        m.couple(**asked, dtype="bfloat16")
    # A record from before there were types tells of none: it was float32.
    for key in ("dtype", "limit"):
        del told["settings"][key]
    told["settings"]["autocast"] = False
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(StageRefused, match=r"limit \(None, now 3\)"):
        m.couple(**asked)
    told["settings"]["limit"] = 3
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert m.couple(**asked).table.equals(first)
    rounded = m.couple(**asked, dtype="bfloat16", overwrite=True).table
    assert json.loads((tmp_path / "run.json").read_text())["stages"]["couple"]["settings"]["dtype"] == "bfloat16"
    assert not rounded["forget_inner"].equals(first["forget_inner"])


def test_the_names_of_before_still_work(tiny, tmp_path):
    asked = {"sft": tiny.sft, "rlvr": tiny.rlvr, "forget": tiny.forget, "spectrum": False, "progress": False}
    with pytest.warns(DeprecationWarning, match="autocast=True is now dtype='bfloat16'"):
        old = m.couple(**asked, autocast=True, limit=2)
    assert old.table.equals(m.couple(**asked, dtype="bfloat16", limit=2).table)
    with pytest.warns(DeprecationWarning, match="precision= is now called dtype="):
        made = m.unlearn(
            rlvr=tiny.rlvr, forget=tiny.forget, objective="ga", steps=1, lr=1e-4, where="layers.1.self_attn.o",
            precision="bfloat16", progress=False,
        )  # fmt: skip
    assert made.edit.settings["precision"] == "bfloat16"
    line = ["couple", "--sft", tiny.sft, "--rlvr", tiny.rlvr, "--forget", tiny.forget, "--no-spectrum", "--limit", "2"]
    assert main([*map(str, line), "--autocast", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["stages"]["couple"]["settings"]["dtype"] == "bfloat16"
