"""The laws of chance against Monte Carlo in numpy, scipy's distributions, and hand values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mastlens.analysis.increments.nulls import (
    READINGS,
    Null,
    intersection_null,
    isotropic_null,
    random_increments,
    random_subspaces,
    rotated_null,
    sampled_null,
    turned_null,
)
from mastlens.errors import MastlensError

few = settings(max_examples=25, deadline=None)


def captured(reading, u, d, v):
    """The share of the energy inside, by its definition."""
    inner = u.T @ d @ v
    inside = {
        "joint": inner,
        "left": u.T @ d,
        "right": d @ v,
        "diagonal": np.diag(inner),
    }[reading]
    return np.sum(inside**2) / np.sum(d**2)


def assert_moments(values, null, *, sds=5.0):
    """The sample's mean and variance agree with the null's within ``sds`` of their own standard errors."""
    values = np.asarray(values)
    n = len(values)
    assert abs(values.mean() - null.mean) < sds * null.sd / n**0.5
    centred = (values - null.mean) ** 2
    assert abs(centred.mean() - null.sd**2) < sds * centred.std() / n**0.5


@pytest.mark.parametrize(("rows", "cols", "k", "expected"), [(1536, 1536, 16, 0.999891), (256, 1536, 16, 0.999349)])
def test_isotropic_mean_at_the_published_sizes(rows, cols, k, expected):
    assert round(isotropic_null(k * k, rows * cols, off=True).mean, 6) == expected


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(("rows", "cols", "k"), [(7, 11, 3), (6, 4, 4)])
def test_isotropic_law_is_exact(reading, rows, cols, k):
    rng = np.random.default_rng(1)
    u = np.linalg.qr(rng.standard_normal((rows, rows)))[0][:, :k]
    v = np.linalg.qr(rng.standard_normal((cols, cols)))[0][:, :k]
    drawn = [captured(reading, u, rng.standard_normal((rows, cols)), v) for _ in range(6000)]
    dimension = {"joint": k * k, "left": k * cols, "right": k * rows, "diagonal": k}[reading]
    null = isotropic_null(dimension, rows * cols)
    if dimension == rows * cols:
        assert null.sd == 0
        assert np.allclose(drawn, 1)
        return
    assert_moments(drawn, null)
    law = stats.beta(dimension / 2, (rows * cols - dimension) / 2)
    assert math.isclose(null.sd, law.std(), rel_tol=1e-9)
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-4


@pytest.fixture(scope="module")
def random_bases():
    """12000 uniformly random pairs of bases of a plane, in 6 and in 9 dimensions."""
    rng = np.random.default_rng(2)
    return [np.linalg.qr(rng.standard_normal((12000, size, 2)))[0] for size in (6, 9)]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("spectrum", [[1.0], [3.0, 1.0], [1.0] * 6])
def test_rotated_law_has_the_moments_of_random_rotations(reading, spectrum, random_bases):
    rows, cols, k = 6, 9, 2
    s = np.zeros(rows)
    s[: len(spectrum)] = spectrum
    d = np.zeros((rows, cols))
    d[:, :rows] = np.diag(s)
    drawn = [captured(reading, u, d, v) for u, v in zip(*random_bases, strict=True)]
    participation = np.sum(s**4) / np.sum(s**2) ** 2
    null = rotated_null(reading, rows, cols, k, participation)
    if reading == "left" and len(spectrum) == rows:  # a multiple of an isometry: every turn captures the same
        assert null.sd == 0
        assert np.allclose(drawn, null.mean)
    else:
        assert_moments(drawn, null)
    off = rotated_null(reading, rows, cols, k, participation, off=True)
    assert math.isclose(off.mean, 1 - null.mean, rel_tol=1e-12)
    assert math.isclose(off.sd, null.sd, rel_tol=1e-12)


@pytest.mark.parametrize("reading", READINGS)
def test_rotated_law_of_noise_is_the_isotropic_law(reading):
    rows, cols, k = 300, 200, 5
    rotated = rotated_null(reading, rows, cols, k, (rows + cols + 1) / (rows * cols + 2))
    dimension = {"joint": k * k, "left": k * cols, "right": k * rows, "diagonal": k}[reading]
    isotropic = isotropic_null(dimension, rows * cols)
    assert math.isclose(rotated.mean, isotropic.mean, rel_tol=1e-12)
    assert math.isclose(rotated.sd, isotropic.sd, rel_tol=2e-2)


def test_rotated_law_of_a_rank_one_increment_is_far_wider():
    isotropic = isotropic_null(256, 1536**2)
    rotated = rotated_null("joint", 1536, 1536, 16, 1.0)
    assert rotated.mean == pytest.approx(isotropic.mean, rel=1e-12)
    assert rotated.sd > 5 * isotropic.sd


def test_rotated_law_of_the_smallest_matrices():
    for rows, cols in ((1, 1), (1, 5), (5, 1)):
        for reading in READINGS:
            null = rotated_null(reading, rows, cols, 1, 1.0)
            assert 0 < null.mean <= 1
            assert null.sd >= 0


def test_a_head_is_a_quadratic_form():
    rng = np.random.default_rng(3)
    u = np.linalg.qr(rng.standard_normal((12, 3)))[0][:4]  # a block of rows of an orthonormal basis
    v = np.linalg.qr(rng.standard_normal((8, 3)))[0]
    drawn = [captured("joint", u, rng.standard_normal((4, 8)), v) for _ in range(6000)]
    gram = u @ u.T
    trace, squared = float(np.trace(gram)), float(np.sum(gram**2))
    assert_moments(drawn, isotropic_null(3 * trace, 32, squared=3 * squared))
    rank_1 = np.outer(*(rng.standard_normal(size) for size in (4, 8)))
    turns = (stats.ortho_group.rvs(size, size=6000, random_state=5) for size in (4, 8))
    turned = [captured("joint", u, left @ rank_1 @ right, v) for left, right in zip(*turns, strict=True)]
    rotated = turned_null(4, 8, (trace, squared), (3, 3), 1.0)
    assert_moments(turned, rotated)
    assert rotated.sd > 1.3 * isotropic_null(3 * trace, 32, squared=3 * squared).sd


def test_intersection_within_one_and_many_strata():
    null = intersection_null([30], [50], [200])
    law = stats.hypergeom(200, 50, 30)
    assert math.isclose(null.mean, law.mean())
    assert math.isclose(null.sd, law.std())
    assert null.source == "hypergeometric"
    strata = intersection_null([10, 20, 0, 3], [25, 25, 7, 0], [100, 100, 10, 0])
    assert math.isclose(strata.mean, 2.5 + 5)
    assert math.isclose(strata.sd**2, stats.hypergeom(100, 25, 10).var() + stats.hypergeom(100, 25, 20).var())
    assert strata.source == "magnitude-matched"
    for x in range(3, 14):  # continuity-corrected, the normal tail is close to the exact one
        exact = min(1.0, 2 * min(law.cdf(x), law.sf(x - 1)))
        assert abs(null.p_value(x) - exact) < 0.03


def test_p_values_are_those_of_scipy():
    null = isotropic_null(20, 400, off=True)
    law = stats.beta(190, 10)
    for value in (0.85, 0.93, 0.95, 0.97, 0.99):
        exact = 1.0 if value == null.mean else min(1.0, 2 * min(law.cdf(value), law.sf(value)))
        assert math.isclose(null.p_value(value), exact, rel_tol=1e-9)  # what is expected is no surprise at all
        assert math.isclose(null.z(value), (value - law.mean()) / law.std(), rel_tol=1e-9)
    assert null.interval(0.9) == pytest.approx(law.interval(0.9), rel=1e-9)
    wide = isotropic_null(256, 1536**2, off=True)  # 1 - 1e-4, where a careless tail loses its digits
    inside = stats.beta(128, 1536**2 / 2 - 128)
    value = 1 - float(inside.isf(1e-6))
    assert math.isclose(wide.p_value(value), 2e-6, rel_tol=1e-6)
    assert wide.distinguishable(value)
    assert not wide.distinguishable(wide.mean)
    drawn = sampled_null([1.0, 2.0, 4.0])
    spread = np.std([1, 2, 4], ddof=1) * (1 + 1 / 3) ** 0.5
    assert math.isclose(drawn.p_value(9.0), 2 * stats.t.sf((9 - 7 / 3) / spread, 2))
    low, high = drawn.interval(0.95)
    assert math.isclose(high - low, 2 * stats.t.isf(0.025, 2) * spread)


def test_a_null_without_freedom_distinguishes_nothing():
    fixed = Null(0.0, 0.0, "beta", "isotropic")
    assert math.isnan(fixed.z(1e-16))
    assert fixed.p_value(1e-16) == 1
    assert fixed.interval() == (0.0, 0.0)
    assert not fixed.distinguishable(0.5)
    assert not Null(0.5, 0.1, "normal", "sampled").distinguishable(float("nan"))
    with pytest.raises(ValueError, match="beta"):
        isotropic_null(3, 10).scaled(2)


@few
@given(st.integers(2, 400), st.floats(0.01, 0.99), st.floats(0.001, 0.999))
def test_p_is_a_probability_and_falls_outwards(numel, fraction, value):
    null = isotropic_null(max(1, int(fraction * numel)), numel)
    p = null.p_value(value)
    assert 0 <= p <= 1
    low, high = null.interval(0.999)
    assert 0 <= low <= high <= 1
    if value < low - 1e-9 or value > high + 1e-9:
        assert p <= 0.001 + 1e-6


def test_draws_are_decided_by_seed_and_name_alone():
    def draw(**how):
        return [*random_increments(5, 4, 2.0, draws=3, **how)]

    first = draw(seed=1, name="layer0.q")
    torch.manual_seed(123)
    torch.randn(7)
    again = draw(seed=1, name="layer0.q")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], draw(seed=2, name="layer0.q")[0])
    assert not torch.equal(first[0], draw(seed=1, name="layer1.q")[0])
    assert all(math.isclose(float(torch.linalg.vector_norm(d)), 2.0, rel_tol=1e-5) for d in first)
    for u, v in random_subspaces(9, 5, 3, draws=2, seed=4, name="x"):
        assert torch.allclose(u.T @ u, torch.eye(3, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(v.T @ v, torch.eye(3, dtype=torch.float64), atol=1e-12)


def test_a_sampled_null_agrees_with_the_exact_one():
    drawn = random_increments(8, 6, 2.0, draws=2000, seed=5)
    corner = sampled_null([float((d[:2, :3].double() ** 2).sum() / 4) for d in drawn])
    exact = isotropic_null(6, 48)
    assert abs(corner.mean - exact.mean) < 5 * exact.sd / 2000**0.5
    assert corner.sd == pytest.approx(exact.sd, rel=0.1)
    assert corner.draws == 2000


def test_a_sampled_null_names_what_it_cannot_do():
    with pytest.raises(MastlensError, match="at least 2 draws"):
        sampled_null([1.0])
    with pytest.raises(MastlensError, match="NaN or infinite"):
        sampled_null([1.0, float("nan")])
