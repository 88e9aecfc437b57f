"""Negation against numpy in float64: the whole increment, its principal part, what is left, tensor by tensor."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.cli import main
from mastlens.edits import negation
from mastlens.selection.tensors import weight_matrices
from tests.conftest import write_lineage

Q0 = "model.layers.0.self_attn.q_proj.weight"
K0 = "model.layers.0.self_attn.k_proj.weight"
NORM, BIAS = "model.layers.1.input_layernorm.weight", "model.layers.1.self_attn.v_proj.bias"
RANK = 5


@pytest.fixture(scope="module")
def bf16(tmp_path_factory):
    return write_lineage(tmp_path_factory.mktemp("bf16"), dtype="bfloat16")


def weights(folder):
    return load_file(folder / "model.safetensors")


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def negate(tiny, **changes):
    return negation.negate(sft=tiny.sft, rlvr=tiny.rlvr, **({"progress": False} | changes))


def principal_part(base, increment, rank=RANK):
    u, _, vh = np.linalg.svd(base.double().numpy(), full_matrices=False)
    left, right = u[:, :rank], vh[:rank].T
    return left @ (left.T @ increment @ right) @ right.T


# The whole increment


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_everything_at_scale_1_is_sft_bit_for_bit(tiny, bf16, kind, tmp_path):
    lineage = tiny if kind == "float32" else bf16
    edit = negate(lineage, everything=True)
    out = m.apply_edit(edit, to=lineage.rlvr, out=tmp_path / "edited")
    sft, rlvr, edited = (weights(folder) for folder in (lineage.sft, lineage.rlvr, out))
    assert Checkpoint(out).fingerprint == Checkpoint(lineage.sft).fingerprint
    assert set(edited) == set(sft)
    assert all(bits(edited[name]) == bits(sft[name]) for name in sft)
    assert {NORM, BIAS} <= set(edit.names)  # which all_parameters leaves
    assert all(bits(sft[name]) != bits(rlvr[name]) for name in edit.names)
    assert set(negate(lineage, all_parameters=True).names) <= set(weight_matrices(Checkpoint(lineage.rlvr)))


@pytest.mark.parametrize("scale", [0.5, 2.0, -1.0, 0.3])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_scale_is_that_share_of_the_increment_rounded_once(tiny, bf16, kind, scale):
    lineage = tiny if kind == "float32" else bf16
    sft, rlvr = weights(lineage.sft), weights(lineage.rlvr)
    edit = negate(lineage, everything=True, scale=scale)
    for name in edit.names:
        now, then = rlvr[name].double().numpy(), sft[name].double().numpy()
        expected = torch.from_numpy(now + scale * (then - now)).to(rlvr[name].dtype)
        assert torch.equal(edit.after[name], expected)
        assert bits(edit.before[name]) == bits(rlvr[name])


def test_only_what_is_selected_goes_back(tiny):
    sft, rlvr = weights(tiny.sft), weights(tiny.rlvr)
    edit = negate(tiny, where=r"0\.self_attn\.[qk]_proj")
    assert sorted(edit.names) == [K0, Q0]
    assert all(bits(edit.after[name]) == bits(sft[name]) for name in edit.names)
    for scale in (1.0, 0.25):
        edit = negate(tiny, names=[f"{Q0}#h2", f"{Q0}#h0"], scale=scale)  # heads of 8 rows
        assert edit.names == [Q0]
        assert bits(edit.after[Q0][8:16]) == bits(rlvr[Q0][8:16])
        assert bits(edit.after[Q0][24:]) == bits(rlvr[Q0][24:])
        for rows in (slice(0, 8), slice(16, 24)):
            now, then = rlvr[Q0][rows].double(), sft[Q0][rows].double()
            assert torch.equal(edit.after[Q0][rows], (now + scale * (then - now)).float())
    o = Q0.replace("q_proj", "o_proj")
    edit = negate(tiny, names=[f"{o}#h3"])
    assert bits(edit.after[o][:, 24:]) == bits(sft[o][:, 24:])
    assert bits(edit.after[o][:, :24]) == bits(rlvr[o][:, :24])


# Its parts


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_parts_are_those_of_numpy_and_add_up_to_the_whole(tiny, scale):
    base, sft, rlvr = weights(tiny.base), weights(tiny.sft), weights(tiny.rlvr)
    common = {"all_parameters": True, "scale": scale, "base": tiny.base, "rank": RANK}
    principal, rest = (negate(tiny, part=part, **common) for part in ("principal", "off-principal"))
    whole = negate(tiny, all_parameters=True, scale=scale)
    assert principal.names == rest.names == whole.names == sorted(weight_matrices(Checkpoint(tiny.rlvr)))
    for name in principal.names:
        now = rlvr[name].double().numpy()
        increment = now - sft[name].double().numpy()
        part = principal_part(base[name], increment)
        for edit, wanted in ((principal, part), (rest, increment - part)):
            taken = now - edit.after[name].double().numpy()
            np.testing.assert_allclose(taken, scale * wanted, rtol=0, atol=6e-8)  # a rounding of |w| < 1
        together = sum(edit.after[name].double() - edit.before[name].double() for edit in (principal, rest))
        moved = whole.after[name].double() - whole.before[name].double()
        torch.testing.assert_close(together, moved, rtol=0, atol=2e-7)
        assert np.linalg.norm(part) < np.linalg.norm(increment - part)


def test_the_share_taken_is_what_geometry_calls_off_principal(tiny):
    table = m.geometry(base=tiny.base, sft=tiny.sft, rlvr=tiny.rlvr, rank=RANK, progress=False).table
    table = table[table["increment"] == "rlvr"].set_index("name")
    edit = negate(tiny, where="self_attn", part="off-principal", base=tiny.base, rank=RANK)
    assert set(edit.names) == set(table.index)
    for name in edit.names:
        taken = float((edit.after[name].double() - edit.before[name].double()).square().sum())
        assert taken / table.loc[name, "delta_norm"] ** 2 == pytest.approx(table.loc[name, "off_principal"], abs=1e-5)


def test_a_head_has_a_part_against_its_own_base_weight_and_all_else_stays(tiny):
    base, sft, rlvr = weights(tiny.base), weights(tiny.sft), weights(tiny.rlvr)
    edit = negate(tiny, names=[f"{Q0}#h1"], part="principal", base=tiny.base, rank=3)
    rows = slice(8, 16)
    increment = (rlvr[Q0][rows].double() - sft[Q0][rows].double()).numpy()
    taken = (rlvr[Q0][rows].double() - edit.after[Q0][rows].double()).numpy()
    np.testing.assert_allclose(taken, principal_part(base[Q0][rows], increment, 3), rtol=0, atol=6e-8)
    assert edit.names == [Q0]
    assert bits(edit.after[Q0][:8]) == bits(rlvr[Q0][:8]) and bits(edit.after[Q0][16:]) == bits(rlvr[Q0][16:])


def test_a_fused_tensor_is_taken_apart_slice_by_slice(tmp_path):
    lineage = write_lineage(tmp_path, "phi3", num_key_value_heads=2)
    name = "model.layers.0.self_attn.qkv_proj.weight"
    base, sft, rlvr = (weights(folder)[name].double() for folder in (lineage.base, lineage.sft, lineage.rlvr))
    edit = negate(lineage, names=[name], part="principal", base=lineage.base, rank=RANK)
    parts = [
        principal_part(base[rows], (rlvr[rows] - sft[rows]).numpy())
        for rows in (slice(0, 32), slice(32, 48), slice(48, 64))  # 4 heads of q, 2 groups of k and of v, of 8 each
    ]
    np.testing.assert_allclose((rlvr - edit.after[name].double()).numpy(), np.concatenate(parts), rtol=0, atol=6e-8)


def test_what_rounding_would_swallow_is_told(bf16):
    """A small share of a principal part lies below what bfloat16 resolves; the whole part does not."""
    part = {"where": "q_proj", "part": "principal", "base": bf16.base, "rank": RANK}
    now, then, base = (weights(folder)[Q0].double() for folder in (bf16.rlvr, bf16.sft, bf16.base))
    wanted = principal_part(base, (now - then).numpy())

    def error(edit, scale):
        taken = (now - edit.after[Q0].double()).numpy()
        return np.linalg.norm(taken - scale * wanted) / np.linalg.norm(scale * wanted)

    assert error(negate(bf16, **part, scale=4.0), 4.0) < 0.5  # without a warning, which would be an error here
    with pytest.warns(m.MastlensWarning, match="not what was asked for"):
        edit = negate(bf16, **part, scale=0.2)
    assert error(edit, 0.2) > 0.5


# Through the command line


def run(capsys, *arguments):
    code = main(["negate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_writes_the_edit_and_remembers_it(tiny, tmp_path, capsys):
    out = tmp_path / "run"
    common = ["--sft", tiny.sft, "--rlvr", tiny.rlvr, "--out", out, "--where", "q_proj", "--json"]
    part = ["--base", tiny.base, "--part", "off-principal", "--rank", RANK, "--scale", 0.5]
    code, said, _ = run(capsys, *common, *part)
    assert code == 0
    edit = m.Edit.load(out / "edit.safetensors")
    told = json.loads(said)
    assert (told["tensors"], told["parameters"], told["sha256"]) == (2, 2 * 32 * 32, edit.sha256)
    same = negate(tiny, where="q_proj", part="off-principal", base=tiny.base, rank=RANK, scale=0.5)
    assert same.save(tmp_path / "same.safetensors").read_bytes() == (out / "edit.safetensors").read_bytes()
    stage = json.loads((out / "run.json").read_text())["stages"]["negate"]
    assert set(stage["lineage"]) == {"sft", "rlvr", "base"}
    assert (stage["settings"]["part"], stage["settings"]["scale"]) == ("off-principal", 0.5)
    stamp = (out / "edit.safetensors").stat().st_mtime_ns
    assert run(capsys, *common, *part)[0] == 0
    assert (out / "edit.safetensors").stat().st_mtime_ns == stamp
    code, said, err = run(capsys, *common)
    assert (code, said) == (2, "") and "--overwrite" in err
    assert (out / "edit.safetensors").stat().st_mtime_ns == stamp
    assert run(capsys, *common, "--overwrite")[0] == 0
    assert bits(m.Edit.load(out).after[Q0]) == bits(weights(tiny.sft)[Q0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "q_proj", "--scale", "0"], "The edit is empty"),
        (["--where", "q_proj", "--scale", "nan"], "finite number"),
        (["--where", "q_proj", "--scale", "1e300"], "does not fit float32"),
        (["--where", "q_proj", "--part", "principle"], "'principal'"),
        (["--where", "q_proj", "--part", "principal"], "--base"),
        (["--everything", "--part", "principal", "--base", "BASE"], "--all-parameters"),
        (["--where", "q_proj", "--part", "principal", "--base", "BASE", "--rank", "33"], "--rank 33 does not fit"),
        (["--where", "q_proj", "--part", "principal", "--base", "BASE", "--rank", "0"], "--rank 0 does not fit"),
        (["--where", "q_proj", "--sft", "RLVR"], "the same"),
        (["--where", "q_proj", "--sft", "nowhere/at/all"], "nowhere"),
    ],
)
def test_a_users_mistake_exits_with_2_and_writes_nothing(tiny, tmp_path, capsys, arguments, said):
    places = {"BASE": tiny.base, "RLVR": tiny.rlvr}
    given = ["--sft", tiny.sft, "--rlvr", tiny.rlvr, *(places.get(a, a) for a in arguments), "--out", tmp_path / "out"]
    code, out, err = run(capsys, *given)
    assert (code, out) == (2, "")
    assert said in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
