"""Checkpoints at an address: what is read is what lies there, and no more of it than was asked for."""

import json
import shutil
import struct

import fsspec
import pytest
import torch

import mastlens as m
from mastlens.checkpoints import folders
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.errors import BadFile, MissingPackage, NoReply, NotFound
from tests.objects import object_server

SHARD = "model.safetensors"


@pytest.fixture
def served(tiny, tmp_path, monkeypatch):
    """A server, its folder, and a cache of nobody's."""
    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path / "cache"))
    for stage in ("base", "sft", "rlvr"):
        shutil.copytree(getattr(tiny, stage), tmp_path / "objects" / "lineage" / stage)
    with object_server(tmp_path / "objects") as server:
        yield server, tmp_path / "objects" / "lineage"


def header_of(file):
    (length,) = struct.unpack("<Q", file.read_bytes()[:8])
    return 8 + length, json.loads(file.read_bytes()[8 : 8 + length])


def test_only_the_bytes_that_are_asked_for_are_read(tiny, served):
    server, folder = served
    shard = f"lineage/rlvr/{SHARD}"
    remote, here = Checkpoint(f"{server.http}/lineage/rlvr/"), Checkpoint(tiny.rlvr)
    head, _ = header_of(folder / "rlvr" / SHARD)
    assert sum(server.sent[shard]) == head  # opening reads the header, once
    server.sent.clear()
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(remote.tensor(name), here.tensor(name))
    assert server.sent == {shard: [32 * 64 * 4]}
    server.sent.clear()
    assert torch.equal(remote.rows(name, 3, 7), here.tensor(name)[3:7])
    assert server.sent == {shard: [4 * 64 * 4]}
    assert remote.tensor(name).data_ptr() != remote.tensor(name).data_ptr()
    server.sent.clear()
    again = Checkpoint(f"{server.http}/lineage/rlvr")  # what has not changed is not fetched again
    assert again.tensors == remote.tensors and shard not in server.sent
    assert all(stored.file.stat().st_size == head for stored in remote.tensors.values())


def test_a_remote_lineage_is_the_same_lineage(tiny, served, tmp_path):
    server, folder = served
    places = {stage: f"{server.http}/lineage/{stage}" for stage in ("base", "sft", "rlvr")}
    for stage, place in places.items():
        assert Checkpoint(place).fingerprint == Checkpoint(getattr(tiny, stage)).fingerprint
        assert Checkpoint(place).behaviour == Checkpoint(getattr(tiny, stage)).behaviour
    largest = max(size for path, sizes in server.sent.items() if path.endswith(SHARD) for size in sizes)
    assert largest <= 384 * 32 * 4 < (folder / "rlvr" / SHARD).stat().st_size / 2  # the embeddings, and never a shard
    local = {stage: getattr(tiny, stage) for stage in places}
    found, wanted = (m.geometry(**where, rank=4, workers=1, progress=False).table for where in (places, local))
    assert found.equals(wanted)
    edit = m.unlearn(
        rlvr=places["rlvr"], forget=tiny.forget, objective="ga", steps=1, lr=1e-3, where="q_proj", progress=False
    ).edit
    edited = m.apply_edit(edit, to=places["rlvr"], out=tmp_path / "edited")
    assert torch.equal(Checkpoint(edited).tensor(edit.names[0]), edit.after[edit.names[0]])
    assert Checkpoint(edited).tensors.keys() == Checkpoint(tiny.rlvr).tensors.keys()
    assert edit.source == Checkpoint(tiny.rlvr).fingerprint


def test_a_remote_model_says_what_the_local_one_says(tiny, served):
    server, _ = served
    ids = torch.arange(5, 25)[None]
    remote, here = (Checkpoint(spec).load_model() for spec in (f"{server.http}/lineage/rlvr", tiny.rlvr))
    assert torch.equal(remote(input_ids=ids).logits, here(input_ids=ids).logits)
    assert remote.generation_config.to_dict() == here.generation_config.to_dict()
    assert not any(value.is_meta for value in remote.state_dict().values())


def test_a_checkpoint_that_changed_is_another_one(served):
    server, folder = served
    place = f"{server.http}/lineage/rlvr"
    before = Checkpoint(place).fingerprint
    data = bytearray((folder / "rlvr" / SHARD).read_bytes())
    data[-1] ^= 1
    (folder / "rlvr" / SHARD).write_bytes(data)
    assert Checkpoint(place).fingerprint != before


def test_s3_and_memory_are_read_alike(tiny, served, monkeypatch):
    pytest.importorskip("s3fs")
    server, folder = served
    for key, value in (("ENDPOINT_URL", server.http), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"AWS_{key}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    memory = fsspec.filesystem("memory")
    memory.put(str(folder / "rlvr"), "/bucket/rlvr", recursive=True)
    here = Checkpoint(tiny.rlvr)
    for place in ("s3://lineage/rlvr", "memory://bucket/rlvr"):
        remote = Checkpoint(place)
        assert remote.spec == place and remote.fingerprint == here.fingerprint
        assert torch.equal(remote.rows("model.norm.weight", 1, 5), here.tensor("model.norm.weight")[1:5])
    assert max(server.sent[f"lineage/rlvr/{SHARD}"]) < (folder / "rlvr" / SHARD).stat().st_size / 2
    assert Checkpoint(f"file://{tiny.rlvr}").folder == tiny.rlvr


@pytest.mark.parametrize(
    "change",
    [
        lambda data, head, told: data[: len(data) // 2],
        lambda data, head, told: data[:7],
        lambda data, head, told: struct.pack("<Q", 1 << 60) + data[8:],
        lambda data, head, told: rewritten(data, head, told, dtype="F64"),
        lambda data, head, told: rewritten(data, head, told, data_offsets=[-128, 0]),
        lambda data, head, told: rewritten(data, head, told, shape=[1 << 62, 1 << 62]),
        lambda data, head, told: data[:8] + b"[" * (head - 8) + data[head:],
    ],
)
def test_a_damaged_file_is_told(served, change):
    server, folder = served
    file = folder / "rlvr" / SHARD
    head, told = header_of(file)
    file.write_bytes(change(file.read_bytes(), head, told))
    with pytest.raises(BadFile, match=r"rlvr/model\.safetensors"):
        Checkpoint(f"{server.http}/lineage/rlvr")


def rewritten(data, head, told, **changes):
    told["model.norm.weight"] |= changes
    text = json.dumps(told).encode()
    return struct.pack("<Q", len(text)) + text + data[head:]


def test_what_is_not_there_or_not_reached_is_told(served, monkeypatch):
    server, folder = served
    (folder / "rlvr" / "config.json").unlink()
    for place, kind, said in (
        (f"{server.http}/lineage/rlvr", NotFound, r"no config\.json"),
        (f"{server.http}/lineage/none", NotFound, "nothing at"),
        ("http://127.0.0.1:9/none", NoReply, "cannot be read"),
        ("nosuchthing://bucket/rlvr", NotFound, "fsspec"),
    ):
        with pytest.raises(kind, match=said):
            Checkpoint(place)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda address: (_ for _ in ()).throw(ImportError("Install zzzfs.")))
    with pytest.raises(MissingPackage, match=r"zzzfs.*mastlens\[remote\]"):
        folders.resolve_folder("zzz://bucket/rlvr")
