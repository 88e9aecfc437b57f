"""Opening a lineage is cheap, whatever its size; the fingerprint is what it always was."""

import hashlib
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.lineage import Lineage, paired
from mastlens.checkpoints.shards import StoredTensor
from tests.conftest import write_lineage


@pytest.fixture
def reads(monkeypatch):
    """Names of the tensors that are read from disk, in order."""
    names = []
    original = StoredTensor.read

    def read(self, *args, **options):
        names.append(self.name)
        return original(self, *args, **options)

    monkeypatch.setattr(StoredTensor, "read", read)
    return names


def alter(source, folder, change):
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    shutil.copytree(source, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_opening_reads_attention_of_three_layers_and_nothing_else(tmp_path, reads):
    folders = write_lineage(tmp_path, num_hidden_layers=9)
    Lineage.open(folders.rlvr, sft=folders.sft, base=folders.base)
    assert {name.split(".")[2] for name in reads} == {"0", "4", "8"}
    assert all("self_attn" in name and "weight" in name for name in reads)
    assert len(reads) <= 2 * (2 + 2 * 3 * 4)  # per pair: one tensor to tell them apart, three layers to relate them


def test_the_last_tensor_can_be_the_one_that_differs(tiny, tmp_path):
    def nudge(tensors):
        tensors["model.norm.weight"][-1] += 1e-3

    other = alter(tiny.rlvr, tmp_path / "nudged", nudge)
    assert Lineage.open(other, sft=tiny.rlvr).stages.keys() == {"sft", "rlvr"}
    same = alter(tiny.rlvr, tmp_path / "same", lambda tensors: None)
    with pytest.raises(m.MastlensError, match="tensor for tensor"):
        Lineage.open(same, sft=tiny.rlvr)


def test_the_same_values_in_another_dtype_are_the_same(tmp_path):
    folders = write_lineage(tmp_path / "bf16", dtype="bfloat16")

    def widen(tensors):
        tensors.update({name: tensor.float() for name, tensor in tensors.items()})

    wide = alter(folders.rlvr, tmp_path / "wide", widen)
    with pytest.raises(m.MastlensError, match="tensor for tensor"):
        Lineage.open(wide, sft=folders.rlvr)
    assert Checkpoint(wide).fingerprint != Checkpoint(folders.rlvr).fingerprint  # other bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_fingerprint_by_hand(tmp_path, dtype):
    folder = write_lineage(tmp_path, dtype=dtype).rlvr
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(folder / "model.safetensors").items()):
        inner = hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest()
        digest.update(f"{name} torch.{dtype} {tuple(tensor.shape)} {inner}\n".encode())
    assert Checkpoint(folder).fingerprint == digest.hexdigest()


def test_rows_are_those_of_the_whole(tiny):
    checkpoint = Checkpoint(tiny.rlvr)
    for name, stored in checkpoint.tensors.items():
        whole = checkpoint.tensor(name)
        parts = [checkpoint.rows(name, start, start + 7) for start in range(0, stored.shape[0], 7)]
        assert torch.equal(torch.cat(parts), whole)


def test_a_pair_with_padded_vocabulary(tmp_path):
    small = write_lineage(tmp_path / "small", vocab_size=384)
    name = "model.embed_tokens.weight"

    def pad(tensors):
        tensors[name] = torch.cat([tensors[name], torch.zeros(16, 32)])

    padded = alter(small.rlvr, tmp_path / "padded", pad)
    config = padded / "config.json"
    before, after = Checkpoint(small.sft), Checkpoint(padded)
    embedding = replace(before.projections[0], name=name, rows=384)
    with pytest.raises(m.MastlensError, match="two models"):  # nothing says that these rows are padding
        paired(before, after, embedding)
    config.write_text(config.read_text().replace('"vocab_size": 384', '"vocab_size": 400'))
    after = Checkpoint(padded)
    with pytest.warns(m.MastlensWarning, match=r"384 x 32.*400 x 32.*first 384"):
        a, b = paired(before, after, embedding)
    assert a.shape == b.shape == (384, 32)
    assert torch.equal(b, Checkpoint(small.rlvr).tensor(name))
    q = before.projections[0]
    assert torch.equal(paired(before, after, q)[1], after.matrix(q))  # no warning
    with pytest.raises(m.MastlensError, match="only"):
        paired(before, after, replace(embedding, name="lm_head.weight"))
