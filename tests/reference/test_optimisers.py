"""8-bit and paged AdamW: the same method to the rounding of its state, resumed to the same bits, refused in words."""

import importlib.util

import pandas as pd
import pytest
import torch

import mastlens as m
from mastlens.errors import MissingPackage, NotSupported
from mastlens.unlearning import optimisers
from mastlens.unlearning.optimisers import library_of, load_moments, make_optimiser, moments, take_step

SHAPE, STEPS, LR = (64, 64), 6, 1e-2  # as many entries as torchao keeps in 8 bits, in a whole number of its blocks
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


def path_of(name, *, stop=STEPS, state=None, done=0):
    """Return where AdamW takes a matrix that seeded gradients pull at, and the state that it ends in."""
    weight = torch.nn.Parameter(torch.full(SHAPE, 0.5))
    optimiser = make_optimiser(name, [weight], LR)
    if state is not None:
        weight.data.copy_(state["weight"])
        load_moments("moment", optimiser, state)
    for step in range(done, stop):
        weight.grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(step)) + 0.5
        take_step(optimiser, LR * (step + 1) / STEPS)
    return weight.detach().clone(), {"weight": weight.detach().clone(), **moments("moment", optimiser)}


def test_adamw_is_torchs_own_with_the_rate_of_each_step():
    weight = torch.nn.Parameter(torch.full(SHAPE, 0.5))
    plain = torch.optim.AdamW([weight], lr=LR, weight_decay=0.0)
    for step in range(STEPS):
        weight.grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(step)) + 0.5
        plain.param_groups[0]["lr"] = LR * (step + 1) / STEPS
        plain.step()
    assert torch.equal(path_of("adamw")[0], weight.detach())


@needs_torchao
def test_eight_bits_go_the_same_way_to_the_rounding_of_the_state():
    (full, whole), (short, kept) = path_of("adamw"), path_of("adamw-8bit")
    gone = torch.linalg.vector_norm(full - 0.5)
    assert 0 < torch.linalg.vector_norm(full - short) < 0.05 * gone
    sizes = [sum(t.nbytes for name, t in state.items() if name.startswith("moment")) for state in (whole, kept)]
    assert sizes[1] < 0.4 * sizes[0]  # the table of 256 levels is large beside so small a matrix
    assert kept["moment.0.exp_avg.codes"].dtype == torch.uint8


@needs_torchao
@pytest.mark.parametrize("name", ["adamw", "adamw-8bit"])
def test_a_run_that_goes_on_ends_in_the_same_bits(name):
    whole, _ = path_of(name)
    _, half = path_of(name, stop=3)
    resumed, _ = path_of(name, state={key: value.clone() for key, value in half.items()}, done=3)
    assert torch.equal(whole, resumed)
    forgetful, _ = path_of(name, state={"weight": half["weight"]}, done=3)
    assert not torch.equal(whole, forgetful)


@needs_torchao
def test_an_edit_is_made_with_it_and_says_so(tiny):
    asked = {"rlvr": tiny.rlvr, "forget": tiny.forget, "objective": "ga", "steps": 2, "lr": 1e-3, "progress": False}
    asked |= {"where": "layers.1.mlp"}
    made = {name: m.unlearn(**asked, optimizer=name) for name in ("adamw", "adamw-8bit")}
    assert "optimizer" not in made["adamw"].settings  # as in records of before
    assert made["adamw-8bit"].settings["optimizer"] == "adamw-8bit"
    assert made["adamw-8bit"].settings["optimizer_library"].startswith("torchao ")
    assert made["adamw"].edit.names == made["adamw-8bit"].edit.names
    pd.testing.assert_series_equal(
        made["adamw"].table["forget_loss"], made["adamw-8bit"].table["forget_loss"], rtol=1e-2
    )


def test_what_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(optimisers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"adamw-8bit needs torchao\. Install .*'mastlens\[8bit\]'"):
        library_of("adamw-8bit", "cpu")
    with pytest.raises(MissingPackage, match="needs bitsandbytes or torchao"):
        library_of("adamw-8bit", "cuda")
    with pytest.raises(NotSupported, match="the model is on cpu"):
        library_of("paged-adamw", "cpu")
    monkeypatch.setattr(optimisers.importlib.util, "find_spec", lambda name: name == "torchao" or None)
    assert library_of("adamw-8bit", "cuda") == "torchao"
    with pytest.raises(MissingPackage, match="paged-adamw-8bit needs bitsandbytes"):
        library_of("paged-adamw-8bit", "cuda")
    monkeypatch.setattr(optimisers.importlib.util, "find_spec", lambda name: True)
    assert library_of("adamw-8bit", "cuda") == "bitsandbytes"  # where both are, the one made for it
    assert library_of("adamw", "cuda") == ""
