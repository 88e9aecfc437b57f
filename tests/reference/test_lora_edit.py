"""An edit as LoRA: PEFT reads what it should, the stated error is the real one, what has no thin factors is refused."""

import json

import numpy as np
import pytest
import torch

import mastlens as m
from mastlens.cli import main
from mastlens.edits.factors import factored
from mastlens.errors import NotSupported, NotTogether, StageRefused
from tests.lineages import write_lineage

Q = "model.layers.1.self_attn.q_proj.weight"
UP = "model.layers.0.mlp.up_proj.weight"


def edit_of(checkpoint, ranks, noise=0.0):
    """Return an edit whose change of each tensor has a rank, and some noise of full rank."""
    draw = torch.Generator().manual_seed(3)
    before = {name: checkpoint.tensor(name) for name in ranks}
    after = {}
    for name, rank in ranks.items():
        rows, cols = before[name].shape
        change = torch.randn(rows, rank, generator=draw) @ torch.randn(rank, cols, generator=draw)
        change += noise * torch.randn(rows, cols, generator=draw)
        after[name] = (before[name].float() + 0.01 * change).to(before[name].dtype)
    return m.Edit.of_changed(before, after, checkpoint.fingerprint, {"objective": {"name": "made here"}})


def test_the_adapter_is_the_edit_to_the_error_that_is_stated(tiny, tmp_path):
    checkpoint = m.Checkpoint(tiny.rlvr)
    edit = edit_of(checkpoint, {Q: 2, UP: 3})
    made = m.lora_edit(edit, to=checkpoint, error=1e-3, out=tmp_path / "adapter")
    ranks = made.table.set_index("name")["rank"].to_dict()
    assert ranks == {Q: 2, UP: 3}  # of each its own, found and not given
    with_it = m.Checkpoint(f"{tiny.rlvr}+{tmp_path / 'adapter'}")
    for name in checkpoint.tensors:
        if name not in ranks:
            assert torch.equal(with_it.tensor(name), checkpoint.tensor(name)), name
            continue
        wanted = (edit.after[name].double() - edit.before[name].double()).numpy()
        got = (with_it.tensor(name).double() - checkpoint.tensor(name).double()).numpy()
        told = made.table.set_index("name").loc[name, "error"]
        assert told < 1e-3
        assert np.linalg.norm(wanted - got) / np.linalg.norm(wanted) < 1e-3
    assert str(tmp_path / "adapter") in made.card().next[0]


def test_peft_runs_the_same_model(tiny, tmp_path):
    peft = pytest.importorskip("peft")
    checkpoint = m.Checkpoint(tiny.rlvr)
    edit = edit_of(checkpoint, {Q: 2, UP: 3})
    m.lora_edit(edit, to=checkpoint, error=1e-4, out=tmp_path / "adapter")
    ids = torch.tensor([[1, 5, 3, 8, 2]])
    model = checkpoint.load_model(dtype=torch.float32)
    with torch.no_grad():
        plain = model(ids).logits
        wrapped = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
        adapted = wrapped(ids).logits
        edited = m.Checkpoint(m.apply_edit(edit, to=checkpoint, out=tmp_path / "whole")).load_model(dtype=torch.float32)
        assert torch.allclose(adapted, edited(ids).logits, atol=2e-3 * float(plain.abs().max()))
    assert not torch.allclose(adapted, plain, atol=2e-3 * float(plain.abs().max()))


def test_a_rank_that_is_given_is_kept_and_its_error_told(tiny, tmp_path, capsys):
    checkpoint = m.Checkpoint(tiny.rlvr)
    edit = edit_of(checkpoint, {UP: 6})
    edit.save(tmp_path / "edit.safetensors")
    words = ["edit", "lora", str(tmp_path / "edit.safetensors"), "--to", str(tiny.rlvr), "--rank", "2"]
    assert main([*words, "--out", str(tmp_path / "adapter"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    change = (edit.after[UP].double() - edit.before[UP].double()).numpy()
    s = np.linalg.svd(change, compute_uv=False)
    assert told["largest_error"] == pytest.approx(np.sqrt((s[2:] ** 2).sum() / (s**2).sum()), rel=1e-5)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 2, [UP.removesuffix(".weight")])
    with pytest.raises(StageRefused, match="exists and is not empty"):
        m.lora_edit(edit, to=checkpoint, rank=3, out=tmp_path / "adapter")
    assert m.lora_edit(edit, to=checkpoint, rank=3, out=tmp_path / "adapter", overwrite=True).table["rank"].item() == 3


def test_what_has_no_thin_factors_is_refused(tiny, tmp_path):
    checkpoint = m.Checkpoint(tiny.rlvr)
    with pytest.raises(NotSupported, match="the edit is no smaller as LoRA"):
        m.lora_edit(edit_of(checkpoint, {Q: 1}, noise=1.0), to=checkpoint, out=tmp_path / "adapter")
    with pytest.raises(NotSupported, match="no weight matrix of a linear layer"):
        m.lora_edit(edit_of(checkpoint, {"model.embed_tokens.weight": 1}), to=checkpoint, out=tmp_path / "adapter")
    with pytest.raises(NotTogether, match="made for another checkpoint"):
        m.lora_edit(edit_of(checkpoint, {Q: 1}), to=tiny.sft, out=tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_matrix_that_lies_the_other_way_round_is_turned(tmp_path):
    lineage = write_lineage(tmp_path / "gpt2", "gpt2")
    checkpoint = m.Checkpoint(lineage.rlvr)
    name = next(name for name in checkpoint.tensors if name.endswith("attn.c_attn.weight"))
    edit = edit_of(checkpoint, {name: 2})
    m.lora_edit(edit, to=checkpoint, out=tmp_path / "adapter")
    got = m.Checkpoint(f"{lineage.rlvr}+{tmp_path / 'adapter'}").tensor(name)
    assert torch.allclose(got.float(), edit.after[name].float(), atol=1e-4)
    assert not torch.equal(got.float(), edit.before[name].float())


def test_the_smallest_rank_within_the_error_is_taken():
    change = torch.diag(torch.tensor([4.0, 2.0, 1.0] + [0.0] * 29, dtype=torch.float64))
    rest = {1: (5 / 21) ** 0.5, 2: (1 / 21) ** 0.5}
    for rank, left_out in rest.items():
        left, right, error = factored(change, None, left_out * 1.001, "it")
        assert (left.shape, right.shape) == ((32, rank), (rank, 32))
        assert error == pytest.approx(left_out, rel=1e-6)
        assert len(factored(change, None, left_out * 0.999, "it")[1]) == rank + 1
