"""GGUF files as checkpoints: the values of their blocks, how far apart a block's numbers are, and what is refused."""

import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.lineage import Lineage
from mastlens.checkpoints.quantised import Dequantised
from mastlens.checkpoints.shards import read_header
from mastlens.errors import BadFile, MissingPackage, NotSupported
from tests.gguf_files import write_gguf

gguf = pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "BF16", "F16", "F32"])
def test_a_file_is_read_as_the_values_of_its_blocks_and_knows_their_spacing(tmp_path, cache, kind):
    meant = write_gguf(tmp_path / "tiny.gguf", kind)
    checkpoint = Checkpoint(tmp_path / "tiny.gguf")
    assert set(checkpoint.tensors) == {*meant}
    for name, values in meant.items():
        assert np.array_equal(checkpoint.tensor(name).float().numpy(), values), name
    matrix = next(one for one in checkpoint.projections if one.name == Q)
    spacing = checkpoint.spacing(matrix)
    if not kind.startswith("Q"):  # stored as they are, in their own dtype, which says it
        assert spacing is None and not checkpoint.coded
        wanted = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[kind]
        assert checkpoint.tensors[Q].dtype is wanted
        assert checkpoint.tensors["model.norm.weight"].dtype is torch.float32
        return
    assert checkpoint.coded == {f"GGUF {kind}": 15}
    # The scale of a block of 32, taken from the format: largest magnitude over 8 (Q4_0) or 127 (Q8_0), in float16.
    blocks = meant[Q].reshape(-1, 32)
    steps = blocks / spacing.numpy().reshape(-1, 32)
    assert np.abs(steps - steps.round()).max() < 1e-3  # whole multiples of it
    assert (np.abs(steps).max(axis=1).round() == {"Q4_0": 8, "Q8_0": 127}[kind]).mean() > 0.95


def test_the_floor_of_an_increment_of_two_files_is_what_their_rounding_leaves(tmp_path, cache):
    for name, moved in (("base", 0.0), ("little", 1e-3), ("much", 1.0)):
        write_gguf(tmp_path / f"{name}.gguf", "Q8_0", moved=moved)
        write_gguf(tmp_path / f"{name}-whole.gguf", "F32", moved=moved)

    def rows(after, whole=""):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", m.MastlensWarning)
            paths = (tmp_path / f"{name}{whole}.gguf" for name in ("base", after))
            return m.geometry(**dict(zip(("base", "rlvr"), paths, strict=True)), rank=4, progress=False).table

    # What the two roundings did to an increment is, in the root mean square, as large as the floor says.
    here, there, before, after = (
        Checkpoint(tmp_path / f"{name}.gguf") for name in ("base", "much", "base-whole", "much-whole")
    )
    noise = [
        float((there.matrix(p) - here.matrix(p) - after.matrix(p) + before.matrix(p)).norm()) for p in here.projections
    ]
    much, whole = rows("much"), rows("little", "-whole")
    assert np.sum(np.square(noise)) == pytest.approx((much["precision_floor"] ** 2).sum(), rel=0.1)
    assert not much["note"].any() and not whole["note"].any()
    assert (rows("little")["note"] == "below the precision floor").all()


def test_a_warning_says_what_the_files_hold(tmp_path, cache):
    write_gguf(tmp_path / "a.gguf", "Q4_1")
    write_gguf(tmp_path / "b.gguf", "Q4_1", moved=0.5)
    with pytest.warns(m.MastlensWarning) as said:
        Lineage.open(tmp_path / "b.gguf", base=tmp_path / "a.gguf")
    assert re.match(r"The base checkpoint \S+a.gguf stores tensors as codes \(15 as GGUF Q4_1", str(said[0].message))
    assert re.match(r"The rlvr checkpoint \S+b.gguf stores", str(said[1].message))
    summary = m.inspect(tmp_path / "a.gguf").summary
    assert summary["coded"] == {"GGUF Q4_1": 15}


def test_a_file_that_is_written_anew_is_read_anew_and_once(tmp_path, cache):
    first = write_gguf(tmp_path / "a.gguf", "F16")
    assert np.array_equal(Checkpoint(tmp_path / "a.gguf").tensor(Q).float(), first[Q])
    (folder,) = (cache / "gguf").glob("a-*[0-9a-f]")
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert Checkpoint(tmp_path / "a.gguf").folder == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    second = write_gguf(tmp_path / "a.gguf", "F16", moved=1.0)
    assert np.array_equal(Checkpoint(tmp_path / "a.gguf").tensor(Q).float(), second[Q])
    assert not np.array_equal(first[Q], second[Q])


def test_what_cannot_be_read_is_said(tmp_path, cache, monkeypatch):
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(NotSupported, match=r"transformers cannot read \S+no.gguf"):
        Checkpoint(tmp_path / "no.gguf")
    assert not list((cache / "gguf").glob("no-*[0-9a-f]"))
    write_gguf(tmp_path / "a.gguf")
    folder = Checkpoint(tmp_path / "a.gguf").folder
    moved = shutil.copytree(folder, tmp_path / "moved")
    (moved / "gguf.json").write_text('{"tensors": 3}')
    with pytest.raises(BadFile, match="does not say what its tensors were stored as"):
        Checkpoint(moved)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"mastlens\[gguf\]"):
        Checkpoint(tmp_path / "a.gguf")


def test_spacing_of_fp8_is_that_of_its_codes(tmp_path):
    """Against the numbers that e4m3 has, all of them."""
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    codes = codes[codes.isfinite()].unique()
    stored = codes.to(torch.float8_e4m3fn).reshape(1, -1)

    file = tmp_path / "codes.safetensors"
    save_file({"codes": stored, "scales": torch.tensor(0.5)}, file)
    parts = {one.name: one for one in read_header(file)}
    coded = Dequantised("codes", file, torch.float32, (1, len(codes)), parts["codes"], parts["scales"], (1, 1))
    found = coded.spacing()
    above = codes.diff() / 2  # to the next larger number; half, by the scale
    positive = codes[:-1] >= 0
    assert torch.equal(found[0][:-1][positive], above[positive])
    assert torch.equal(found[0], found[0].flip(0))
