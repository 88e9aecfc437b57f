"""Ranks of increments, the distance to the old spectrum, and their nulls against numpy and scipy in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mastlens.analysis.increments.nulls import random_increments, rotated_null
from mastlens.analysis.increments.ranks import energy_rank
from mastlens.analysis.increments.spectra import (
    effective_rank,
    estimate_participation,
    fixed_spectrum_distance,
    fixed_spectrum_null,
    gaussian_singular_values,
    isotropic_ratio,
    participation_ratio,
    spectrum_nulls,
    spectrum_readings,
    stable_rank,
    stable_rank_null,
)

seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=25, deadline=None)


def random_matrix(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def rotation(seed, n):
    return np.linalg.qr(random_matrix(seed, n, n))[0]


def values(d):
    return torch.tensor(np.linalg.svd(d, compute_uv=False))


def test_readings_are_their_definitions():
    d = random_matrix(0, 30, 20) @ np.diag(np.geomspace(1, 1e-3, 20))
    s = np.linalg.svd(d, compute_uv=False)
    found = spectrum_readings(torch.tensor(s))
    assert math.isclose(found.stable_rank, np.linalg.norm(d) ** 2 / np.linalg.norm(d, 2) ** 2, rel_tol=1e-12)
    assert math.isclose(found.effective_rank, math.exp(stats.entropy(s)), rel_tol=1e-12)
    assert math.isclose(found.participation, np.linalg.norm(d.T @ d) ** 2 / np.linalg.norm(d) ** 4, rel_tol=1e-12)
    k = int(found.energy_rank_99)
    assert np.sum(s[:k] ** 2) >= 0.99 * np.sum(s**2) > np.sum(s[: k - 1] ** 2)
    float32 = spectrum_readings(torch.tensor(s).float())
    assert math.isclose(float32.effective_rank, found.effective_rank, rel_tol=1e-5)


def test_planted_spectra():
    one = spectrum_readings(torch.tensor([5.0, 0.0, 0.0]))
    assert (one.stable_rank, one.effective_rank, one.energy_rank_99, one.participation) == (1, 1, 1, 1)
    flat = spectrum_readings(torch.full((8,), 0.3, dtype=torch.float64))
    assert flat.stable_rank == pytest.approx(8)
    assert flat.effective_rank == pytest.approx(8)
    assert flat.energy_rank_99 == 8
    assert flat.participation == pytest.approx(1 / 8)
    zero = spectrum_readings(torch.zeros(4))
    assert (zero.stable_rank, zero.effective_rank, zero.energy_rank_99, zero.participation) == (0, 0, 0, 0)
    assert stable_rank(torch.zeros(4)) == effective_rank(torch.zeros(4)) == participation_ratio(torch.zeros(4)) == 0


@few
@given(seeds, st.floats(1e-150, 1e150), st.integers(1, 7), st.integers(1, 7))
def test_readings_are_bounded_and_blind_to_scale_sign_and_rotation(seed, scale, rows, cols):
    d = random_matrix(seed, rows, cols)
    plain = spectrum_readings(values(d))
    turned = spectrum_readings(values(-scale * rotation(seed + 1, rows) @ d @ rotation(seed + 2, cols)))
    for name in ("stable_rank", "effective_rank", "participation"):
        assert math.isclose(getattr(plain, name), getattr(turned, name), rel_tol=1e-9)
    smaller = min(rows, cols)
    slack = 1 + 1e-12
    assert 1 <= slack * plain.stable_rank <= slack**2 * smaller
    assert 1 <= slack * plain.effective_rank <= slack**2 * smaller
    assert 1 / smaller <= slack * plain.participation <= slack**2
    assert plain.stable_rank <= slack * plain.effective_rank**2  # both count; neither is free of the other
    assert 1 / plain.participation <= slack * smaller


@few
@given(seeds, st.floats(1e-8, 10.0))
def test_the_distance_obeys_weyl_and_mirsky(seed, size):
    w, d = random_matrix(seed, 12, 9), size * random_matrix(seed + 1, 12, 9)
    old, new = values(w), values(w + d)
    distance = fixed_spectrum_distance(old, new)
    assert distance <= np.linalg.norm(d) * (1 + 1e-9) + 1e-12
    assert float((new - old).abs().max()) <= np.linalg.norm(d, 2) * (1 + 1e-9) + 1e-12
    u, _, vt = np.linalg.svd(w + d, full_matrices=False)
    nearest = u @ np.diag(old.numpy()) @ vt  # the member of the family that attains it
    assert math.isclose(distance, np.linalg.norm(w + d - nearest), rel_tol=1e-6, abs_tol=1e-10)
    other = rotation(seed + 2, 12) @ w @ rotation(seed + 3, 9)  # any other member is farther
    assert np.linalg.norm(w + d - other) >= distance * (1 - 1e-9)


def test_turning_the_singular_vectors_is_no_distance_and_stretching_is_all_of_it():
    w = random_matrix(2, 40, 30)
    turned = rotation(3, 40) @ w
    assert fixed_spectrum_distance(values(w), values(turned)) < 1e-10
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    d = u @ np.diag(0.01 * s) @ vt
    distance = fixed_spectrum_distance(values(w), values(w + d))
    assert math.isclose(distance, np.linalg.norm(d), rel_tol=1e-9)
    assert math.isclose(isotropic_ratio(distance, float(np.linalg.norm(d)), 40, 30), 40, rel_tol=1e-9)
    assert isotropic_ratio(0.0, 0.0, 40, 30) == 0


@pytest.mark.parametrize("shape", [(24, 24), (16, 60), (60, 16)])
def test_a_small_isotropic_increment_gives_ratio_one_with_the_spread_of_its_null(shape):
    u, v = rotation(4, shape[0]), rotation(5, shape[1])
    smaller = min(shape)
    w = u[:, :smaller] @ np.diag(np.linspace(1, 3, smaller)) @ v[:, :smaller].T
    old, null = values(w), fixed_spectrum_null(*shape)
    assert math.isclose(null.mean, 1 / max(shape))
    squares = []
    for d in random_increments(*shape, 1e-5, draws=400, seed=6):
        distance = fixed_spectrum_distance(old, values(w + d.double().numpy()))
        squares.append((distance / 1e-5) ** 2)
    assert abs(np.mean(squares) - null.mean) < 4.5 * null.sd / 20
    assert np.std(squares) == pytest.approx(null.sd, rel=0.15)
    ratios = [isotropic_ratio(x**0.5 * 1e-5, 1e-5, *shape) for x in squares]
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (9, 5), (12, 12)])
def test_the_fast_draw_has_the_law_of_the_singular_values_of_a_gaussian_matrix(shape):
    rng = np.random.default_rng(7)
    fast = np.array([gaussian_singular_values(*shape, rng) for _ in range(2000)])
    plain = np.array([np.linalg.svd(rng.standard_normal(shape), compute_uv=False) for _ in range(2000)])
    assert fast.shape == plain.shape
    assert (np.diff(fast, axis=1) <= 0).all()
    for column in {0, min(shape) // 2, min(shape) - 1}:
        assert stats.ks_2samp(fast[:, column], plain[:, column]).pvalue > 1e-4
    assert stats.ks_2samp(fast.sum(1), plain.sum(1)).pvalue > 1e-4
    assert np.allclose(np.mean(np.sum(fast**2, 1)), shape[0] * shape[1], rtol=0.05)


@pytest.mark.parametrize("shape", [(80, 80), (40, 200)])
def test_sampled_nulls_agree_with_plain_matrices(shape):
    nulls = spectrum_nulls(*shape, draws=200, seed=1)
    assert nulls is spectrum_nulls(*shape, draws=200, seed=1)  # each shape is sampled once
    drawn = [spectrum_readings(values(d.double().numpy())) for d in random_increments(*shape, 1e-4, draws=100, seed=2)]
    for name, null in nulls.items():
        found = np.array([getattr(readings, name) for readings in drawn])
        assert abs(found.mean() - null.mean) < 5 * (null.sd**2 / 100 + null.sd**2 / 200) ** 0.5 + 1e-12
        assert sum(null.distinguishable(x) for x in found) <= 3
        assert null.sd > 0
        one = getattr(spectrum_readings(torch.tensor([1.0, 0.0, 0.0])), name)
        assert null.distinguishable(one)
    assert nulls["participation"].mean == pytest.approx((sum(shape) + 1) / math.prod(shape), rel=0.02)


@pytest.mark.parametrize("shape", [(100, 100), (64, 384), (384, 64), (500, 300)])
def test_the_asymptotic_null_of_the_stable_rank(shape):
    null = stable_rank_null(*shape)
    rng = np.random.default_rng(8)
    drawn = []
    for _ in range(600):
        s = gaussian_singular_values(*shape, rng)
        drawn.append(np.sum(s**2) / s[0] ** 2)
    assert np.mean(drawn) == pytest.approx(null.mean, abs=0.25 * null.sd)
    assert np.std(drawn) == pytest.approx(null.sd, rel=0.15)
    assert null.mean == pytest.approx(math.prod(shape) / (shape[0] ** 0.5 + shape[1] ** 0.5) ** 2, rel=0.12)
    assert stable_rank_null(shape[1], shape[0]).mean == pytest.approx(null.mean, rel=1e-12)


@pytest.mark.parametrize("spectrum", [[1.0], [3.0, 2.0, 1.0], list(np.geomspace(1, 1e-3, 60)), [1.0] * 60])
def test_participation_is_estimated_without_a_decomposition(spectrum):
    s = np.zeros(60)
    s[: len(spectrum)] = spectrum
    d = 1e-6 * rotation(9, 80)[:, :60] @ np.diag(s) @ rotation(10, 60)
    exact = participation_ratio(torch.tensor(s))
    assert math.isclose(exact, np.sum(s**4) / np.sum(s**2) ** 2, rel_tol=1e-12)
    energy = torch.tensor(np.sum(d**2, axis=1))
    for dtype in (torch.float32, torch.float64):
        found = [estimate_participation(torch.tensor(d).to(dtype), energy, seed=seed, name="t") for seed in range(100)]
        assert np.mean(found) == pytest.approx(exact, rel=0.05)
        assert np.std(found) < 0.25 * exact
    again = estimate_participation(torch.tensor(d), energy, seed=3, name="t")
    torch.randn(3)
    assert again == estimate_participation(torch.tensor(d), energy, seed=3, name="t")
    # What the estimate is for: the width of the null moves by less than that of a few draws would.
    wide = [rotated_null("joint", 80, 60, 4, p).sd for p in (exact, again)]
    assert wide[1] == pytest.approx(wide[0], rel=0.12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 4)])
def test_participation_of_small_and_tiny_and_zero_increments(shape):
    d = torch.tensor(random_matrix(11, *shape)).float()
    exact = participation_ratio(values(d.double().numpy()))
    for scaled in (d, d * 1e-15):
        found = estimate_participation(scaled, scaled.double().square().sum(1))
        assert found == pytest.approx(exact, rel=1e-4 if min(shape) == 1 else 0.5)
    assert estimate_participation(torch.zeros(shape), torch.zeros(shape[0]).double()) == 0


def test_energy_rank_of_increments():
    assert energy_rank(torch.tensor([10.0, 1.0, 0.1]), 0.99) == 1
    assert energy_rank(torch.tensor([3.0, 3.0, 0.1]), 0.99) == 2
