"""What ranks take on paper: shapes counted by hand, and the parts that follow from them."""

import pytest

import mastlens as m
from mastlens.errors import MastlensError
from mastlens.estimating.sizing import GATHERED, Shape, passes_of, sizing
from tests.lineages import tiny_config

# Two layers, hidden size 32, four query and two key-value heads of 8, inner size 64, 384 tokens.
ATTENTION = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 32 + 2 * 16  # q, k and v, o; biases of q, k and v
BLOCK = ATTENTION + 3 * 32 * 64 + 2 * 32
OUTSIDE = 384 * 32 + 32


def test_a_shape_is_what_a_model_consists_of():
    tied, matrices = Shape.of(tiny_config()), 2 * 32 * 32 + 2 * 16 * 32
    whole = 2 * BLOCK + OUTSIDE
    assert tied == Shape(whole, 2, BLOCK, OUTSIDE, whole, 2 * matrices, cached=2 * 2 * 16)
    apart = Shape.of(tiny_config(tie_word_embeddings=False))
    assert (apart.outside, apart.active) == (OUTSIDE + 384 * 32, whole)  # one is looked up, one multiplied


def test_a_token_passes_through_the_experts_that_it_is_sent_to():
    mixture = Shape.of(tiny_config("mixtral", num_local_experts=4, num_experts_per_tok=1))
    experts = 2 * 4 * 3 * 32 * 64
    assert mixture.active == mixture.parameters - 3 * experts // 4


def test_parts_follow_from_the_shape():
    shape = Shape(1000, 4, 200, 200, 900, 300, 10)
    found = sizing("couple", shape, ranks=4, itemsize=2, selected=100, sides=2)
    assert (found.weights, found.gathered, found.states) == (500, 2 * (GATHERED * 200 + 200), 2 * 4 * 100 / 4)
    assert found.memory == found.weights + found.gathered + found.states
    assert found.received == 2 * 2000 * 3 / 4 and found.read == 500
    assert found.arithmetic == 0  # of no texts
    few = sizing("couple", shape, ranks=4, itemsize=2, selected=100, sides=2, tokens=40, batches=3)
    assert few.arithmetic == (2 * 900 + 2 * (900 + 100)) * 10
    assert few.exchanged == 3 * few.received
    assert sizing("couple", shape, ranks=1, itemsize=2, selected=0).gathered == 0
    assert sizing("unlearn", shape, ranks=4, itemsize=2, selected=100).states == 20 * 25
    assert sizing("token-differences", shape, ranks=4, itemsize=2, selected=0).received == 1500
    assert sizing("token-differences", shape, ranks=4, itemsize=2, selected=0).read == 3 * 500
    assert passes_of("causal-map", shape, 2).forward == 2 * (4 * 4 / 2 + 8)
    assert passes_of("causal-map", shape, 2, patches=2).forward == 2 * (2 / 2 + 8)


def test_a_command_is_estimated_over_ranks_and_nothing_is_run(tiny, monkeypatch):
    monkeypatch.setattr("mastlens.estimating.needs._tried", None)
    given = {"sft": tiny.sft, "rlvr": tiny.rlvr, "forget": tiny.forget, "retain": tiny.retain, "dtype": "float32"}
    found = m.estimate(m.couple, given=given, ranks=2)
    shape = Shape.of(tiny_config())
    assert found.value("parameters") == shape.parameters
    assert found.value("weights") == shape.parameters * 4 / 2 / 1e6
    selected = 2 * (2 * 32 * 32 + 2 * 16 * 32)
    assert found.value("gradients and states") == 2 * 4 * selected / 2 / 1e6
    assert "Nothing was run" in found.card().verdict
    lines = found.value("tokens of the texts")
    assert lines > 200
    with pytest.raises(MastlensError, match="does not run over ranks"):
        m.estimate(m.geometry, given={"base": tiny.base, "rlvr": tiny.rlvr}, ranks=2)
    with pytest.raises(MastlensError, match="at least 1 rank"):
        m.estimate(m.couple, given=given, ranks=0)
