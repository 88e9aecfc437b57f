"""Gates on the increment: against autograd through the whole model, by hand, and to the bits of both models."""

import pytest
import torch

import mastlens as m
from mastlens.analysis.scores.hard_concrete import SHUT, open_share, stretched
from mastlens.errors import MastlensError
from mastlens.unlearning import Unlearner
from mastlens.unlearning.gating import GateOptimiser, taken_back
from mastlens.unlearning.masters import Masters
from mastlens.unlearning.objectives import make_objective

from ..conftest import run_command
from .test_splitting import texts

NAMES = ["model.layers.0.self_attn.v_proj.weight", "model.layers.1.self_attn.q_proj.weight"]


@pytest.fixture
def pair(tiny):
    """The RLVR model, and the SFT model's tensors of what is selected."""
    return m.Checkpoint(tiny.rlvr).load_model(), {name: m.Checkpoint(tiny.sft).tensor(name) for name in NAMES}


def moved(model, before, unit, locations, price=0.0, lr=0.1):
    """Return masters and optimiser with gates at some locations."""
    masters = Masters(model, NAMES)
    optimiser = GateOptimiser(masters, before, lr=lr, unit=unit, price=price)
    with torch.no_grad():
        for group in optimiser.param_groups:
            for location, value in zip(group["params"], locations, strict=True):
                location.fill_(value)
    for part in optimiser._parts:
        part.write()
    masters.write_back()
    return masters, optimiser


@pytest.mark.parametrize("unit", ["tensor", "direction"])
def test_shut_gates_are_the_source_and_open_ones_the_model_before(pair, unit):
    model, before = pair
    source = {name: model.get_parameter(name).detach().clone() for name in NAMES}
    assert float(stretched(torch.tensor(SHUT))) == pytest.approx(0, abs=1e-7)
    masters, _ = moved(model, before, unit, [-9.0, 9.0])
    assert torch.equal(model.get_parameter(NAMES[0]), source[NAMES[0]])
    now = model.get_parameter(NAMES[1])
    if unit == "tensor":
        assert torch.equal(now, before[NAMES[1]])
    else:
        assert torch.allclose(now, before[NAMES[1]], atol=1e-6) and not torch.equal(now, source[NAMES[1]])
    shares = taken_back(masters, source, before)
    assert shares == pytest.approx(dict(zip(NAMES, [0.0, 1.0], strict=True)), abs=1e-5)


@pytest.mark.parametrize("unit", ["tensor", "direction"])
def test_a_gates_slope_is_the_losss_derivative_by_it(pair, unit):
    """Against autograd through W(gate) in plain torch, in float64, of the loss of a whole forward pass."""
    model, before = pair
    model = model.double()
    source = {name: model.get_parameter(name).detach().clone() for name in NAMES}
    ids = torch.arange(12)[None]

    def loss_at(weights):
        logits = torch.func.functional_call(model, weights, (ids,)).logits
        return logits[0, :-1].log_softmax(-1)[torch.arange(11), ids[0, 1:]].mean()

    masters, optimiser = moved(model, before, unit, [0.2, -0.3])
    loss_at({}).backward()
    masters.take_gradients()
    parts = optimiser._parts
    gates = [stretched(part.location.double()).detach().clamp(0, 1).requires_grad_(True) for part in parts]
    weights = {}
    for name, gate in zip(NAMES, gates, strict=True):
        delta = source[name] - before[name].double()
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        weights[name] = source[name] - (gate * delta if unit == "tensor" else (u * (gate * s)) @ v)
    wanted = torch.autograd.grad(loss_at(weights), gates)
    for part, slope in zip(parts, wanted, strict=True):
        assert torch.allclose(part.slopes().double(), slope, rtol=2e-3, atol=2e-6 * float(slope.abs().max()) + 1e-7)


def test_one_step_by_hand(pair):
    """Adam's first step moves every gate by the learning rate, against its slope and its price."""
    model, before = pair
    masters, optimiser = moved(model, before, "tensor", [SHUT, SHUT], price=0.7, lr=0.05)
    deltas = [model.get_parameter(name).detach() - before[name] for name in NAMES]
    for parameter, sign, delta in zip(masters.parameters, (1, -1), deltas, strict=True):
        parameter.grad = sign * 1e3 * delta  # down the gradient is along, and against, what would be given back
    optimiser.step()
    locations = [float(part.location.detach()) for part in optimiser._parts]
    assert locations == pytest.approx([SHUT + 0.05, SHUT - 0.05], abs=1e-6)
    gate = float(stretched(torch.tensor(SHUT + 0.05)))
    assert 0 < gate < 1
    edited = [model.get_parameter(name).detach() for name in NAMES]
    assert torch.allclose(edited[0], before[NAMES[0]] + (1 - gate) * deltas[0], atol=1e-7)
    assert torch.equal(edited[1], optimiser._parts[1]._source), "a shut gate stays shut"
    # Where nothing pulls, the price alone shuts.
    _, dear = moved(model, before, "tensor", [0.0, 0.0], price=0.7)
    for part in dear._parts:
        part._master.grad = torch.zeros_like(part._master)
    was = [float(open_share(part.location.detach())) for part in dear._parts]
    dear.step()
    assert all(
        float(open_share(part.location.detach())) < before for part, before in zip(dear._parts, was, strict=True)
    )


@pytest.mark.parametrize("unit", ["tensor", "direction"])
def test_a_matrix_that_nothing_reached_is_moved_by_its_price_alone(pair, unit):
    """As an expert that no token went to: it has no gradient at all."""
    model, before = pair
    masters, optimiser = moved(model, before, unit, [0.0, 0.0], price=0.7)
    masters.parameters[0].grad = torch.zeros_like(masters.parameters[0])
    was = [part.location.detach().clone() for part in optimiser._parts]
    optimiser.step()
    assert all((part.location < old).all() for part, old in zip(optimiser._parts, was, strict=True))
    _, free = moved(model, before, unit, [0.0, 0.0], price=0.0)
    free.step()
    assert all((part.location == 0).all() for part in free._parts)


def test_it_learns_to_give_back_and_nothing_else_changes(pair):
    model, before = pair
    rest = {name: p.detach().clone() for name, p in model.named_parameters() if name not in NAMES}
    source = {name: model.get_parameter(name).detach().clone() for name in NAMES}
    settings = {"lr": 0.2, "steps": 6, "batch_size": 4, "before": before}
    run = Unlearner(model, NAMES, make_objective("gates", price=0.0), texts(1), texts(2), **settings)
    state, after = {}, {}
    for record in run.remaining():
        if record.step == 3:
            state = {name: value.clone() for name, value in run.state().items()}
    after = {name: model.get_parameter(name).detach().clone() for name in NAMES}
    for name in NAMES:  # a point between the two models, entry by entry
        low, high = torch.minimum(source[name], before[name]), torch.maximum(source[name], before[name])
        assert ((after[name] >= low - 1e-7) & (after[name] <= high + 1e-7)).all()
    assert any(share > 0 for share in taken_back(run.masters, source, before).values())
    for name, value in rest.items():
        assert torch.equal(model.get_parameter(name), value), name
    run.masters.restore([source[name] for name in NAMES])  # as a fresh process loads it
    again = Unlearner(model, NAMES, make_objective("gates", price=0.0), texts(1), texts(2), **settings)
    again.load_state(state)
    list(again.remaining())
    assert all(torch.equal(model.get_parameter(name), after[name]) for name in NAMES), "as without an interruption"


def test_the_command_writes_what_was_given_back_and_refuses_what_makes_no_sense(tiny, tmp_path):
    common = ["unlearn", "--rlvr", tiny.rlvr, "--where", "layers.1.self_attn.[qk]_proj", "--forget", tiny.forget]
    common += ["--retain", tiny.retain, "--steps", 2, "--lr", 0.2, "--batch-size", 4]
    out = tmp_path / "run"
    run_command(*common, "--objective", "gates", "--sft", tiny.sft, "--gate", "direction", "--price", 0, "--out", out)
    edit = m.Edit.load(out / "edit.safetensors")
    assert set(edit.settings["taken_back"]) == set(edit.names)
    assert all(-1e-6 <= share <= 1 + 1e-6 for share in edit.settings["taken_back"].values())
    for more, told in (
        ((), "gates needs --sft PATH"),
        (("--sft", tiny.sft, "--start", "sft"), "begins at the source"),
        (("--sft", tiny.rlvr), "nothing to take back"),
        (("--sft", tiny.sft, "--gate", "head"), "head"),
    ):
        with pytest.raises(MastlensError, match=told):
            run_command(*common, "--objective", "gates", *more, "--out", tmp_path / "bad")
        assert not (tmp_path / "bad" / "edit.safetensors").exists()
