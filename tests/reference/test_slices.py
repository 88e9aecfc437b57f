"""Parts of tensors through the whole chain: slices and heads are edited and taken back, and nothing beside them moves.

Slices are of fused tensors; heads are ranges of rows of q, k and v, and of columns of o.
"""

import pytest
import torch

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.negation import negate
from mastlens.problems.encoding import encode_problems
from mastlens.problems.reading import read_problems
from mastlens.selection.tensors import named_matrices, select_tensors
from mastlens.unlearning import make_objective, unlearning_steps
from tests.conftest import write_lineage

FUSED = {"phi3": {"num_key_value_heads": 2}, "gpt2": {"num_key_value_heads": None}, "gpt_neox": {}}
LR = 1e-3


@pytest.fixture(scope="module", params=FUSED)
def fused(request, tmp_path_factory):
    return write_lineage(tmp_path_factory.mktemp(request.param), request.param, **FUSED[request.param])


def named(checkpoint, label):
    """A projection of the second layer, as ``q``, or one of its heads, as ``q.1``."""
    label, _, head = label.partition(".")
    found = next(p for p in checkpoint.projections if p.layer == 1 and p.projection == label)
    return found.head(int(head)) if head else found


def outside(projection, stored):
    """A copy of the tensor with the slice blanked, so that all the rest can be compared."""
    copy = stored.clone()
    projection.write(copy, torch.zeros(projection.rows, projection.cols))
    return copy


def test_a_ranked_slice_is_edited_and_nothing_beside_it(fused, tmp_path):
    run = {"out": tmp_path, "progress": False}
    m.geometry(base=fused.base, sft=fused.sft, rlvr=fused.rlvr, rank=4, **run)
    m.couple(sft=fused.sft, rlvr=fused.rlvr, forget=fused.forget, retain=fused.retain, **run)
    ranking = m.rank(tmp_path, top=3)
    assert len(ranking.table) == 8
    result = m.unlearn(
        rlvr=fused.rlvr,
        ranking=tmp_path / "ranking.parquet",
        forget=fused.forget,
        objective="ga",
        steps=2,
        lr=LR,
        **run,
    )
    source = Checkpoint(fused.rlvr)
    edited = Checkpoint(m.apply_edit(result.edit, to=fused.rlvr, out=tmp_path / "edited"))
    selected = set(ranking.selected)
    assert any("#" in name for name in selected)
    for projection in source.projections:
        same = torch.equal(source.matrix(projection), edited.matrix(projection))
        assert same == (projection.name not in selected)
    for name in set(source.tensors) - {p.stored for p in source.projections}:
        assert torch.equal(source.tensor(name), edited.tensor(name))
    back = Checkpoint(m.revert_edit(result.edit, source=tmp_path / "edited", out=tmp_path / "back"))
    assert back.fingerprint == source.fingerprint


@pytest.mark.parametrize("label", ["q", "k", "v", "q.2", "v.1", "o.3"])
def test_the_first_step_of_a_slice_is_that_of_plain_adam_on_its_own_gradient(fused, label):
    checkpoint = Checkpoint(fused.rlvr)
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    problems = encode_problems(read_problems(fused.forget), tokenizer, context=128, source="f")[:4]
    projection = named(checkpoint, label)
    weight = dict(model.named_parameters())[projection.stored]
    before = weight.detach().clone()
    steps = unlearning_steps(model, [projection], make_objective("ga"), problems, lr=LR, steps=1, batch_size=4)
    norm = next(iter(steps)).grad_norm
    list(steps)
    moved = projection.read(weight.detach()) - projection.read(before)
    assert torch.equal(outside(projection, weight.detach()), outside(projection, before))

    plain = checkpoint.load_model()
    tensor = dict(plain.named_parameters())[projection.stored].requires_grad_(True)
    total, count = 0.0, 0
    for problem in problems:
        ids = torch.tensor([problem.prompt + problem.solution])
        logits = plain(ids).logits[0, :-1].log_softmax(-1)
        chosen = logits[torch.arange(ids.shape[1] - 1), ids[0, 1:]][len(problem.prompt) - 1 :]
        total, count = total + chosen.sum(), count + len(chosen)
    (total / count).backward()
    gradient = projection.read(tensor.grad)
    assert norm == pytest.approx(float(gradient.norm()), rel=1e-4)  # of the slice, not of the tensor
    gradient = gradient / max(1.0, float(gradient.norm()))
    expected = -LR * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("label", ["v", "k.1", "o.0"])
def test_negating_a_slice_puts_the_sft_slice_back(fused, label):
    sft, rlvr = Checkpoint(fused.sft), Checkpoint(fused.rlvr)
    projection = named(rlvr, label)
    edit = negate(sft=sft, rlvr=rlvr, names=[projection.name], progress=False)
    assert edit.names == [projection.stored]
    after = edit.after[projection.stored]
    assert torch.equal(projection.read(after), sft.matrix(projection))
    assert torch.equal(outside(projection, after), outside(projection, rlvr.tensor(projection.stored)))


def test_heads_are_edited_and_nothing_beside_them(fused, tmp_path):
    source = Checkpoint(fused.rlvr)
    selected = [named(source, label) for label in ("q.0", "q.3", "k.1", "o.2")]
    result = m.unlearn(
        rlvr=fused.rlvr,
        names=[head.name for head in selected],
        forget=fused.forget,
        retain=fused.retain,
        objective="npo",
        steps=2,
        lr=LR,
        out=tmp_path / "run",
        progress=False,
    )
    edited = Checkpoint(m.apply_edit(result.edit, to=fused.rlvr, out=tmp_path / "edited"))
    heads = [p.head(i) for p in source.projections for i in range(p.heads)]
    for head in heads:
        assert torch.equal(source.matrix(head), edited.matrix(head)) == (head not in selected), head.name
    assert sum(int((t != result.edit.before[n]).sum()) for n, t in result.edit.after.items()) == sum(
        head.numel for head in selected
    )
    assert set(result.edit.names) == {head.stored for head in selected}
    for name in set(source.tensors) - set(result.edit.names):
        assert torch.equal(source.tensor(name), edited.tensor(name))
    back = Checkpoint(m.revert_edit(result.edit, source=tmp_path / "edited", out=tmp_path / "back"))
    assert back.fingerprint == source.fingerprint


def test_slices_and_whole_tensors_are_selected_by_name_and_pattern(fused):
    checkpoint = Checkpoint(fused.rlvr)
    projection = named(checkpoint, "q")
    assert select_tensors(checkpoint, where=r"\.1\..*#q") == [projection.name]
    assert select_tensors(checkpoint, names=[projection.stored]) == [projection.stored]
    with pytest.raises(m.MastlensError, match="whole and in part"):
        named_matrices(checkpoint, [projection.stored, projection.name])
    with pytest.raises(m.MastlensError, match="weight matrix"):
        select_tensors(checkpoint, names=[projection.stored + "#x"])
