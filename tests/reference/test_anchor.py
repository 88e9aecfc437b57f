"""The elastic anchor against numbers by hand, block by block; free blocks stay free; resumed to the same bits."""

import math

import numpy as np
import pytest
import torch

import mastlens as m
from mastlens.errors import MastlensError
from mastlens.unlearning.anchor import Anchor
from mastlens.unlearning.anchoring import Anchoring, layer_of, own_blocks
from mastlens.unlearning.loop import Unlearner
from mastlens.unlearning.masters import Masters
from mastlens.unlearning.objectives import make_objective
from tests.reference import plain
from tests.reference.test_hardening import unlearner
from tests.reference.test_orthogonal import SELECTED, encoded

SIZE = 10


def test_the_term_and_its_gradient_by_hand(tiny):
    model = plain.load_model(tiny.rlvr)
    masters = Masters(model, SELECTED)
    anchoring = Anchoring(Anchor(strength=0.5, block=2, keep=0.0), masters, model, {}, 1)
    assert anchoring.own == [] and anchoring.pull() == 0.0
    first, other = masters.parameters
    source = [[3.0, 0.0], [0.0, 4.0]]  # |V| = 5
    anchoring.source[0][:2, :2] = torch.tensor(source)
    with torch.no_grad():
        first[:2, :2] = torch.tensor(source) + torch.tensor([[1.0, 0.0], [2.0, 2.0]])  # |W - V| = 3
    masters.drop_gradients()
    weight = 0.5 * (1 + math.tanh(3 / 5))
    assert anchoring.pull() == pytest.approx(weight * 9)
    assert first.grad[:2, :2].numpy() == pytest.approx(2 * weight * np.array([[1.0, 0.0], [2.0, 2.0]]))
    assert first.grad[2:].abs().sum() == first.grad[:2, 2:].abs().sum() == other.grad.abs().sum() == 0
    anchoring.pull()  # is added to what is there
    assert float(first.grad[0, 0]) == pytest.approx(4 * weight)


def test_a_sides_own_blocks_by_hand():
    forget = [torch.tensor([4.0, 1.0, 1.0, 0.0]).double(), torch.tensor([3.0, 1.0, 1.0, 1.0]).double()]
    retain = [torch.tensor([0.0, 1.0, 1.0, 0.0]).double(), torch.tensor([9.0, 1.0, 1.0, 1.0]).double()]
    alone = own_blocks([forget], [0, 1], 0.25)
    assert [own.tolist() for own in alone] == [[True, False, False, False], [True, False, False, False]]
    both = own_blocks([forget, retain], [0, 1], 0.25)  # retain keeps the second's first block, and one of the first
    assert both[0].tolist()[0] and not both[1].any()
    assert own_blocks([], [0, 1], 0.0) == []
    assert [layer_of(name) for name in ("model.layers.12.mlp.up_proj.weight", "model.embed_tokens.weight")] == [12, -1]


def test_the_free_blocks_are_those_of_plain_gradients_and_the_rest_is_pulled(tiny):
    run = unlearner(tiny, anchor=Anchor(strength=3.0, block=SIZE, keep=0.2))
    model = plain.load_model(tiny.rlvr)
    standard = []
    for path in (tiny.forget, tiny.retain):
        model.zero_grad()
        plain.token_mean_nll(model, plain.encode_file(path, tiny.rlvr)).backward()
        scores = []
        for name in SELECTED:  # of two layers: each is standardised by itself
            gradient = np.abs(model.get_parameter(name).grad.double().numpy())
            rows, cols = (range(0, n, SIZE) for n in gradient.shape)
            means = np.array([gradient[i : i + SIZE, j : j + SIZE].mean() for i in rows for j in cols])
            scores.append((means - means.mean()) / means.std())
        standard.append(np.concatenate(scores))
    alpha = 1 / (1 + math.log(2))
    score = alpha * standard[0] + (1 - alpha) * np.abs(standard[0] - standard[1])
    count = math.ceil(round(0.2 * len(score), 9))
    wanted = set(np.argsort(-score)[:count]) - set(np.argsort(-standard[1])[:count])
    assert set(torch.cat(run.anchoring.own).nonzero().flatten().tolist()) == wanted and wanted
    assert run.anchoring.record() == {"blocks": len(score), "free_blocks": len(wanted)}

    gradients = {}
    for name, anchored in (("with", run), ("without", unlearner(tiny))):
        with torch.no_grad():
            for parameter in anchored.masters.parameters:
                parameter.add_(0.1)
        anchored.masters.drop_gradients()
        anchored._terms({side: schedule[0] for side, schedule in anchored.schedules.items()})
        if anchored.anchoring is not None:
            assert anchored.anchoring.pull() > 0
        gradients[name] = [parameter.grad.clone() for parameter in anchored.masters.parameters]
    for own, there, plainly in zip(run.anchoring.own, gradients["with"], gradients["without"], strict=True):
        across = math.ceil(there.shape[1] / SIZE)
        free = own.view(-1, across).repeat_interleave(SIZE, 0).repeat_interleave(SIZE, 1)
        free = free[: there.shape[0], : there.shape[1]]
        assert torch.equal(there[free], plainly[free])
        assert bool((there[~free] > plainly[~free]).all())


def test_it_holds_and_a_run_goes_on_to_the_same_bits(tiny):
    anchor = Anchor(strength=50.0, block=SIZE, keep=0.2)
    whole, again, free = (unlearner(tiny, anchor=each) for each in (anchor, anchor, None))
    first = whole.step()
    assert first.anchor_loss == 0 and math.isnan(free.step().anchor_loss)
    second = whole.step()
    assert second.anchor_loss > 0
    again.load_state({name: value.clone() for name, value in whole.state().items()})
    for run in (whole, again, free):
        while run.step():
            pass
    source = plain.load_model(tiny.rlvr)
    moved = {}
    for name, run in (("held", whole), ("free", free)):
        moved[name] = sum(float((run.model.get_parameter(n) - source.get_parameter(n)).norm()) for n in SELECTED)
    assert moved["held"] < moved["free"]
    assert all(torch.equal(whole.model.get_parameter(n), again.model.get_parameter(n)) for n in SELECTED)
    untouched = [name for name, _ in whole.model.named_parameters() if name not in SELECTED]
    assert all(torch.equal(whole.model.get_parameter(n), source.get_parameter(n)) for n in untouched)


def test_with_objectives_of_another_kind_and_from_another_start(tiny):
    sides = encoded(tiny.forget, tiny.rlvr), encoded(tiny.retain, tiny.rlvr)
    model, name = plain.load_model(tiny.rlvr), "model.layers.1.mlp.down_proj.weight"
    given = {"lr": 1e-3, "steps": 2, "batch_size": 4, "anchor": Anchor(strength=1.0)}
    rmu = Unlearner(model, [name], make_objective("rmu", layer=1), *sides, **given)
    assert rmu.step().anchor_loss == 0 and rmu.step().anchor_loss > 0
    model = plain.load_model(tiny.rlvr)
    moved = {SELECTED[0]: model.get_parameter(SELECTED[0]).detach() + 0.1}
    run = Unlearner(model, SELECTED[:1], make_objective("ga"), sides[0], **given, begin_at=moved)
    assert run.step().anchor_loss > 0  # to the source, wherever it begins


def test_the_command_records_it_only_where_it_is_asked_for(tiny, tmp_path):
    given = {"rlvr": tiny.rlvr, "names": SELECTED, "forget": tiny.forget, "retain": tiny.retain, "progress": False}
    given |= {"objective": "npo", "steps": 2, "lr": 1e-3, "batch_size": 2}
    without = m.unlearn(**given)
    assert "anchor" not in without.settings and without.table["anchor_loss"].isna().all()
    made = m.unlearn(**given, anchor=Anchor(strength=2.0, block=8), out=tmp_path / "run")
    assert made.settings["anchor"] == {"strength": 2.0, "block": 8, "keep": 0.13}
    assert 0 < made.edit.settings["anchored"]["free_blocks"] < made.edit.settings["anchored"]["blocks"]
    assert made.table["anchor_loss"].notna().all()
    with pytest.raises(MastlensError, match="other anchor"):
        m.unlearn(**given, anchor=Anchor(strength=1.0, block=8), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--anchor", "0"], "above 0"),
        (["--anchor-keep", "0.2"], "Give --anchor"),
        (["--anchor", "1", "--anchor-keep", "1"], "below 1"),
        (["--anchor", "1", "--anchor-block", "0"], "at least one row"),
    ],
)
def test_what_is_no_anchor_is_refused(tiny, capsys, options, said):
    from mastlens.cli import main

    words = ["unlearn", "--rlvr", tiny.rlvr, "--where", "v_proj", "--forget", tiny.forget, "--objective", "ga"]
    words += ["--steps", "1", "--lr", "1e-3", "--out", tiny.rlvr.parent / "never", *options]
    assert main([str(word) for word in words]) == 2
    assert said in capsys.readouterr().err
