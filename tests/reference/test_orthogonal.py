"""Forget gradients orthogonal to retain gradients, against plain Hugging Face and numpy; resumed to the same bits."""

import numpy as np
import pytest
import torch

import mastlens as m
from mastlens.errors import MastlensError
from mastlens.problems.encoding import EncodedProblem
from mastlens.unlearning.loop import Unlearner
from mastlens.unlearning.objectives import make_objective
from mastlens.unlearning.orthogonal import RetainSubspace
from tests.reference import plain

SELECTED = ["model.layers.0.self_attn.v_proj.weight", "model.layers.1.self_attn.q_proj.weight"]


def encoded(path, folder):
    return [EncodedProblem(tuple(prompt), tuple(solution)) for prompt, solution in plain.encode_file(path, folder)]


def unlearner(tiny, **more):
    model = plain.load_model(tiny.rlvr)
    sides = encoded(tiny.forget, tiny.rlvr), encoded(tiny.retain, tiny.rlvr)
    objective = make_objective("graddiff", retain_weight=2.0)
    return Unlearner(model, SELECTED, objective, *sides, lr=1e-3, steps=6, batch_size=4, **more)


def test_what_is_left_lies_outside_of_the_span():
    rng = np.random.default_rng(0)
    subspace, retains = RetainSubspace(3), []
    for _ in range(5):
        forget, retain = ([torch.tensor(rng.normal(size=shape)).float() for shape in ((4, 3), (5,))] for _ in range(2))
        retains.append(np.concatenate([each.numpy().ravel() for each in retain]))
        found = np.concatenate([each.numpy().ravel() for each in subspace.outside(forget, retain)])
        span = np.stack(retains[-3:], axis=1)
        flat = np.concatenate([each.numpy().ravel() for each in forget])
        wanted = flat - span @ np.linalg.lstsq(span, flat, rcond=None)[0]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert len(subspace.kept) == 3
    twice = RetainSubspace(2)
    for _ in range(2):  # the same direction twice is one direction
        left = twice.outside(forget, retain)
    np.testing.assert_allclose(sum(float((a * b).sum()) for a, b in zip(left, retain, strict=True)), 0, atol=1e-5)


def test_the_gradient_of_a_step_is_that_of_plain_transformers(tiny, monkeypatch):
    run = unlearner(tiny, orthogonal_to_retain=1)
    rows = {side: schedule[0] for side, schedule in run.schedules.items()}
    model, gradients = plain.load_model(tiny.rlvr).double(), {}
    for side, sign, path in (("forget", -1, tiny.forget), ("retain", 2, tiny.retain)):
        items = plain.encode_file(path, tiny.rlvr)
        loss = sign * plain.token_mean_nll(model, [items[row] for row in rows[side]])
        found = torch.autograd.grad(loss, [model.get_parameter(name) for name in SELECTED])
        gradients[side] = torch.cat([each.reshape(-1) for each in found])
    forget, retain = gradients["forget"], gradients["retain"]
    wanted = forget - (forget @ retain) / (retain @ retain) * retain + retain
    seen = []
    monkeypatch.setattr(
        "torch.nn.utils.clip_grad_norm_",
        lambda parameters, _: seen.extend(p.grad.reshape(-1).double() for p in parameters) or torch.tensor(1.0),
    )
    run.step()
    torch.testing.assert_close(torch.cat(seen), wanted, rtol=1e-3, atol=1e-6)
    assert float((forget @ retain) / (forget.norm() * retain.norm())) != pytest.approx(0, abs=0.05)


def test_a_run_goes_on_to_the_same_bits_and_without_it_nothing_changes(tiny):
    whole = unlearner(tiny, orthogonal_to_retain=2)
    for _ in range(3):
        whole.step()
    state = {name: value.clone() for name, value in whole.state().items()}
    again = unlearner(tiny, orthogonal_to_retain=2)
    again.load_state(state)
    for run in (whole, again):
        while run.step():
            pass
    for name in SELECTED:
        assert torch.equal(whole.model.get_parameter(name), again.model.get_parameter(name))
    plainly, off = unlearner(tiny), unlearner(tiny, orthogonal_to_retain=0)
    for run in (plainly, off):
        run.step()
    assert torch.equal(plainly.model.get_parameter(SELECTED[0]), off.model.get_parameter(SELECTED[0]))


def test_at_every_step_of_a_run_what_is_left_is_orthogonal_to_what_is_kept(tiny, monkeypatch):
    seen, outside = [], RetainSubspace.outside

    def watched(self, forget, retain):
        left = outside(self, forget, retain)
        flat = [torch.cat([each.reshape(-1).double() for each in part]) for part in (forget, left, *self.kept)]
        seen.append([float(torch.cosine_similarity(flat[side], kept, dim=0)) for kept in flat[2:] for side in (0, 1)])
        return left

    monkeypatch.setattr(RetainSubspace, "outside", watched)
    run = unlearner(tiny, orthogonal_to_retain=2)
    while run.step():
        pass
    assert [len(each) for each in seen] == [2, 4, 4, 4, 4, 4]
    assert max(abs(each) for step in seen for each in step[1::2]) < 1e-4 < 0.05 < max(abs(step[0]) for step in seen)


@pytest.mark.parametrize(
    ("more", "said"),
    [({"orthogonal_to_retain": -1}, "0 or more"), ({"orthogonal_to_retain": 2, "retain": None}, "--retain")],
)
def test_what_makes_no_sense_is_refused(tiny, more, said):
    asked = {
        "rlvr": tiny.rlvr,
        "forget": tiny.forget,
        "retain": tiny.retain,
        "objective": "graddiff",
        "where": "v_proj",
    }
    with pytest.raises(MastlensError, match=said):
        m.unlearn(**{**asked, **more}, steps=2, lr=1e-3)
    with pytest.raises(MastlensError, match="steers activations"):
        m.unlearn(**{**asked, "objective": "rmu", "layer": 1, "orthogonal_to_retain": 1}, steps=2, lr=1e-3)
