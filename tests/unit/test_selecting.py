"""Heads as matrices of their own, in every architecture, and what can be selected by name, pattern and ranking."""

import re
import shutil

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mastlens import Checkpoint
from mastlens.architectures.projections import Layout, Projection, find_projections
from mastlens.cli import main
from mastlens.errors import MastlensError
from mastlens.selection.tensors import named_matrices, select_tensors, weight_matrices
from tests.unit.test_architectures import CASES, GROUPED, GROUPED_SHAPES, write_model

Q0, K0, O1 = (f"model.layers.{where}_proj.weight" for where in ("0.self_attn.q", "0.self_attn.k", "1.self_attn.o"))


@pytest.fixture(scope="module", params=sorted(CASES))
def checkpoint(request, tmp_path_factory):
    return Checkpoint(write_model(tmp_path_factory.mktemp("model"), *CASES[request.param]))


@pytest.fixture(scope="module")
def rlvr(tiny):
    return Checkpoint(tiny.rlvr)


def heads_of(projection):
    return [projection.head(i) for i in range(projection.heads)]


# Heads in every architecture


def test_every_tensor_recomposes_from_its_heads(checkpoint):
    """Out of heads, and of the slices that have none, each entry is written exactly once."""
    rebuilt, counts = {}, {}
    for projection in checkpoint.projections:
        for part in heads_of(projection) or [projection]:
            stored = checkpoint.tensor(part.stored)
            matrix = part.read(stored)
            assert tuple(matrix.shape) == (part.rows, part.cols)
            part.write(rebuilt.setdefault(part.stored, torch.full_like(stored, float("nan"))), matrix)
            count = counts.setdefault(part.stored, torch.zeros(stored.shape, dtype=torch.int64))
            part.write(count, part.read(count) + 1)
    assert set(rebuilt) == {p.stored for p in checkpoint.projections}
    for name, tensor in rebuilt.items():
        assert torch.equal(tensor, checkpoint.tensor(name))
        assert counts[name].eq(1).all()


def test_a_head_is_that_range_of_the_matrix_and_writing_it_leaves_all_others(checkpoint):
    with_heads = [p for p in checkpoint.projections if p.heads]
    assert {p.projection for p in with_heads} >= set("qkvo")
    for projection in with_heads:
        stored = checkpoint.tensor(projection.stored)
        matrix = projection.read(stored).clone()
        for number, head in enumerate(heads_of(projection)):
            mine = slice(number * projection.head_dim, (number + 1) * projection.head_dim)
            index = (slice(None), mine) if projection.projection == "o" else (mine, slice(None))
            assert torch.equal(head.read(stored), matrix[index])
            assert torch.equal(head.read(stored), projection.head_of(stored, number))
            assert (head.layer, head.projection, head.heads) == (projection.layer, projection.projection, 1)
            assert head.stored == projection.stored and head.fused
            assert head.head(0) == head
            changed = stored.clone()
            head.write(changed, torch.full((head.rows, head.cols), 7.0))
            expected = matrix.clone()
            expected[index] = 7.0
            assert torch.equal(projection.read(changed), expected)
            assert int((changed != stored).sum()) == head.numel
            others = [p for p in checkpoint.projections if p.stored == head.stored and p != projection]
            assert all(torch.equal(other.read(changed), other.read(stored)) for other in others)
        with pytest.raises(MastlensError, match=re.escape(f"there is no head {projection.heads}")):
            projection.head(projection.heads)


def test_heads_are_named_and_found_by_name(checkpoint):
    names = []
    for projection in checkpoint.projections:
        heads = heads_of(projection)
        suffix = ".h" if "#" in projection.name else "#h"
        assert [head.name for head in heads] == [f"{projection.name}{suffix}{i}" for i in range(projection.heads)]
        assert named_matrices(checkpoint, [head.name for head in heads]) == heads
        names += [head.name for head in heads]
    assert len(set(names)) == len(names)
    last = [p for p in checkpoint.projections if p.heads][-1]
    with pytest.raises(MastlensError, match=re.escape(last.head(last.heads - 1).name)):  # the nearest name
        named_matrices(checkpoint, [last.head(last.heads - 1).name.replace(f"h{last.heads - 1}", f"h{last.heads}")])
    everything = re.escape(last.name) + r"[.#]h\d+$"
    assert select_tensors(checkpoint, where=everything) == [head.name for head in heads_of(last)]


def test_a_head_of_a_bias_is_its_part_of_the_outputs(checkpoint):
    for projection in checkpoint.projections:
        for number, head in enumerate(heads_of(projection)):
            if projection.projection == "o" or not projection.bias:
                assert head.bias is None
                continue
            assert head.bias.startswith(projection.bias)
            stored = checkpoint.tensor(head.bias.partition("#")[0])
            whole = projection.outputs_of(stored)
            mine = slice(number * head.head_dim, (number + 1) * head.head_dim)
            assert torch.equal(head.outputs_of(stored), whole[mine])
            expected = whole.clone()
            expected[mine] = 9.0
            head.write_outputs(stored, torch.full((head.rows,), 9.0))
            assert torch.equal(projection.outputs_of(stored), expected)


def test_heads_that_alternate_by_group(monkeypatch):
    """As in InternLM2: for each group the rows of its two query heads, then its k, then its v."""
    from mastlens.architectures import catalogue as architectures

    maps = {"layers.{layer}.attention.wqkv.weight": "q k v, per group", "layers.{layer}.attention.wo.weight": "o"}
    monkeypatch.setattr(architectures, "_registered", {})
    architectures.register_architecture("internlm-like", maps)
    q, k, v, o = find_projections(GROUPED, GROUPED_SHAPES)
    stored = torch.arange(16 * 8).view(16, 8)
    assert [head.read(stored)[:, 0].tolist() for head in heads_of(q)] == [[0, 8], [16, 24], [64, 72], [80, 88]]
    assert [head.read(stored)[:, 0].tolist() for head in heads_of(k)] == [[32, 40], [96, 104]]
    assert [head.read(stored)[:, 0].tolist() for head in heads_of(v)] == [[48, 56], [112, 120]]
    square = torch.arange(64).view(8, 8)
    assert [head.read(square)[0].tolist() for head in heads_of(o)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    architectures.register_architecture("internlm-like", {n: t.replace("group", "head") for n, t in maps.items()})
    with pytest.raises(MastlensError, match="per group"):  # 2 heads of k cannot lie one in each of 4 blocks
        find_projections(GROUPED, GROUPED_SHAPES)


@st.composite
def heads_in_blocks(draw):
    """A tensor of several projections whose blocks hold one or more heads of each, and the projections."""
    blocks, cols, transposed = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.booleans())
    sizes = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3))
    found, start = [], 0
    for i, (heads, dim) in enumerate(sizes):
        layout = Layout(blocks, start, heads * dim, transposed)
        found.append(Projection(0, i, "q", f"w#{i}", blocks * heads * dim, cols, blocks * heads, dim, layout))
        start += heads * dim
    shape = (blocks * start, cols)
    return torch.arange(blocks * start * cols).view(shape[::-1] if transposed else shape), found


@given(heads_in_blocks())
def test_heads_partition_any_layout(case):
    stored, projections = case
    again, counts = torch.full_like(stored, -1), torch.zeros_like(stored)
    for projection in projections:
        heads = heads_of(projection)
        assert torch.equal(torch.cat([head.read(stored) for head in heads]), projection.read(stored))
        for head in heads:
            head.write(again, head.read(stored))
            head.write(counts, head.read(counts) + 1)
    assert torch.equal(again, stored)
    assert counts.eq(1).all()


# Selections


def test_a_pattern_takes_matrices_first_and_heads_only_when_it_names_them(rlvr, tmp_path):
    assert select_tensors(rlvr, where=r"layers\.0\.self_attn\.[qk]_proj") == [K0, Q0]
    assert select_tensors(rlvr, where=r"0\.self_attn\.q_proj\.weight#h[13]$") == [f"{Q0}#h1", f"{Q0}#h3"]
    with pytest.raises(MastlensError, match=r"matches no tensor.*#h0"):
        select_tensors(rlvr, where="q_proj.weight#h9")
    with pytest.raises(MastlensError, match="matches no tensor"):  # no head without a number sign
        select_tensors(rlvr, where=r"h1$")
    with pytest.raises(MastlensError, match="not a regular expression"):
        select_tensors(rlvr, where="#(")
    fused = Checkpoint(write_model(tmp_path, "phi3", {}))
    name = "model.layers.1.self_attn.qkv_proj.weight"
    assert select_tensors(fused, where=r"1.*#q") == [f"{name}#q"]  # the slice, not its heads
    assert select_tensors(fused, where=r"1.*#q\.h") == [f"{name}#q.h{i}" for i in range(4)]


def test_heads_stand_in_the_order_of_their_numbers(tmp_path):
    many = Checkpoint(write_model(tmp_path, "qwen3", {"num_attention_heads": 12, "head_dim": 4}))
    names = [f"{Q0}#h{i}" for i in (10, 2, 0, 11)]
    assert select_tensors(many, names=[O1, *names, K0]) == [K0, *(f"{Q0}#h{i}" for i in (0, 2, 10, 11)), O1]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([Q0, f"{Q0}#h1"], [f"{Q0} is selected whole and in part", f"{Q0}#h1"]),
        ([f"{Q0}#h1", K0, f"{Q0}#h1"], [f"{Q0}#h1 is selected twice"]),
        ([Q0, Q0], [f"{Q0} is selected twice"]),
    ],
)
def test_overlaps_are_refused(rlvr, names, said):
    for call in (select_tensors, lambda checkpoint, names: named_matrices(checkpoint, names)):
        with pytest.raises(MastlensError) as error:
            call(rlvr, names=names)
        assert all(word in str(error.value) for word in said)


def test_a_slice_and_its_head_overlap_and_its_neighbours_do_not(tmp_path):
    fused = Checkpoint(write_model(tmp_path, "phi3", {}))
    name = "model.layers.1.self_attn.qkv_proj.weight"
    for pair in ([f"{name}#q", f"{name}#q.h0"], [f"{name}#q.h0", name]):
        with pytest.raises(MastlensError, match="whole and in part"):
            select_tensors(fused, names=pair)
    apart = [f"{name}#k", f"{name}#q.h0", f"{name}#q.h1", f"{name}#v.h1"]
    assert select_tensors(fused, names=apart) == apart


def test_what_everything_takes_that_all_parameters_leave(rlvr):
    left = set(select_tensors(rlvr, everything=True)) - set(select_tensors(rlvr, all_parameters=True))
    assert left == {name for name, stored in rlvr.tensors.items() if len(stored.shape) == 1}
    assert any("bias" in name for name in left) and any("norm" in name for name in left)
    assert select_tensors(rlvr, all_parameters=True) == weight_matrices(rlvr)
    with pytest.raises(MastlensError, match="exactly one way"):
        select_tensors(rlvr, everything=True, all_parameters=True)


# A user's mistakes, through the command line


def refused(capsys, tmp_path, *arguments):
    out = tmp_path / "out"
    code = main([*map(str, arguments), "--out", str(out)])
    captured = capsys.readouterr()
    assert code == 2, captured
    assert captured.out == "" and "Traceback" not in captured.err
    assert not out.exists()
    return captured.err


def ranking(folder, names):
    folder.mkdir()
    table = pd.DataFrame({"rank": range(1, len(names) + 1), "name": names, "selected": True})
    table.to_parquet(folder / "ranking.parquet")
    return folder / "ranking.parquet"


def test_selections_that_are_no_good_exit_with_2(tiny, tmp_path, capsys):
    negate = ["negate", "--sft", tiny.sft, "--rlvr", tiny.rlvr]
    learn = ["unlearn", "--rlvr", tiny.rlvr, "--forget", tiny.forget, "--objective", "ga", "--steps", 1, "--lr", 1e-3]
    empty = ranking(tmp_path / "empty", [Q0])
    pd.read_parquet(empty).assign(selected=False).to_parquet(empty)
    misspelt = ranking(tmp_path / "misspelt", [Q0, K0.replace("k_proj", "k_prj")])
    headless = ranking(tmp_path / "headless", [f"{K0}#h2"])
    both = ranking(tmp_path / "both", [Q0, f"{Q0}#h0"])
    bias = ranking(tmp_path / "bias", [Q0.replace("weight", "bias")])
    for command in (negate, learn):
        assert "selects nothing" in refused(capsys, tmp_path, *command, "--ranking", empty)
        said = refused(capsys, tmp_path, *command, "--ranking", misspelt)
        assert "another model" in said and "k_prj" in said and f"'{K0}'" in said
        said = refused(capsys, tmp_path, *command, "--ranking", headless)
        assert f"'{K0}#h2'" in said and f"'{K0}#h1'" in said
        assert "whole and in part" in refused(capsys, tmp_path, *command, "--ranking", both)
        assert "a bias or a norm" in refused(capsys, tmp_path, *command, "--ranking", bias)
        assert "matches no tensor" in refused(capsys, tmp_path, *command, "--where", "q_prj")
        assert "matches no tensor" in refused(capsys, tmp_path, *command, "--where", "q_proj.weight#h4")


def test_a_ranking_of_another_checkpoint_exits_with_2(tiny, tmp_path, capsys):
    run = tmp_path / "run"
    lineage = ["--sft", str(tiny.sft), "--rlvr", str(tiny.rlvr)]
    assert main(["geometry", "--base", str(tiny.base), *lineage, "--rank", "4", "--out", str(run)]) == 0
    assert main(["couple", *lineage, "--forget", str(tiny.forget), "--out", str(run)]) == 0
    assert main(["rank", str(run), "--top", "2"]) == 0
    other = shutil.copytree(tiny.sft, tmp_path / "other")
    capsys.readouterr()
    arguments = ["negate", "--sft", tiny.rlvr, "--rlvr", other, "--ranking", run / "ranking.parquet"]
    said = refused(capsys, tmp_path, *arguments)
    assert "made for another RLVR checkpoint" in said
