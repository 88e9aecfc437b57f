"""Layouts of stored tensors as general laws, and the chain on the architectures with separate projections."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mastlens
from mastlens.architectures.projections import ORDER, Layout, Projection, find_projections, match_names
from mastlens.errors import MastlensError
from tests.conftest import write_lineage

CHANGES = {"qwen3": {"head_dim": 24}, "llama": {}, "qwen2": {}}  # qwen3: head size is not hidden / heads


@pytest.fixture(scope="module", params=sorted(CHANGES))
def lineage(request, tmp_path_factory):
    return request.param, write_lineage(tmp_path_factory.mktemp(request.param), request.param, **CHANGES[request.param])


def test_projections_are_those_of_the_model(lineage):
    model_type, folders = lineage
    checkpoint = mastlens.Checkpoint(folders.rlvr)
    parameters = dict(checkpoint.load_model().named_parameters())
    assert [(p.layer, p.projection) for p in checkpoint.projections] == [(i, p) for i in range(2) for p in ORDER[:4]]
    head_dim = CHANGES[model_type].get("head_dim", 8)
    for p in checkpoint.projections:
        assert tuple(parameters[p.name].shape) == (p.rows, p.cols)
        assert (p.heads, p.head_dim) == (2 if p.projection in "kv" else 4, head_dim)
        assert (p.cols if p.projection == "o" else p.rows) == p.heads * head_dim
        assert p.module == p.name.removesuffix(".weight") and not p.fused
        assert p.bias == (p.module + ".bias" if model_type == "qwen2" and p.projection != "o" else None)
        assert p.read(parameters[p.name]).data_ptr() == parameters[p.name].data_ptr()


def test_the_chain_runs(lineage, tmp_path):
    _, folders = lineage
    mastlens.geometry(
        base=folders.base, sft=folders.sft, rlvr=folders.rlvr, rank=4, full=True, out=tmp_path, progress=False
    )
    mastlens.couple(sft=folders.sft, rlvr=folders.rlvr, forget=folders.forget, out=tmp_path, progress=False)
    ranking = mastlens.rank(tmp_path, top=2)
    result = mastlens.unlearn(
        rlvr=folders.rlvr,
        ranking=tmp_path / "ranking.parquet",
        forget=folders.forget,
        objective="ga",
        steps=2,
        lr=1e-3,
        progress=False,
    )
    assert sorted(result.edit.names) == sorted(ranking.selected)
    assert all((result.edit.after[n] != result.edit.before[n]).any() for n in result.edit.names)


@st.composite
def tensors(draw):
    """A stored tensor that holds several projections, in any layout: the tensor, and its projections."""
    blocks = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    cols = draw(st.integers(1, 4))
    transposed = draw(st.booleans())
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8]))
    shape = (blocks * sum(sizes), cols)
    seed = draw(st.integers(0, 100))
    stored = torch.randint(
        -100, 100, shape[::-1] if transposed else shape, generator=torch.Generator().manual_seed(seed)
    )
    projections, start = [], 0
    for i, size in enumerate(sizes):
        projections.append(
            Projection(
                layer=0,
                order=i,
                projection="q",
                name=f"fused#{i}",
                rows=blocks * size,
                cols=cols,
                heads=blocks,
                head_dim=size,
                layout=Layout(blocks, start, size, transposed),
            )
        )
        start += size
    return stored.to(dtype), projections


@given(tensors())
def test_slices_partition_the_tensor_and_writing_what_was_read_changes_nothing(case):
    stored, projections = case
    original, counts = stored.clone(), torch.zeros(stored.shape, dtype=torch.int32)
    again = torch.zeros_like(stored)
    for p in projections:
        matrix = p.read(stored)
        assert tuple(matrix.shape) == (p.rows, p.cols)
        p.write(stored, matrix)
        p.write(again, matrix)
        p.write(counts, p.read(counts) + 1)
    assert torch.equal(stored, original)
    assert torch.equal(again, original)
    assert counts.eq(1).all()


@given(tensors(), st.data())
def test_writing_one_slice_writes_that_slice_alone(case, data):
    stored, projections = case
    p = data.draw(st.sampled_from(projections))
    others = [(other, other.read(stored).clone()) for other in projections if other is not p]
    new = -p.read(stored).clone() - 1
    p.write(stored, new)
    assert torch.equal(p.read(stored), new)
    for other, before in others:
        assert torch.equal(other.read(stored), before)


@given(tensors())
def test_heads_are_views_in_the_order_of_the_matrix(case):
    stored, projections = case
    for p in projections:
        heads = p.heads_of(stored)
        assert torch.equal(heads.flatten(0, 1), p.read(stored))
        assert all(torch.equal(p.head_of(stored, i), heads[i]) for i in range(p.heads))
        assert heads.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
        heads.zero_()
        assert p.read(stored).eq(0).all()


def test_a_parameter_that_needs_a_gradient_can_be_written_and_read_with_one():
    p = Projection(0, 0, "q", "fused#q", 4, 3, 2, 2, Layout(2, 1, 2))
    weight = torch.nn.Parameter(torch.zeros(6, 3))
    p.write(weight, torch.ones(4, 3))
    p.read(weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, weight.detach())
    assert weight.detach()[[0, 3]].eq(0).all() and weight.detach()[[1, 2, 4, 5]].eq(1).all()


def test_a_matrix_that_lies_in_the_tensor_itself_is_written_as_it_was():
    p = Projection(0, 0, "q", "fused#q", 3, 3, 1, 3, Layout(1, 1, 3))
    stored = torch.arange(15.0).view(5, 3)
    wanted = p.read(stored).T.clone()
    p.write(stored, p.read(stored).T)
    assert torch.equal(p.read(stored), wanted)


def test_a_matrix_of_another_shape_is_not_broadcast_into_the_tensor():
    p = Projection(0, 0, "q", "fused#q", 4, 3, 2, 2, Layout(2, 1, 2))
    stored = torch.zeros(6, 3)
    with pytest.raises(MastlensError, match=re.escape("fused#q is 4 x 3")):
        p.write(stored, torch.ones(3))
    assert stored.eq(0).all()


def test_an_unknown_architecture_says_what_was_found():
    with pytest.raises(MastlensError, match=r"gpt9[\s\S]*h\.\{layer\}\.attn\.c_attn\.weight"):
        find_projections({"model_type": "gpt9"}, {"h.0.attn.c_attn.weight": (1, 1), "h.0.mlp.weight": (1, 1)})


def test_names_are_matched_anywhere_and_a_miss_is_told():
    names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    assert match_names(r"self_attn", names) == names[:1]
    with pytest.raises(MastlensError, match="matches no tensor"):
        match_names("q_prj", names)
    with pytest.raises(MastlensError, match="not a regular expression"):
        match_names("(", names)
