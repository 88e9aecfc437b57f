"""The floors of storage precision against weights that are really rounded."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mastlens.analysis.increments import precision
from mastlens.analysis.increments.masks import changed_fraction, update_mask
from mastlens.analysis.increments.precision import coarser, neighbour_fraction, rounding_variance, unit_in_last_place
from mastlens.errors import MastlensError

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def precision_floor(a, b):
    return precision.precision_floor(rounding_variance(a) + rounding_variance(b), *a.shape)


def random_weight(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape) * 0.02)


@pytest.mark.parametrize("before", DTYPES)
@pytest.mark.parametrize("after", DTYPES)
def test_the_floor_is_what_two_independent_roundings_measure(before, after):
    """The same weights twice, each copy off by less than can be seen, rounded on its own: numpy measures the rest."""
    true = random_weight(0, 300, 200)
    # Moved by a few units of the coarser dtype, known exactly, so that the two rounding errors are independent.
    offset = torch.tensor(np.random.default_rng(1).uniform(-4, 4, true.shape))
    offset = offset * unit_in_last_place(true.to(coarser(before, after))).double()
    a, b = true.to(before), (true + offset).to(after)
    error = (b.double() - a.double() - offset).numpy()
    floor = precision_floor(a, b)
    assert floor.norm == pytest.approx(np.linalg.norm(error), rel=0.02)
    assert floor.largest == pytest.approx(np.linalg.norm(error, 2), rel=0.04)
    s = np.linalg.svd(true.numpy(), compute_uv=False)
    shift = np.linalg.norm(np.linalg.svd(true.numpy() + error, compute_uv=False) - s)
    assert floor.spectral_shift == pytest.approx(shift, rel=0.15)


def test_two_dtypes_add_in_square():
    w = random_weight(2, 40, 50)
    half, single = w.bfloat16(), w.float()
    both, fine, coarse = precision_floor(half, single), precision_floor(single, single), precision_floor(half, half)
    assert math.isclose(both.norm**2, (fine.norm**2 + coarse.norm**2) / 2, rel_tol=1e-6)
    assert fine.norm < 1e-4 * coarse.norm
    assert coarser(torch.bfloat16, torch.float32) == coarser(torch.float32, torch.bfloat16) == torch.bfloat16
    assert coarser(torch.float16, torch.bfloat16) == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_units_are_the_distance_to_the_next_number(dtype):
    values = random_weight(3, 30, 20).to(dtype)
    values[0, :4] = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=dtype)
    up = torch.nextafter(values.abs(), torch.full_like(values, float("inf")))
    expected = up.double() - values.double().abs()
    expected[0, 3] = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    assert torch.equal(unit_in_last_place(values).double(), expected)


def test_subnormal_halves_keep_the_spacing_of_the_smallest_normal_one():
    values = torch.tensor([[2.0**-20, 2.0**-14, 2.0**-24]], dtype=torch.float16)
    assert unit_in_last_place(values).tolist() == [[2.0**-24] * 3]


def test_below_marks_what_rounding_alone_would_give_but_not_zero():
    w = random_weight(4, 60, 60).bfloat16()
    floor = precision_floor(w, w)
    assert not floor.below(0.0)
    assert floor.below(0.5 * floor.norm)
    assert not floor.below(1.5 * floor.norm)
    step = 0.05 * unit_in_last_place(w).double() * random_weight(5, 60, 60).sign()
    assert floor.below(float(step.norm()))
    assert not floor.below(float(20 * 2 * step.norm()))
    assert torch.equal((w.double() + step).bfloat16(), w)  # what is marked would indeed not have been stored


@settings(max_examples=25, deadline=None)
@given(st.integers(-20, 20))
def test_floors_scale_with_the_weights(exponent):
    w = random_weight(6, 20, 30).float()
    one, other = precision_floor(w, w), precision_floor(w * 2.0**exponent, w * 2.0**exponent)
    assert math.isclose(other.norm, one.norm * 2.0**exponent, rel_tol=1e-6)
    assert math.isclose(other.largest, one.largest * 2.0**exponent, rel_tol=1e-6)
    assert math.isclose(one.norm, precision_floor(-w, w).norm, rel_tol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_are_one_step_apart(dtype):
    w = random_weight(7, 20, 30).to(dtype)
    up = torch.nextafter(w, torch.full_like(w, float("inf")))
    further = torch.nextafter(up, torch.full_like(w, float("inf")))
    assert neighbour_fraction(w, w.clone()) == 0
    assert neighbour_fraction(w, up) == neighbour_fraction(up, w) == 1
    assert neighbour_fraction(w, further) == 0
    assert neighbour_fraction(w, -w) == 0
    assert neighbour_fraction(torch.zeros_like(w), -torch.zeros_like(w)) == 0
    mixed = torch.where(torch.arange(30) < 10, up, torch.where(torch.arange(30) < 15, further, w))
    assert neighbour_fraction(w, mixed) == pytest.approx(1 / 3)
    assert changed_fraction(update_mask(w, mixed, view="native")) == pytest.approx(1 / 2)


def test_neighbours_are_counted_in_the_coarser_dtype_unless_told():
    w = random_weight(8, 40, 40).float()
    moved = w + unit_in_last_place(w)
    assert neighbour_fraction(w, moved) == 1
    assert neighbour_fraction(w, moved, torch.bfloat16) < 0.01
    assert neighbour_fraction(w.bfloat16(), moved) == neighbour_fraction(w, moved, torch.bfloat16)
    with pytest.raises(MastlensError, match="float64"):
        neighbour_fraction(w.double(), moved.double())
