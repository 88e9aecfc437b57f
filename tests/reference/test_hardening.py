"""Hardened forget steps against plain transformers in float64; weights as they were; resumed to the same bits."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import mastlens as m
from mastlens.errors import MastlensError
from mastlens.unlearning.hardening import _seed
from mastlens.unlearning.loop import Unlearner
from mastlens.unlearning.objectives import make_objective
from mastlens.unlearning.robustness import Robustness
from tests.reference import plain
from tests.reference.test_orthogonal import SELECTED, encoded

RHO, SIGMA, EPSILON, LAYER = 0.3, 0.05, 0.5, 0


def unlearner(tiny, robust=None, objective=None, **more):
    model = plain.load_model(tiny.rlvr)
    sides = encoded(tiny.forget, tiny.rlvr), encoded(tiny.retain, tiny.rlvr)
    objective = objective or make_objective("graddiff", retain_weight=2.0)
    settings = {"lr": 1e-3, "steps": 6, "batch_size": 4} | more
    return Unlearner(model, SELECTED, objective, *sides, robust=robust, **settings)


def of_step(run):
    """Return the gradients of the first step and what it reports, with the weights before and after, bit for bit."""
    rows = {side: schedule[0] for side, schedule in run.schedules.items()}
    before = [p.detach().clone() for p in run.masters.parameters]
    run.masters.drop_gradients()
    terms = run._terms(rows)
    assert all(torch.equal(a, b) for a, b in zip(before, run.masters.parameters, strict=True))
    return torch.cat([p.grad.reshape(-1).double() for p in run.masters.parameters]), terms, rows


def sides_of(tiny):
    paths = {"forget": tiny.forget, "retain": tiny.retain}
    return {side: plain.encode_file(path, tiny.rlvr) for side, path in paths.items()}


def gradient(model, loss):
    found = torch.autograd.grad(loss, [model.get_parameter(name) for name in SELECTED])
    return torch.cat([each.reshape(-1) for each in found])


@contextmanager
def moved(model, by):
    at = 0
    kept = [model.get_parameter(name).detach().clone() for name in SELECTED]
    with torch.no_grad():
        for name in SELECTED:
            weight = model.get_parameter(name)
            weight.add_(by[at : at + weight.numel()].view_as(weight))
            at += weight.numel()
    yield
    with torch.no_grad():
        for name, value in zip(SELECTED, kept, strict=True):
            model.get_parameter(name).copy_(value)


@pytest.fixture(scope="module")
def plainly(tiny):
    """The model in float64, its texts, and the forget and retain losses of a step's rows."""
    model, items = plain.load_model(tiny.rlvr).double(), sides_of(tiny)

    def forget(rows):
        return -plain.token_mean_nll(model, [items["forget"][row] for row in rows])

    def retain(rows):
        return 2 * plain.token_mean_nll(model, [items["retain"][row] for row in rows])

    return model, forget, retain


def check(found, terms, wanted, forget, rows):
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-6)
    assert terms["forget_loss"] == pytest.approx(float(forget(rows["forget"]).detach()), rel=1e-4)  # as things are


def test_a_sharpness_aware_step(tiny, plainly):
    model, forget, retain = plainly
    found, terms, rows = of_step(unlearner(tiny, Robustness(sharpness=RHO)))
    along = gradient(model, forget(rows["forget"]))
    with moved(model, RHO * along / along.norm()):
        sharp = gradient(model, forget(rows["forget"]))
    check(found, terms, sharp + gradient(model, retain(rows["retain"])), forget, rows)
    flat = of_step(unlearner(tiny))[0]
    assert not torch.allclose(found, flat, rtol=0.05)  # the move matters


def test_a_smoothed_step(tiny, plainly):
    model, forget, retain = plainly
    found, terms, rows = of_step(unlearner(tiny, Robustness(smoothing=SIGMA, draws=2), seed=7))
    drawn = torch.Generator().manual_seed(_seed(7, 0))
    shapes = [model.get_parameter(name).shape for name in SELECTED]
    smooth = 0
    for _ in range(2):
        noise = torch.cat([torch.randn(shape, generator=drawn).reshape(-1) for shape in shapes]).double()
        with moved(model, SIGMA * noise):
            smooth = smooth + gradient(model, forget(rows["forget"])) / 2
    check(found, terms, smooth + gradient(model, retain(rows["retain"])), forget, rows)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_step_with_disturbed_states(tiny, plainly, steps):
    model, forget, retain = plainly
    robust = Robustness(latent_noise=EPSILON, latent_layer=LAYER, latent_steps=steps)
    found, terms, rows = of_step(unlearner(tiny, robust))
    layer, by = model.model.layers[LAYER], {}
    sizes = {}

    def add(_, args, output):
        states = output[0] if isinstance(output, tuple) else output
        key = states.shape[1], round(float(states.detach().abs().sum()), 9)
        sizes.setdefault(key, states.detach().norm(dim=-1, keepdim=True))
        by.setdefault(key, torch.zeros_like(states).requires_grad_(True))
        states = states + by[key]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = layer.register_forward_hook(add)
    try:
        if not steps:  # at random: drawn for the batch with its padding, in the order of its rows
            items = sides_of(tiny)["forget"]
            lengths = [sum(map(len, items[row])) for row in rows["forget"]]
            drawn = torch.Generator().manual_seed(_seed(0, 0))
            noise = torch.randn(len(lengths), max(lengths), 32, generator=drawn).double()
            forget(rows["forget"])
            for place, (key, row) in enumerate(zip(list(by), rows["forget"], strict=True)):
                own = noise[place : place + 1, : lengths[place]]
                assert key[0] == sum(map(len, items[row]))
                by[key] = EPSILON * sizes[key] * own / own.norm(dim=-1, keepdim=True)
        for _ in range(steps):
            loss = forget(rows["forget"])
            slopes = torch.autograd.grad(loss, list(by.values()))
            share = 2 / steps if steps > 1 else 1.0
            for (key, noise), slope in zip(list(by.items()), slopes, strict=True):
                along = slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-12)
                climbed = noise.detach() + share * EPSILON * sizes[key] * along
                size = climbed.norm(dim=-1, keepdim=True).clamp_min(1e-12)
                by[key] = (climbed * (EPSILON * sizes[key] / size).clamp_max(1.0)).requires_grad_(True)
        worst = forget(rows["forget"])
        disturbed = gradient(model, worst)
        worst = worst.detach()
    finally:
        handle.remove()
    check(found, terms, disturbed + gradient(model, retain(rows["retain"])), forget, rows)
    if steps:  # the disturbance undoes forgetting: that is what it is for
        assert float(worst) > float(forget(rows["forget"]).detach())


@pytest.mark.parametrize(
    "robust",
    [Robustness(sharpness=RHO), Robustness(smoothing=SIGMA, draws=2), Robustness(latent_noise=EPSILON)],
    ids=["sharpness", "smoothing", "latent"],
)
def test_a_run_goes_on_to_the_same_bits_and_without_it_nothing_changes(tiny, robust):
    whole = unlearner(tiny, robust)
    for _ in range(3):
        whole.step()
    again = unlearner(tiny, robust)
    again.load_state({name: value.clone() for name, value in whole.state().items()})
    for run in (whole, again):
        while run.step():
            pass
    other = unlearner(tiny)
    while other.step():
        pass
    for name in SELECTED:
        assert torch.equal(whole.model.get_parameter(name), again.model.get_parameter(name))
        assert not torch.equal(whole.model.get_parameter(name), other.model.get_parameter(name))
    untouched = [name for name, _ in whole.model.named_parameters() if name not in SELECTED]
    source = plain.load_model(tiny.rlvr)
    assert all(torch.equal(whole.model.get_parameter(n), source.get_parameter(n)) for n in untouched)


def test_parts_of_a_batch_are_hardened_like_the_whole(tiny):
    for robust in (Robustness(sharpness=RHO), Robustness(latent_noise=EPSILON, latent_steps=2)):
        whole, parts = (of_step(unlearner(tiny, robust, micro_batch=size))[0] for size in (4, 2))
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-6)


def test_an_objective_that_steers_is_hardened_as_a_whole(tiny):
    model = plain.load_model(tiny.rlvr)
    sides = encoded(tiny.forget, tiny.rlvr), encoded(tiny.retain, tiny.rlvr)
    rmu = make_objective("rmu", layer=1)
    names = ["model.layers.1.mlp.down_proj.weight"]
    seen = []
    for robust in (None, Robustness(sharpness=RHO)):
        run = Unlearner(model, names, rmu, *sides, lr=1e-3, steps=1, batch_size=4, robust=robust)
        seen.append(of_step(run)[0])
    assert not torch.allclose(*seen, rtol=1e-3)
    with pytest.raises(MastlensError, match="steers the hidden states"):
        Unlearner(model, names, rmu, *sides, lr=1e-3, steps=1, robust=Robustness(latent_noise=0.1))


def test_the_command_records_it_only_where_it_is_asked_for(tiny, tmp_path):
    given = {"rlvr": tiny.rlvr, "names": SELECTED, "forget": tiny.forget, "retain": tiny.retain, "progress": False}
    given |= {"objective": "graddiff", "steps": 1, "lr": 1e-3, "batch_size": 2}
    assert "robust" not in m.unlearn(**given).settings
    hard = m.unlearn(**given, robust=Robustness(sharpness=0.1)).settings["robust"]
    assert hard["sharpness"] == 0.1
    from mastlens.cli import main

    words = ["unlearn", "--rlvr", tiny.rlvr, "--where", "layers.0.self_attn.v_proj", "--forget", tiny.forget]
    words += ["--objective", "ga", "--steps", "1", "--lr", "1e-3", "--out", tmp_path / "out"]
    assert main([str(word) for word in [*words, "--smoothing", "0.01", "--sharpness", "0.1", "--quiet"]]) == 2
    assert not (tmp_path / "out").exists()
    assert main([str(word) for word in [*words, "--latent-noise", "0.1", "--latent-steps", "2", "--quiet"]]) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "in one way"),
        ({"sharpness": 0.1, "smoothing": 0.1}, "in one way"),
        ({"sharpness": -0.1}, "--sharpness"),
        ({"smoothing": float("nan")}, "--smoothing"),
        ({"smoothing": 0.1, "draws": 0}, "--smoothing-draws"),
        ({"sharpness": 0.1, "draws": 2}, "--smoothing-draws"),
        ({"sharpness": 0.1, "latent_steps": 1}, "--latent-steps"),
        ({"latent_noise": 0.1, "latent_steps": -1}, "--latent-steps"),
    ],
)
def test_what_makes_no_sense_is_said(given, said):
    with pytest.raises(MastlensError, match=said):
        Robustness(**given).check()


def test_a_layer_that_is_not_there_and_learnt_token_weights_are_refused(tiny):
    with pytest.raises(MastlensError, match="no layer 5"):
        unlearner(tiny, Robustness(latent_noise=0.1, latent_layer=5))
    weighted = make_objective("graddiff", retain_weight=1.0, token_weights=m.TokenWeights())
    with pytest.raises(MastlensError, match="Token weights"):
        unlearner(tiny, Robustness(sharpness=0.1), weighted)
    assert np.isfinite(of_step(unlearner(tiny, Robustness(sharpness=0.1)))[1]["forget_loss"])
