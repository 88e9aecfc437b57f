"""The fast solvers against full float64 decompositions: their error bounds hold, and where they cannot, they say so."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from mastlens.analysis.increments import krylov
from mastlens.analysis.increments.angles import angle_nulls
from mastlens.analysis.increments.energy import energy_readings, off_principal, principal_products
from mastlens.analysis.increments.krylov import block_krylov, leading_singular_value
from mastlens.analysis.increments.measures import off_principal_error
from mastlens.analysis.increments.singular_values import (
    Spectrum,
    exact_spectrum,
    gram_spectrum,
    leading_eigenpairs,
    spectral_shift,
)
from mastlens.analysis.increments.subspaces import TOLERANCE, principal_angles, principal_subspaces
from mastlens.analysis.increments.weight_basis import weight_basis

SPECTRA = {
    "slow": lambda i: i**-0.3,
    "square root": lambda i: i**-0.5,
    "harmonic": lambda i: 1 / i,
    "exponential": lambda i: np.exp(-i / 60),
    "bulk": lambda i: 1 / i + 0.2 * (1 - i / (1.05 * len(i))),
}


def made(rows, cols, values, seed=0):
    """A float32 matrix with (nearly) these singular values."""
    rng = np.random.default_rng(seed)
    smaller = min(rows, cols)
    left = np.linalg.qr(rng.standard_normal((rows, smaller)))[0]
    right = np.linalg.qr(rng.standard_normal((cols, smaller)))[0]
    return torch.tensor(((left * values) @ right.T).astype(np.float32))


def decaying(rows, cols, kind, seed=0):
    index = np.arange(1, min(rows, cols) + 1, dtype=float)
    jitter = np.exp(0.02 * np.random.default_rng(seed + 99).standard_normal(len(index)))
    return made(rows, cols, SPECTRA[kind](index) * jitter, seed)


def sines(found, weight, k):
    """Sine of the largest angle to the true subspaces, left and right, by a float64 decomposition."""
    u, _, vt = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    pairs = ((found.left, u[:, :k]), (found.right, vt[:k].T))
    return [math.sin(float(subspace_angles(a.numpy(), b).max())) for a, b in pairs]


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", [(420, 420), (400, 700), (700, 400), (96, 300)])
def test_the_subspaces_are_within_their_own_bound(kind, shape):
    weight = decaying(*shape, kind)
    found = principal_subspaces(weight, 16)
    assert found.error <= TOLERANCE
    assert max(sines(found, weight, 16)) <= found.error + 1e-14
    assert found.method == ("gram" if min(shape) < 384 else "krylov")
    values = np.linalg.svd(weight.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(found.singular_values.numpy(), values[:16], rtol=1e-12)
    assert found.gap == pytest.approx((values[15] - values[16]) / values[0], rel=1e-6)
    for basis in (found.left, found.right):
        np.testing.assert_allclose(basis.T @ basis, np.eye(16), atol=1e-12)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-7])
def test_the_bound_holds_wherever_the_iteration_stops(tolerance):
    weight = decaying(420, 500, "slow")
    pairs = next(pairs for pairs in block_krylov(weight, 16, 0) if pairs.error <= tolerance)
    u, _, vt = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    for found, true in ((pairs.left, u[:, :16]), (pairs.right, vt[:16].T)):
        assert math.sin(float(subspace_angles(found[:16].T.numpy(), true).max())) <= pairs.error + 1e-14


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_the_first_bound_holds_at_every_scale_and_the_next_is_better(kind, scale):
    weight = decaying(420, 500, kind) * scale
    u, _, vt = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    rough, better = itertools.islice(block_krylov(weight, 16, 0), 2)
    for pairs in (rough, better):
        for found, true in ((pairs.left, u[:, :16]), (pairs.right, vt[:16].T)):
            assert math.sin(float(subspace_angles(found[:16].T.numpy(), true).max())) <= pairs.error + 1e-14
    assert 0 < rough.error < 1e-3  # what single precision and one step in double precision reach
    assert better.error < rough.error / 2


@pytest.mark.parametrize("kind", ["slow", "harmonic"])
def test_rough_products_are_as_good_as_those_in_single_precision(kind, monkeypatch):
    weight = decaying(420, 500, kind)
    u = np.linalg.svd(weight.double().numpy(), full_matrices=False)[0][:, :16]

    def rounded(x):  # what bfloat16 does, on any processor
        return x.bfloat16().float()

    short = rounded(weight)
    rough = krylov._Operator(lambda x: rounded(rounded(x) @ short), lambda y: rounded(rounded(y) @ short.T))
    for way in (lambda _: rough, krylov._single_precision):
        monkeypatch.setattr(krylov, "_rough", way)
        pairs = list(itertools.islice(block_krylov(weight, 16, 0), 3))
        for found in pairs:
            assert math.sin(float(subspace_angles(found.left[:16].T.numpy(), u).max())) <= found.error + 1e-14
        assert pairs[0].error < 1e-3
        assert pairs[2].error < 1e-3 * pairs[0].error


@pytest.mark.parametrize("rank", [1, 4])
def test_the_leading_singular_value_of_a_low_rank_matrix(rank):
    rng = np.random.default_rng(rank)
    low = torch.tensor(rng.integers(-3, 4, (420, rank)) @ rng.integers(-3, 4, (rank, 400)), dtype=torch.float32)
    assert leading_singular_value(low) == pytest.approx(np.linalg.norm(low.double().numpy(), 2), rel=1e-9)
    assert leading_singular_value(torch.zeros(420, 400)) == 0.0


@pytest.mark.parametrize("count", [1, 5, 40])
def test_the_leading_eigenpairs_are_those_of_numpy(count):
    half = np.random.default_rng(4).standard_normal((40, 50))
    values, vectors = np.linalg.eigh(half @ half.T)
    found, rows = leading_eigenpairs(torch.tensor(half @ half.T), count)
    np.testing.assert_allclose(found, values[::-1][:count], rtol=1e-12)
    overlaps = np.abs(np.sum(rows.numpy() * vectors[:, ::-1][:, :count], axis=0))
    np.testing.assert_allclose(overlaps, 1, atol=1e-10)


def test_without_a_gap_the_exact_decomposition_is_used_and_says_that_nothing_is_defined():
    values = np.linspace(2, 1, 420)
    values[14:20] = values[14]  # s_15 to s_20 are one and the same
    found = principal_subspaces(made(420, 420, values), 16)
    assert found.method == "svd"
    assert found.gap < 1e-6
    assert found.error > TOLERANCE  # not met, and not hidden
    clear = np.linspace(2, 1, 420)
    clear[16:] -= 0.5
    assert principal_subspaces(made(420, 420, clear), 16).method == "krylov"


def test_large_ranks_and_zero_weights_are_decomposed_exactly():
    weight = decaying(400, 400, "harmonic")
    found = principal_subspaces(weight, 100)
    assert found.method == "svd"
    assert max(sines(found, weight, 100)) <= 1e-9
    zero = principal_subspaces(torch.zeros(400, 420), 4)
    assert zero.gap == 0.0 and zero.error == 1.0
    np.testing.assert_allclose(zero.left.T @ zero.left, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 3, 7, 8, 12])
def test_weights_of_a_low_rank(rank):
    """Beyond its rank a weight is rounding: no bound comes out of that, and what is defined is found all the same."""
    k, rng = 8, np.random.default_rng(rank)
    weight = (rng.standard_normal((512, rank)) @ rng.standard_normal((rank, 512))).astype(np.float32)
    delta = rng.standard_normal(weight.shape)
    found = principal_subspaces(torch.tensor(weight), k)
    assert 0 <= found.error <= 1
    assert (found.method == "svd") == (rank < k)
    for side in (found.left, found.right):
        assert torch.allclose(side.T @ side, torch.eye(k, dtype=torch.float64), atol=1e-12)
    u, _, vh = np.linalg.svd(weight.astype(np.float64))
    exact = np.linalg.norm(u[:, :k].T @ delta @ vh[:k].T) ** 2
    inside = np.linalg.norm(found.left.numpy().T @ delta @ found.right.numpy()) ** 2
    if rank >= k:
        assert found.error <= TOLERANCE
        assert inside == pytest.approx(exact, rel=1e-5)
    else:  # the other directions are anybody's; those of the rank are not
        shared = np.linalg.norm(u[:, :rank].T @ found.left.numpy(), axis=1)
        assert shared == pytest.approx(np.ones(rank), abs=1e-6)


def test_nulls_of_angles_where_the_weight_has_fewer_directions_than_k():
    weight = torch.outer(torch.arange(1.0, 25.0), torch.ones(16))
    for before in (torch.zeros(24, 16), weight):
        basis, subspaces = weight_basis(before), principal_subspaces(before, 4)
        assert len(basis.values) < 4
        delta = 1e-3 * torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
        nulls = angle_nulls(before, basis, subspaces, delta)
        assert all(math.isfinite(null.mean) and math.isfinite(null.sd) and null.mean > 0 for null in nulls.values())


def test_the_same_seed_gives_the_same_bits_and_another_the_same_subspace():
    weight = decaying(420, 420, "square root")
    first, again, other = (principal_subspaces(weight, 8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.left, again.left) and torch.equal(first.right, again.right)
    assert not torch.equal(first.left, other.left)
    assert float(principal_angles(first.left, other.left)[-1]) <= first.error + other.error


@pytest.mark.parametrize("kind", ["inside", "mixed", "random"])
def test_the_error_of_off_principal_is_bounded_from_rough_subspaces(kind):
    rng = np.random.default_rng(3)
    weight = decaying(420, 420, "slow")
    u, _, vt = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    delta = rng.standard_normal((420, 420))
    if kind != "random":
        core = u[:, :16] @ rng.standard_normal((16, 16)) @ vt[:16]
        delta = core + (0 if kind == "inside" else 0.05 * delta)
    true = 1 - np.sum((u[:, :16].T @ delta @ vt[:16].T) ** 2) / np.sum(delta**2)
    for tolerance in (1e-2, 1e-4):
        pairs = next(pairs for pairs in block_krylov(weight, 16, 0) if pairs.error <= tolerance)
        left, right = pairs.left[:16].double().T.contiguous(), pairs.right[:16].double().T.contiguous()
        readings = energy_readings(principal_products(torch.tensor(delta), left, right))
        bound = off_principal_error(readings, pairs.error)
        assert abs(readings.joint - true) <= bound + 1e-12
        assert bound <= 2 * pairs.error
        if kind == "inside":  # what is outside of one basis and inside of the other decides, and here is none of it
            assert bound <= 10 * pairs.error**2
        without = replace(readings, right=math.nan)
        assert off_principal_error(without, pairs.error) >= bound  # a side that was not looked at may hold anything
    exact = principal_subspaces(weight, 16)
    assert off_principal(torch.tensor(delta), exact.left, exact.right) == pytest.approx(true, abs=1e-7)


@pytest.mark.parametrize("true", [1e-9, 1e-6, 1e-4, 0.5, math.pi / 2])
def test_all_angles_not_only_the_largest(true):
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 30)))[0]
    wanted = np.array([0.0, true / 4, true / 2, true])
    b = q[:, :4] * np.cos(wanted) + q[:, 10:14] * np.sin(wanted)
    mixed = b @ np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))[0]
    found = principal_angles(torch.tensor(q[:, :4]), torch.tensor(mixed))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-15)
    single = torch.tensor(q[:, :4]).float().T @ torch.tensor(mixed).float()
    if true <= 1e-6:  # what an acos of float32 cosines makes of it
        assert float(torch.acos(torch.linalg.svdvals(single).clamp(max=1)).max()) != pytest.approx(true, rel=0.5)


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-5])
def test_spectral_shift_of_small_increments(kind, size):
    """Differences of nearly equal numbers: the float32 route is wrong by parts in a thousand, this one is not."""
    weight = decaying(300, 400, kind)
    delta = torch.tensor(np.random.default_rng(5).standard_normal((300, 400)), dtype=torch.float32)
    after = weight + delta * (size * weight.norm() / delta.norm())
    s0, s1 = (np.linalg.svd(w.double().numpy(), compute_uv=False) for w in (weight, after))
    true = np.linalg.norm(s1 - s0) / np.linalg.norm(s0)
    shift, error = spectral_shift(gram_spectrum(weight), gram_spectrum(after))
    assert shift == pytest.approx(true, rel=1e-6)
    assert abs(shift / true - 1) <= error + 1e-12
    exact, finer = spectral_shift(exact_spectrum(weight), exact_spectrum(after))
    assert exact == pytest.approx(true, rel=1e-8) and finer <= error + 1e-15
    if size == 1e-5:
        low = [torch.linalg.svdvals(w) for w in (weight, after)]
        single = float((low[1] - low[0]).double().norm() / low[0].double().norm())
        assert abs(single / true - 1) > 1e-4


def test_the_rounding_of_a_gram_spectrum_is_told():
    weight = made(200, 200, np.logspace(0, -9, 200))
    found, true = gram_spectrum(weight), np.linalg.svd(weight.double().numpy(), compute_uv=False)
    assert (np.abs(found.values.numpy() - true) <= found.rounding.numpy() + 1e-15).mean() > 0.99
    assert float(found.rounding[-1]) > 1e4 * float(found.rounding[0])  # squaring costs the small ones their digits
    moved = spectral_shift(found, Spectrum(found.values * (1 + 1e-12), found.rounding))
    assert moved[1] > 1e-6  # so small a shift is not to be had this way


@pytest.mark.parametrize("kind", ["slow", "harmonic", "gauss"])
@pytest.mark.parametrize("shape", [(400, 500), (500, 300), (40, 60)])
def test_the_leading_singular_value(kind, shape):
    if kind == "gauss":
        weight = torch.tensor(np.random.default_rng(7).standard_normal(shape), dtype=torch.float32)
    else:
        weight = decaying(*shape, kind)
    true = np.linalg.norm(weight.double().numpy(), 2)
    assert leading_singular_value(weight) == pytest.approx(true, rel=1e-8)


@pytest.mark.slow
def test_angle_nulls_are_what_increments_with_redrawn_signs_give():
    """Against exact decompositions of such increments, of small angles and of large ones."""
    rng = np.random.default_rng(3)
    k = 5
    weight = torch.tensor(rng.standard_normal((120, 200)), dtype=torch.float32)
    for scale in (1e-5, 3e-2):
        increment = torch.tensor(scale * rng.standard_normal((120, 200)), dtype=torch.float32)
        before = principal_subspaces(weight, k)
        nulls = angle_nulls(weight, weight_basis(weight), before, increment, draws=60, name="test")
        assert set(nulls) == {f"angle_{side}_{which}_deg" for side in ("left", "right") for which in ("max", "mean")}
        drawn = []
        for _ in range(60):
            signs = [torch.tensor(rng.choice([-1.0, 1.0], size), dtype=torch.float32) for size in (120, 200)]
            after = principal_subspaces(weight.double() + signs[0][:, None] * increment.double() * signs[1], k)
            angles = [np.degrees(subspace_angles(getattr(before, s), getattr(after, s))) for s in ("left", "right")]
            drawn.append([f(a) for a in angles for f in (np.max, np.mean)])
        for values, null in zip(np.array(drawn).T, nulls.values(), strict=True):
            assert np.exp(np.log(values).mean()) == pytest.approx(null.mean, rel=0.15)
            assert np.log(values).std() == pytest.approx(null.sd, rel=0.5)
            assert null.law == "lognormal" and null.distinguishable(50 * null.mean)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), rows=st.integers(4, 40), cols=st.integers(4, 40))
def test_transposing_swaps_the_sides(seed, rows, cols):
    weight = torch.tensor(np.random.default_rng(seed).standard_normal((rows, cols)))
    k = 3
    one, other = principal_subspaces(weight, k), principal_subspaces(weight.T.contiguous(), k)
    assert float(principal_angles(one.left, other.right)[-1]) <= 1e-6
    assert float(principal_angles(one.right, other.left)[-1]) <= 1e-6
    np.testing.assert_allclose(one.singular_values, other.singular_values, rtol=1e-10)
    torch.testing.assert_close(gram_spectrum(weight).values, gram_spectrum(weight.T.contiguous()).values)
