"""Batches: what is together, how much of it is padding, and what happens where memory runs out."""

from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mastlens as m
from mastlens.errors import BadSetting
from mastlens.models import batching, memory
from mastlens.models.batching import by_length
from mastlens.models.distributions import solution_tokens
from mastlens.models.divergence import token_divergence
from mastlens.models.gradients import measure_gradients
from mastlens.models.likelihood import sequence_logprobs
from mastlens.problems.encoding import EncodedProblem, pack

NAMES = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.o_proj.weight"]
SHORT = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.fixture(scope="module")
def model(tiny):
    return m.Checkpoint(tiny.rlvr).load_model()


@pytest.fixture(scope="module")
def problems():
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (30, 2), (3, 40), (12, 12), (2, 7), (9, 9), (20, 20), (4, 3), (11, 10)]
    return [EncodedProblem(*(tuple(rng.integers(1, 300, n).tolist()) for n in pair)) for pair in sizes]


@given(st.lists(st.integers(1, 90), max_size=40), st.integers(1, 200))
@settings(max_examples=200)
def test_packed_batches_cover_all_within_tokens_and_padding(lengths, tokens):
    parts = list(pack(lengths, "auto", tokens))
    assert [length for part in parts for length in lengths[part]] == lengths
    for part in parts:
        held = lengths[part]
        area = max(held) * len(held)
        assert len(held) == 1 or (area <= tokens and sum(held) >= 0.9 * area - 1e-9)
    for part, after in pairwise(parts):  # none could have taken the next text too
        held = lengths[part.start : part.stop] + [lengths[after.start]]
        assert max(held) * len(held) > tokens or sum(held) < 0.9 * max(held) * len(held)


@given(st.lists(st.integers(1, 90), max_size=40), st.integers(1, 9))
def test_a_number_is_so_many_texts(lengths, size):
    parts = [lengths[part] for part in pack(lengths, size, 0)]
    assert parts == [lengths[start : start + size] for start in range(0, len(lengths), size)]


@pytest.mark.parametrize("size", [0, -3, "many"])
def test_other_batch_sizes_make_no_sense(model, problems, size):
    with pytest.raises(BadSetting, match="at least 1, or auto"):
        sequence_logprobs(model, problems, batch_size=size)


def measured(model, problems, size):
    sums, counts = sequence_logprobs(model, problems, batch_size=size)
    logprobs, entropies = solution_tokens(model, problems, batch_size=size)
    changed = {NAMES[0]: 1.1 * model.get_parameter(NAMES[0])}
    apart = token_divergence(model, changed, problems, batch_size=size)
    slopes = measure_gradients(model, problems, NAMES, batch_size=size).mean
    return [sums, counts, *logprobs, *entropies, apart.to_numpy(), *(slope.numpy() for slope in slopes.values())]


@pytest.fixture(scope="module")
def alone(model, problems):
    return measured(model, problems, 1)


def test_no_result_depends_on_the_batches(model, problems, alone, monkeypatch):
    for most in (2048, 50):
        monkeypatch.setattr(memory, "_MOST", {"cpu": (most, most)})
        for found, wanted in zip(measured(model, problems, "auto"), alone, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(("size", "error"), [(9, SHORT[0]), ("auto", SHORT[1]), ("auto", SHORT[2])], ids=str)
def test_half_as_many_go_on_where_memory_runs_out(model, problems, alone, size, error, monkeypatch):
    areas, plain = [], type(model).forward

    def short(self, input_ids, **given):
        areas.append(input_ids.numel())
        if len(input_ids) > 1 and areas[-1] > 64:
            raise error
        return plain(self, input_ids, **given)

    monkeypatch.setattr(memory, "_MOST", {"cpu": (400, 400)})
    monkeypatch.setattr(memory.gc, "collect", int)  # of all that the tests hold: nothing of it is this model's
    monkeypatch.setattr(type(model), "forward", short)
    found = measured(model, problems, size)
    assert max(areas) > 64  # it was tried
    for one, wanted in zip(found, alone, strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_a_gradient_that_was_begun_when_memory_ran_out_does_not_count_twice(model, problems, monkeypatch):
    alone = measure_gradients(model, problems, NAMES, batch_size=1).mean
    lower, upper = (model.get_parameter(name) for name in NAMES)
    failed = []

    def short(_):
        if len(failed) < 2:  # the upper matrix has its gradient already
            failed.append(upper.grad)
            raise MemoryError

    lower.requires_grad_(True)
    handle = lower.register_hook(short)
    lower.requires_grad_(False)
    try:
        found = measure_gradients(model, problems, NAMES, batch_size=9).mean
    finally:
        handle.remove()
    assert failed == [None, None]  # taken, and the parameter's own is free again
    for name, gradient in alone.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_one_text_that_does_not_fit_is_said(model, problems, monkeypatch):
    def never(*given, **settings):
        raise MemoryError

    monkeypatch.setattr(type(model), "forward", never)
    with pytest.raises(m.NotSupported, match=r"A text of 43 tokens does not fit .* --dtype bfloat16"):
        sequence_logprobs(model, problems, batch_size="auto")


def test_another_error_is_none_of_memory(model, problems, monkeypatch):
    def broken(*given, **settings):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(type(model), "forward", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        sequence_logprobs(model, problems, batch_size="auto")


def test_short_memory_makes_smaller_batches(model, problems, monkeypatch):
    monkeypatch.setattr(batching, "peak", lambda device: nullcontext())  # what it took is said below

    def widest():
        batches = by_length(model, problems, "auto", None)
        sizes = []
        for _, batch in batches:
            with batches.fitting():
                batches._measured = 1e3 * batch.input_ids.numel()  # a thousand bytes a token
            sizes.append(batch.input_ids.numel())
        return max(sizes[1:])

    monkeypatch.setattr(memory, "_FIRST", 1)
    roomy = widest()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 64e3)
    assert widest() <= 43  # half of 64 tokens, or the one text that is longer
    assert roomy > 43


def test_free_memory_is_what_the_machine_and_the_container_leave(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    2000 kB\n")
    assert memory._free_here(meminfo, tmp_path) == 2000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory._free_here(meminfo, tmp_path) == 2000 * 1024
    (tmp_path / "memory.max").write_text("51000\n")
    assert memory._free_here(meminfo, tmp_path) == 50000
    assert memory._free_here(tmp_path / "none", tmp_path) is None
