"""Every known architecture: projections are those of the real model, and the chain runs on them."""

import pytest

import mastlens
from mastlens.errors import MastlensError
from mastlens.projections import ARCHITECTURES, ORDER, find_projections, match_names
from tests.conftest import write_lineage

CHANGES = {"qwen3": {"head_dim": 24}, "llama": {}, "qwen2": {}}  # qwen3: head size is not hidden / heads


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def lineage(request, tmp_path_factory):
    return request.param, write_lineage(tmp_path_factory.mktemp(request.param), request.param, **CHANGES[request.param])


def test_projections_are_those_of_the_model(lineage):
    model_type, folders = lineage
    checkpoint = mastlens.Checkpoint(folders.rlvr)
    parameters = dict(checkpoint.load_model().named_parameters())
    assert [(p.layer, p.projection) for p in checkpoint.projections] == [(i, p) for i in range(2) for p in ORDER]
    head_dim = CHANGES[model_type].get("head_dim", 8)
    for p in checkpoint.projections:
        assert tuple(parameters[p.name].shape) == (p.rows, p.cols)
        assert (p.heads, p.head_dim) == (2 if p.projection in "kv" else 4, head_dim)
        assert (p.cols if p.projection == "o" else p.rows) == p.heads * head_dim


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


def test_an_unknown_architecture_says_what_was_found():
    with pytest.raises(MastlensError, match=r"gpt9.*h\.0\.attn\.c_attn\.weight"):
        find_projections({"model_type": "gpt9"}, {"h.0.attn.c_attn.weight": (1, 1), "h.0.mlp.weight": (1, 1)})


def test_names_are_matched_anywhere_and_a_miss_is_told():
    names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    assert match_names(r"self_attn", names) == names[:1]
    with pytest.raises(MastlensError, match="matches no tensor"):
        match_names("q_prj", names)
    with pytest.raises(MastlensError, match="not a regular expression"):
        match_names("(", names)
