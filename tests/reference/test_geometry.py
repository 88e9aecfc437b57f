"""Geometry of increments against numpy's float64 SVD, hand values, bounds and symmetries."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.linalg import subspace_angles

import mastlens as m
from mastlens.analysis.increments.energy import energy_nulls, off_principal
from mastlens.analysis.increments.masks import changed_fraction, update_mask
from mastlens.analysis.increments.singular_values import Spectrum, exact_spectrum, spectral_shift
from mastlens.analysis.increments.spectra import stable_rank as stable_rank_of_values
from mastlens.analysis.increments.subspaces import principal_angles, principal_subspaces

from .plain import projection_names

RANK = 8
COLUMNS = {
    "increment", "layer", "projection", "name", "rows", "cols", "delta_norm", "delta_rms", "relative_norm", "rank",
    "off_principal", "off_principal_null",
}  # fmt: skip
FULL_COLUMNS = {
    "spectral_shift", "angle_left_max_deg", "angle_right_max_deg", "stable_rank", "changed_fraction_bf16",
}  # fmt: skip

seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=25, deadline=None)


def random_matrix(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def random_rotation(seed, n):
    return np.linalg.qr(random_matrix(seed, n, n))[0]


def oracle(weight, increment, k):
    """Off-principal energy, entry by entry of the definition."""
    u, _, vt = np.linalg.svd(np.asarray(weight, dtype=np.float64))
    d = np.asarray(increment, dtype=np.float64)
    return 1 - np.sum((u[:, :k].T @ d @ vt[:k].T) ** 2) / np.sum(d**2)


def ours(weight, increment, k):
    subspaces = principal_subspaces(torch.tensor(weight), k)
    return off_principal(torch.tensor(increment), subspaces.left, subspaces.right)


def off_principal_null(rows, cols, k):
    return energy_nulls(rows, cols, k)["joint"].mean


def stable_rank(matrix):
    return stable_rank_of_values(torch.linalg.svdvals(matrix.double()))


def changed_fraction_bf16(before, after):
    return changed_fraction(update_mask(before, after))


def largest_angle(a, b):
    return float(principal_angles(a, b)[-1])


def shift_of(before, after):
    return spectral_shift(*(Spectrum(values, torch.zeros_like(values)) for values in (before, after)))[0]


@pytest.fixture(scope="module")
def weights(tiny):
    return {
        stage: {name: tensor.numpy() for name, tensor in load_file(folder / "model.safetensors").items()}
        for stage, folder in (("base", tiny.base), ("sft", tiny.sft), ("rlvr", tiny.rlvr))
    }


@pytest.fixture(scope="module")
def full(tiny):
    return m.geometry(base=tiny.base, sft=tiny.sft, rlvr=tiny.rlvr, rank=RANK, full=True, progress=False).table


def steps_of(weights, increment):
    return ("base", "sft") if increment == "sft" else ("sft", "rlvr")


def test_every_contract_column_is_there(tiny, full):
    small = m.geometry(base=tiny.base, sft=tiny.sft, rlvr=tiny.rlvr, rank=RANK, progress=False).table
    assert set(small.columns) >= COLUMNS
    assert set(full.columns) >= COLUMNS | FULL_COLUMNS
    assert not FULL_COLUMNS & set(small.columns)  # they cost a whole spectrum: only on request
    assert set(full["increment"]) == {"sft", "rlvr"}
    for increment in ("sft", "rlvr"):
        assert list(full.loc[full["increment"] == increment, "name"]) == projection_names()
    assert full["rank"].eq(RANK).all()
    assert full["layer"].min() == 0
    assert not full[sorted(COLUMNS | FULL_COLUMNS)].isna().any().any()


def test_off_principal_and_norms_agree_with_a_float64_svd(weights, full):
    assert len(full) == 16
    for row in full.itertuples():
        start, end = steps_of(weights, row.increment)
        before = weights[start][row.name].astype(np.float64)
        delta = weights[end][row.name].astype(np.float64) - before
        assert (row.rows, row.cols) == delta.shape
        assert row.off_principal == pytest.approx(oracle(weights["base"][row.name], delta, RANK), abs=1e-6)
        assert row.off_principal_null == pytest.approx(1 - RANK**2 / delta.size, abs=1e-12)
        # The increment is formed in float32, so the norm agrees to float32 precision and no better.
        assert row.delta_norm == pytest.approx(np.linalg.norm(delta), rel=1e-5)
        assert row.delta_rms == pytest.approx(np.sqrt(np.mean(delta**2)), rel=1e-5)
        assert row.relative_norm == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(before), rel=1e-5)


def test_the_reference_is_the_base_and_not_the_tensor_before(weights, full):
    rows = full[full["increment"] == "rlvr"]
    against_sft = [
        oracle(weights["sft"][r.name], weights["rlvr"][r.name] - weights["sft"][r.name], RANK)
        for r in rows.itertuples()
    ]
    assert np.abs(rows["off_principal"].to_numpy() - against_sft).max() > 1e-3


def test_full_columns_agree_with_numpy_and_scipy(weights, full):
    for row in full.itertuples():
        start, end = steps_of(weights, row.increment)
        before, after = (weights[s][row.name].astype(np.float64) for s in (start, end))
        u0, s0, v0 = np.linalg.svd(before)
        u1, s1, v1 = np.linalg.svd(after)
        assert row.spectral_shift == pytest.approx(np.linalg.norm(s1 - s0) / np.linalg.norm(s0), rel=1e-6)
        left = np.degrees(subspace_angles(u0[:, :RANK], u1[:, :RANK]).max())
        right = np.degrees(subspace_angles(v0[:RANK].T, v1[:RANK].T).max())
        assert row.angle_left_max_deg == pytest.approx(left, rel=1e-5, abs=1e-9)
        assert row.angle_right_max_deg == pytest.approx(right, rel=1e-5, abs=1e-9)
        increment = np.linalg.svd(after - before, compute_uv=False)
        assert row.stable_rank == pytest.approx(np.sum(increment**2) / increment[0] ** 2, rel=1e-5)
        rounded = [torch.tensor(weights[s][row.name]).bfloat16() for s in (start, end)]
        assert row.changed_fraction_bf16 == pytest.approx(float((rounded[0] != rounded[1]).double().mean()))


def test_without_sft_there_is_one_increment_from_the_base(tiny, weights):
    table = m.geometry(base=tiny.base, rlvr=tiny.rlvr, rank=4, progress=False).table
    assert set(table["increment"]) == {"rlvr"}
    assert len(table) == 8
    for row in table.itertuples():
        delta = weights["rlvr"][row.name] - weights["base"][row.name]
        assert row.delta_norm == pytest.approx(np.linalg.norm(delta.astype(np.float64)), rel=1e-5)
        assert row.off_principal == pytest.approx(oracle(weights["base"][row.name], delta, 4), abs=1e-6)


def test_nulls_of_the_published_shapes():
    assert off_principal_null(1536, 1536, 16) == pytest.approx(0.999891, abs=5e-7)
    assert off_principal_null(256, 1536, 16) == pytest.approx(0.999349, abs=5e-7)
    assert off_principal_null(1536, 1536, 16) == 1 - 256 / 1536**2


@pytest.mark.parametrize("shape", [(24, 24), (12, 30), (30, 12)])
def test_off_principal_of_constructed_increments(shape):
    weight = random_matrix(1, *shape)
    u, _, vt = np.linalg.svd(weight)
    k = 3
    assert ours(weight, np.outer(u[:, 0], vt[0]), k) == pytest.approx(0, abs=1e-12)
    outside = u[:, k:] @ random_matrix(2, shape[0] - k, shape[1] - k) @ vt[k:]
    assert ours(weight, outside, k) == pytest.approx(1, abs=1e-12)
    # Half of the energy inside: the joint projection keeps exactly that half.
    mixed = np.outer(u[:, 0], vt[1]) + np.outer(u[:, k], vt[k])
    assert ours(weight, mixed, k) == pytest.approx(0.5, abs=1e-12)
    # In the left subspace but outside the right one: joint, not one-sided.
    assert ours(weight, np.outer(u[:, 0], vt[k]), k) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("shape", [(40, 40), (16, 48), (48, 16), (5, 5)])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_off_principal_of_random_matrices(shape, k):
    weight, increment = random_matrix(3, *shape), random_matrix(4, *shape)
    assert ours(weight, increment, k) == pytest.approx(oracle(weight, increment, k), abs=1e-10)
    assert ours(weight, increment.astype(np.float32), k) == pytest.approx(oracle(weight, increment, k), abs=1e-6)


def test_random_increments_give_the_null():
    weight = random_matrix(5, 32, 48)
    subspaces = principal_subspaces(torch.tensor(weight), 8)
    u, v = subspaces.left, subspaces.right
    draws = [off_principal(torch.tensor(random_matrix(100 + i, 32, 48)), u, v) for i in range(400)]
    standard_error = np.std(draws) / math.sqrt(len(draws))
    assert abs(np.mean(draws) - off_principal_null(32, 48, 8)) < 4 * standard_error
    assert standard_error < 0.001  # else the line above would say nothing
    # An increment made of the weight's own directions is far from it.
    assert off_principal(torch.tensor(weight), u, v) < off_principal_null(32, 48, 8) - 0.2


def test_a_zero_increment_is_zero_everywhere():
    subspaces = principal_subspaces(torch.tensor(random_matrix(6, 8, 8)), 2)
    assert off_principal(torch.zeros(8, 8), subspaces.left, subspaces.right) == 0
    assert stable_rank(torch.zeros(8, 8)) == 0
    weight = torch.tensor(random_matrix(6, 8, 8))
    assert changed_fraction_bf16(weight, weight.clone()) == 0
    assert largest_angle(subspaces.left, subspaces.left.clone()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("rank", [0, -1, 9])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(m.MastlensError):
        principal_subspaces(torch.tensor(random_matrix(7, 8, 12)), rank)
    assert principal_subspaces(torch.tensor(random_matrix(7, 8, 12)), 8).rank == 8


@pytest.mark.parametrize("angle", [1e-8, 1e-6, 1e-3, 0.3, 1.2, math.pi / 2])
def test_angles_down_to_1e_8_rad(angle):
    """The cosine of 1e-8 is 1 in float64, so acos of a cosine would give 0 here."""
    q = random_rotation(8, 20)
    a, b = q[:, :4].copy(), q[:, :4].copy()
    b[:, 0] = math.cos(angle) * q[:, 0] + math.sin(angle) * q[:, 10]
    found = largest_angle(torch.tensor(a), torch.tensor(b))
    assert found == pytest.approx(angle, rel=1e-7, abs=1e-15)
    assert found == pytest.approx(float(subspace_angles(a, b).max()), rel=1e-7, abs=1e-15)
    if angle <= 1e-8:
        assert math.acos(min(1.0, float(a[:, 0] @ b[:, 0]))) != pytest.approx(angle, rel=0.1)


def test_the_angle_is_of_the_subspaces_and_not_of_single_vectors():
    """Vectors turned inside their span: vector by vector they differ, as a subspace they do not."""
    q = random_rotation(9, 12)
    turned = q[:, :3] @ random_rotation(10, 3)
    assert largest_angle(torch.tensor(q[:, :3]), torch.tensor(turned)) < 1e-7
    assert abs(float(q[:, 0] @ turned[:, 0])) < 0.99


def test_spectral_shift_by_hand():
    # |(4, 2) - (3, 1)| / |(3, 1)| = sqrt(2) / sqrt(10)
    found = shift_of(torch.tensor([3.0, 1.0], dtype=torch.float64), torch.tensor([4.0, 2.0], dtype=torch.float64))
    assert found == pytest.approx(math.sqrt(0.2))
    same = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert shift_of(same, same.clone()) == 0


def test_stable_rank_by_hand():
    assert stable_rank(torch.eye(7)) == pytest.approx(7)
    assert stable_rank(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 4))) == pytest.approx(1)
    # singular values 2, 1, 1: (4 + 1 + 1) / 4
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(1.5)


def test_changed_fraction_bf16_by_hand():
    """2.1 of the notes: both are rounded to bfloat16 first; a fixed absolute tolerance errs both ways."""
    before = torch.tensor([[1024.001, 1e-6, 0.0, 0.0, 1.0, 1.0]])
    after = torch.tensor([[1024.002, 2e-6, 0.0, -0.0, 1.0 + 2**-7, 1.0 + 2**-9]])
    # same, changed, same, same (-0 = +0), changed (next bfloat16 after 1), same (a quarter of a step)
    assert changed_fraction_bf16(before, after) == pytest.approx(2 / 6)
    assert changed_fraction_bf16(after, before) == pytest.approx(2 / 6)
    assert changed_fraction_bf16(torch.zeros(1, 2), torch.tensor([[0.0, 1e-30]])) == pytest.approx(0.5)


@few
@given(seed=seeds, scale=st.floats(1e-6, 1e6))
def test_wedin_and_weyl_bounds(seed, scale):
    rng = np.random.default_rng(seed)
    k = 3
    u, v = random_rotation(seed, 10), random_rotation(seed + 1, 14)[:, :10]
    spectrum = np.array([9, 8, 7, 3, 2.5, 2, 1.5, 1, 0.5, 0.2])  # a gap of 4 behind k = 3
    before = u @ np.diag(spectrum) @ v.T
    increment = rng.standard_normal((10, 14))
    increment *= min(scale, 1.0) / np.linalg.norm(increment, 2)
    a = principal_subspaces(torch.tensor(before), k)
    b = principal_subspaces(torch.tensor(before + increment), k)
    size = np.linalg.norm(increment, 2)
    old, new = (exact_spectrum(torch.tensor(matrix)) for matrix in (before, before + increment))
    shift = (new.values - old.values).abs().max()
    assert float(shift) <= size + 1e-9  # Weyl
    moved = spectral_shift(old, new)[0] * np.linalg.norm(spectrum)
    assert moved <= np.linalg.norm(increment) + 1e-9  # Mirsky
    gap = float(old.values[k - 1] - new.values[k])  # Wedin: kept before against dropped after
    for left, right in ((a.left, b.left), (a.right, b.right)):
        assert math.sin(largest_angle(left, right)) <= size / gap + 1e-7


@few
@given(seed=seeds, k=st.integers(1, 6))
def test_rotating_weight_and_increment_together_changes_nothing(seed, k):
    weight, increment = random_matrix(seed, 6, 9), random_matrix(seed + 1, 6, 9)
    p, q = random_rotation(seed + 2, 6), random_rotation(seed + 3, 9)
    expected = ours(weight, increment, k)
    assert ours(p @ weight @ q, p @ increment @ q, k) == pytest.approx(expected, abs=1e-6)
    assert 0 <= expected <= 1


@few
@given(seed=seeds, k=st.integers(1, 5))
def test_permuting_rows_and_columns_changes_nothing(seed, k):
    rng = np.random.default_rng(seed)
    weight, increment = rng.standard_normal((6, 8)), rng.standard_normal((6, 8))
    rows, cols = rng.permutation(6), rng.permutation(8)
    permuted = ours(weight[rows][:, cols], increment[rows][:, cols], k)
    assert permuted == pytest.approx(ours(weight, increment, k), abs=1e-6)
    transposed = ours(weight.T.copy(), increment.T.copy(), k)
    assert transposed == pytest.approx(ours(weight, increment, k), abs=1e-6)


@few
@given(seed=seeds, scale=st.floats(1e-6, 1e6), sign=st.sampled_from([-1, 1]))
def test_scale_and_sign_of_the_increment_change_nothing(seed, scale, sign):
    weight, increment = random_matrix(seed, 7, 5), random_matrix(seed + 1, 7, 5)
    expected = ours(weight, increment, 2)
    assert ours(weight, sign * scale * increment, 2) == pytest.approx(expected, abs=1e-10)
    assert ours(3.0 * weight, increment, 2) == pytest.approx(expected, abs=1e-10)
    before, after = torch.tensor(increment), torch.tensor(sign * scale * increment)
    assert stable_rank(after) == pytest.approx(stable_rank(before), rel=1e-9)
