"""Checkpoints that store codes: FP8 with scales means what numpy says it means, everything else is refused by name."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import export
from tests.conftest import write_problems, write_tokenizer
from tests.unit.test_architectures import CHANGES, write_model

FP8 = torch.float8_e4m3fn
IDS = torch.arange(3, 23).reshape(2, 10)


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (config | changes).items() if v is not None}))


def in_fp8(folder, block, dtype=FP8):
    """Rewrite a folder's projections as codes and scales; return what numpy makes of them again."""
    tensors, meant = load_file(folder / "model.safetensors"), {}
    out = {}
    for name, weight in tensors.items():
        if not name.endswith("_proj.weight"):
            out[name] = meant[name] = weight
            continue
        rows, cols = block or weight.shape
        grid = -(-weight.shape[0] // rows), -(-weight.shape[1] // cols)
        scales = np.zeros(grid, np.float32)
        values = weight.float().numpy()
        wide = np.zeros_like(values)
        codes = torch.zeros(weight.shape, dtype=dtype)
        for i in range(grid[0]):
            for j in range(grid[1]):
                part = (slice(i * rows, (i + 1) * rows), slice(j * cols, (j + 1) * cols))
                scales[i, j] = np.abs(values[part]).max() / torch.finfo(dtype).max
                codes[part] = torch.from_numpy(values[part] / scales[i, j]).to(dtype)
                wide[part] = codes[part].float().numpy() * scales[i, j]
        out[name], meant[name] = codes, torch.from_numpy(wide)
        out[f"{name}_scale_inv"] = torch.from_numpy(scales) if block else torch.from_numpy(scales).reshape(())
    save_file(out, folder / "model.safetensors", {"format": "pt"})
    said = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block and list(block)}
    edit_config(folder, quantization_config=said)
    return meant


@pytest.mark.parametrize("block", [(16, 16), (8, 32), (128, 128), (20, 12), None], ids=str)
@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe"])
def test_codes_are_read_as_the_weights_that_they_mean(tmp_path, model_type, block):
    folder = write_model(tmp_path / "model", model_type, CHANGES[model_type] | {"tie_word_embeddings": False})
    plain = Checkpoint(folder)
    before = {name: plain.tensor(name) for name in plain.tensors}
    meant = in_fp8(folder, block)
    checkpoint = Checkpoint(folder)
    assert checkpoint.tensors.keys() == meant.keys()  # scales are no tensors of the model
    for name, value in meant.items():
        assert torch.equal(checkpoint.tensor(name), value.float()), name
        rows = checkpoint.rows(name, 3, 11)
        assert torch.equal(rows, value.float()[3:11])
        assert (name in checkpoint.dequantised) == (not torch.equal(value, before[name]))
    assert [p.name for p in checkpoint.projections] == [p.name for p in plain.projections]
    exported = export(checkpoint, {}, tmp_path / "out")
    assert Checkpoint(exported).fingerprint == checkpoint.fingerprint
    with torch.no_grad():
        live = AutoModelForCausalLM.from_pretrained(exported)(IDS).logits  # plain weights, by transformers alone
        assert torch.equal(checkpoint.load_model()(IDS).logits, live)
    assert not AutoModelForCausalLM.from_pretrained(exported).config.to_dict().get("quantization_config")


def test_fp8_in_shards_is_exported_without_its_scales(tmp_path):
    folder = write_model(tmp_path / "model", "llama", {"tie_word_embeddings": False})
    in_fp8(folder, (16, 16))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, mine in shards.items():
        save_file({name: tensors[name] for name in mine}, folder / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, mine in shards.items() for name in mine}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint(folder)
    exported = Checkpoint(export(checkpoint, {}, tmp_path / "out"))
    assert exported.fingerprint == checkpoint.fingerprint and not exported.dequantised


def test_geometry_of_fp8_is_that_of_its_weights(tmp_path):
    base = write_model(tmp_path / "base", "qwen3", {"head_dim": 12})
    folder = shutil.copytree(base, tmp_path / "fp8")
    torch.manual_seed(1)
    moved = {n: t + 0.01 * torch.randn(t.shape) for n, t in load_file(base / "model.safetensors").items()}
    save_file(moved, folder / "model.safetensors", {"format": "pt"})
    meant = in_fp8(folder, (16, 16))
    plain = shutil.copytree(base, tmp_path / "plain")
    save_file({n: t.float().contiguous() for n, t in meant.items()}, plain / "model.safetensors", {"format": "pt"})
    with pytest.warns(m.MastlensWarning, match=r"rlvr checkpoint \S+fp8 stores tensors as codes \(14 as FP8 codes\)"):
        coded = m.geometry(base=base, rlvr=folder, rank=4, progress=False).table
    with warnings.catch_warnings():
        warnings.simplefilter("error", m.MastlensWarning)
        told = m.geometry(base=base, rlvr=plain, rank=4, progress=False).table
    floors, finer = (table.pop("precision_floor") for table in (coded, told))
    assert coded.equals(told) and not told["note"].any()
    # e4m3 has 3 bits behind the point where float32 has 23; the base's own float32 adds nothing to speak of.
    assert floors.to_numpy() == pytest.approx(2.0**20 * finer.to_numpy() / 2**0.5, rel=0.1)


def codes(dtype, suffix, scale_shape=None):
    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        for name in [n for n in tensors if n.endswith("_proj.weight")]:
            weight = tensors[name]
            tensors[name] = (weight * 10).round().to(dtype)
            if suffix:
                scales = torch.ones(scale_shape or (weight.shape[0], 1))
                tensors[name.removesuffix(".weight") + suffix] = scales
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return change


def packed(folder):
    tensors = load_file(folder / "model.safetensors")
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        tensors[name.replace(".weight", ".qweight")] = torch.zeros(tensors.pop(name).shape, dtype=torch.int32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


BLOCKS = {"quant_method": "fp8", "weight_block_size": [16, 16]}
KINDS = {
    "bitsandbytes": (codes(torch.int8, ".SCB"), {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "compressed-tensors": (codes(torch.int8, ".weight_scale"), {"quant_method": "compressed-tensors"}),
    "gptq": (packed, {"quant_method": "gptq", "bits": 4}),
    "awq": (packed, {"quant_method": "awq", "bits": 4}),
    "mxfp4": (lambda folder: None, {"quant_method": "mxfp4"}),
    "no method": (lambda folder: None, {"bits": 4}),
    "a word": (lambda folder: None, "int8"),
    "integers, and nothing says so": (codes(torch.int8, ""), None),
    "bytes, and nothing says so": (codes(torch.uint8, ""), None),
    "scales, and nothing says so": (codes(FP8, ".weight_scale_inv", (2, 2)), None),
    "codes without scales": (codes(FP8, ""), BLOCKS),
    "integers with scales": (codes(torch.int8, ".weight_scale_inv", (2, 2)), BLOCKS),
    "scales of other blocks": (codes(FP8, ".weight_scale_inv", (7, 9)), BLOCKS),
    "blocks of nothing": (codes(FP8, ".weight_scale_inv", (2, 2)), BLOCKS | {"weight_block_size": [0, 16]}),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_other_codes_are_refused_by_name_wherever_they_are_read(tmp_path, kind):
    base = write_model(tmp_path / "base", "llama", {"tie_word_embeddings": False})
    write_tokenizer(base)
    folder = shutil.copytree(base, tmp_path / "codes")
    change, said = KINDS[kind]
    change(folder)
    edit_config(folder, quantization_config=said)
    problems = write_problems(tmp_path / "p.jsonl", first=1, count=2)
    calls = (
        lambda: m.inspect(folder),
        lambda: m.geometry(base=base, rlvr=folder, rank=4, progress=False),
        lambda: m.evaluate(model=folder, splits={"p": problems}, out=tmp_path / "o", max_new_tokens=1, progress=False),
    )
    for call in calls:
        with pytest.raises(m.MastlensError, match=r"quantis|block"):
            call()
    assert not (tmp_path / "o").exists()
