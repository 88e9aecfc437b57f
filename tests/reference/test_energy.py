"""Off-principal energy in all its readings against numpy in float64, planted cases, symmetries and its nulls."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mastlens.analysis.increments.energy import (
    energy_nulls,
    energy_readings,
    head_readings,
    off_mask_energy,
    off_principal,
    principal_products,
    right_reading,
)
from mastlens.analysis.increments.nulls import READINGS, random_increments
from mastlens.analysis.increments.ranks import RankRule
from mastlens.errors import MastlensError

seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=25, deadline=None)
ROWS, COLS, K = 150, 97, 8  # more rows than one block of the pass, and not a multiple of it


def random_matrix(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def bases(weight, k):
    u, _, vt = np.linalg.svd(np.asarray(weight, dtype=np.float64))
    return torch.tensor(u[:, :k]), torch.tensor(vt[:k].T)


def oracle(d, u, v):
    d, u, v = (np.asarray(x, dtype=np.float64) for x in (d, u, v))
    total = np.sum(d**2)
    return {
        "joint": 1 - sum((u[:, i] @ d @ v[:, j]) ** 2 for i in range(u.shape[1]) for j in range(v.shape[1])) / total,
        "left": np.sum((d - u @ (u.T @ d)) ** 2) / total,
        "right": np.sum((d - (d @ v) @ v.T) ** 2) / total,
        "diagonal": 1 - sum((u[:, i] @ d @ v[:, i]) ** 2 for i in range(u.shape[1])) / total,
    }


def read(d, u, v):
    return energy_readings(principal_products(torch.as_tensor(d), u, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(ROWS, COLS), (COLS, ROWS), (3, 200), (200, 3)])
def test_every_reading_is_its_definition(shape, dtype):
    k = min(K, *shape)
    u, v = bases(random_matrix(0, *shape), k)
    d = (torch.tensor(random_matrix(1, *shape)) * 1e-5).to(dtype)
    found = read(d, u, v)
    expected = oracle(d, u, v)
    for reading in READINGS:
        assert abs(getattr(found, reading) - expected[reading]) < 1e-12
    assert math.isclose(found.norm, np.linalg.norm(d.double().numpy()), rel_tol=1e-12)
    assert abs(off_principal(d, u, v) - expected["joint"]) < 1e-12


def test_planted_cases_come_out_as_planted():
    u, v = bases(random_matrix(0, ROWS, COLS), COLS)
    inside_u, inside_v, outside_u, outside_v = u[:, :K], v[:, :K], u[:, K:], v[:, K:]
    core = torch.tensor(random_matrix(1, K, K))
    inside = read(inside_u @ core @ inside_v.T, inside_u, inside_v)
    assert max(inside.joint, inside.left, inside.right) < 1e-12
    assert 0.5 < inside.diagonal < 1
    first = read(torch.outer(u[:, 0], v[:, 0]), inside_u, inside_v)
    assert max(first.joint, first.left, first.right, first.diagonal) < 1e-12
    rest = torch.tensor(random_matrix(2, COLS - K, COLS - K))
    outside = read(outside_u @ rest @ outside_v.T, inside_u, inside_v)
    assert min(outside.joint, outside.left, outside.right, outside.diagonal) > 1 - 1e-12
    mixed = read(inside_u @ torch.tensor(random_matrix(3, K, COLS - K)) @ outside_v.T, inside_u, inside_v)
    assert mixed.left < 1e-12
    assert min(mixed.joint, mixed.right, mixed.diagonal) > 1 - 1e-12


def test_a_random_increment_gives_its_null():
    u, v = bases(random_matrix(0, ROWS, COLS), K)
    nulls = energy_nulls(ROWS, COLS, K)
    assert nulls["joint"].mean == 1 - K * K / (ROWS * COLS)
    assert nulls["left"].mean == 1 - K / ROWS
    assert nulls["right"].mean == 1 - K / COLS
    assert nulls["diagonal"].mean == 1 - K / (ROWS * COLS)
    drawn = [read(d, u, v) for d in random_increments(ROWS, COLS, 1e-3, draws=200, seed=0)]
    for reading in READINGS:
        values = np.array([getattr(r, reading) for r in drawn])
        null = nulls[reading]
        assert abs(values.mean() - null.mean) < 4.5 * null.sd / 200**0.5
        assert 0.75 < values.std() / null.sd < 1.3
        assert sum(null.distinguishable(x) for x in values) <= 3


def test_the_rotated_null_forgives_what_few_directions_do_by_chance():
    """Random rank-one increments: against the isotropic law most stand out, against the rotated one none should."""
    u, v = bases(random_matrix(0, ROWS, COLS), K)
    rng = np.random.default_rng(7)
    drawn = [
        off_principal(torch.tensor(np.outer(rng.standard_normal(ROWS), rng.standard_normal(COLS))), u, v)
        for _ in range(200)
    ]
    isotropic, rotated = energy_nulls(ROWS, COLS, K)["joint"], energy_nulls(ROWS, COLS, K, 1.0)["joint"]
    assert sum(isotropic.distinguishable(x) for x in drawn) > 60
    assert sum(rotated.distinguishable(x) for x in drawn) <= 4
    planted = off_principal(torch.outer(u[:, 0], v[:, 0]), u, v)
    assert rotated.distinguishable(planted)


@few
@given(seeds, st.integers(1, 12))
def test_readings_are_ordered_and_bounded(seed, k):
    u, v = bases(random_matrix(seed, 20, 14), k)
    found = read(random_matrix(seed + 1, 20, 14), u, v)
    assert 0 <= max(found.left, found.right) <= found.joint <= found.diagonal <= 1


@few
@given(seeds, st.floats(1e-6, 1e6), st.booleans())
def test_scale_sign_rotation_and_transposition_change_nothing(seed, scale, flip):
    weight, d = random_matrix(seed, 18, 11), random_matrix(seed + 1, 18, 11)
    u, v = bases(weight, 4)
    before = read(d, u, v)
    after = read(d * scale * (-1 if flip else 1), u, v)
    p, q = np.linalg.qr(random_matrix(seed + 2, 18, 18))[0], np.linalg.qr(random_matrix(seed + 3, 11, 11))[0]
    turned = read(p @ d @ q, torch.tensor(p) @ u, torch.tensor(q.T) @ v)
    # Within the subspaces another basis: every reading but the diagonal one stays.
    inner = torch.tensor(np.linalg.qr(random_matrix(seed + 4, 4, 4))[0])
    based = read(d, u @ inner, v)
    swapped = read(d.T.copy(), v, u)
    for reading in READINGS:
        value = getattr(before, reading)
        assert abs(getattr(after, reading) - value) < 1e-10
        assert abs(getattr(turned, reading) - value) < 1e-10
        if reading != "diagonal":
            assert abs(getattr(based, reading) - value) < 1e-10
    assert abs(swapped.joint - before.joint) < 1e-10
    assert abs(swapped.left - before.right) < 1e-10
    assert abs(swapped.right - before.left) < 1e-10
    rows = np.random.default_rng(seed).permutation(18)
    permuted = read(d[rows], u[torch.tensor(rows)], v)
    assert abs(permuted.joint - before.joint) < 1e-10


def test_zero_and_damaged_increments():
    u, v = bases(random_matrix(0, 12, 9), 3)
    zero = read(np.zeros((12, 9)), u, v)
    assert (zero.joint, zero.left, zero.right, zero.diagonal, zero.norm) == (0, 0, 0, 0, 0)
    assert off_principal(torch.zeros(12, 9), u, v) == 0
    assert off_mask_energy(torch.zeros(12, 9), torch.ones(12, 9, dtype=torch.bool))[0] == 0
    for bad in (float("nan"), float("inf"), -float("inf")):
        d = torch.zeros(12, 9)
        d[4, 5] = bad
        for call in (
            lambda d: principal_products(d, u, v),
            lambda d: off_principal(d, u, v),
            lambda d: off_mask_energy(d, torch.ones(12, 9, dtype=torch.bool)),
        ):
            with pytest.raises(MastlensError, match="NaN or infinity"):
                call(d)


def test_the_increment_is_only_read():
    u, v = bases(random_matrix(0, ROWS, COLS), K)
    d = torch.tensor(random_matrix(1, ROWS, COLS))
    before = d.clone()
    products = principal_products(d, u, v)
    head_readings(d[:, :96], principal_products(d[:, :96], u, v[:96]), u, v[:96], heads=4, side="cols")
    off_mask_energy(d, d > 0)
    energy_readings(products)
    assert torch.equal(d, before)


def test_energy_outside_a_coordinate_mask():
    d = random_matrix(0, ROWS, COLS)
    mask = random_matrix(1, ROWS, COLS) > 0.5
    found, null = off_mask_energy(torch.tensor(d), torch.tensor(mask))
    assert abs(found - np.sum(d[~mask] ** 2) / np.sum(d**2)) < 1e-12
    assert math.isclose(null.mean, 1 - mask.mean(), rel_tol=1e-12)
    assert off_mask_energy(torch.tensor(d * mask), torch.tensor(mask))[0] < 1e-12
    assert off_mask_energy(torch.tensor(d * ~mask), torch.tensor(mask))[0] == 1
    drawn = [off_mask_energy(x, torch.tensor(mask))[0] for x in random_increments(ROWS, COLS, 1.0, draws=200, seed=3)]
    assert abs(np.mean(drawn) - null.mean) < 4.5 * null.sd / 200**0.5
    assert 0.75 < np.std(drawn) / null.sd < 1.3


@pytest.mark.parametrize("side", ["rows", "cols"])
def test_heads_against_blocks_cut_out_by_hand(side):
    rows, cols, heads, k = 160, 96, 4, 6
    u, v = bases(random_matrix(0, rows, cols), k)
    d = random_matrix(1, rows, cols)
    axis = 0 if side == "rows" else 1
    found = head_readings(torch.tensor(d), principal_products(torch.tensor(d), u, v), u, v, heads=heads, side=side)
    size = (rows, cols)[axis] // heads
    for h in range(heads):
        block = np.zeros_like(d)
        place = (
            (slice(h * size, (h + 1) * size), slice(None))
            if side == "rows"
            else (slice(None), slice(h * size, (h + 1) * size))
        )
        block[place] = d[place]
        expected = oracle(block, u, v)
        assert abs(float(found.off_principal[h]) - expected["joint"]) < 1e-12
        assert abs(float(found.off_principal_shared[h]) - expected["right" if side == "rows" else "left"]) < 1e-12
        assert math.isclose(float(found.norm[h]), np.linalg.norm(block), rel_tol=1e-12)
        assert math.isclose(float(found.share[h]), np.sum(block**2) / np.sum(d**2), rel_tol=1e-12)
    assert math.isclose(found.share_null.mean, 1 / heads)
    assert math.isclose(found.off_principal_shared_nulls[0].mean, 1 - k / (cols if side == "rows" else rows))


@pytest.mark.parametrize("side", ["rows", "cols"])
def test_the_nulls_of_the_heads_by_monte_carlo(side):
    rows, cols, heads, k = 16, 12, 4, 3
    u, v = bases(random_matrix(0, rows, cols), k)
    drawn = [
        head_readings(d, principal_products(d, u, v), u, v, heads=heads, side=side)
        for d in random_increments(rows, cols, 1.0, draws=600, seed=2)
    ]
    for h in range(heads):
        for values, null in (
            ([float(x.off_principal[h]) for x in drawn], drawn[0].off_principal_nulls[h]),
            ([float(x.off_principal_shared[h]) for x in drawn], drawn[0].off_principal_shared_nulls[h]),
            ([float(x.share[h]) for x in drawn], drawn[0].share_null),
        ):
            assert abs(np.mean(values) - null.mean) < 4.5 * null.sd / 600**0.5
            assert np.std(values) == pytest.approx(null.sd, rel=0.2)


def test_heads_that_moved_nothing_and_heads_that_do_not_fit():
    u, v = bases(random_matrix(0, 16, 12), 3)
    d = torch.tensor(random_matrix(1, 16, 12))
    d[4:8] = 0
    found = head_readings(d, principal_products(d, u, v), u, v, heads=4, side="rows")
    assert float(found.off_principal[1]) == float(found.share[1]) == float(found.norm[1]) == 0
    assert math.isclose(float(found.share.sum()), 1.0)
    with pytest.raises(MastlensError, match="5 heads"):
        head_readings(d, principal_products(d, u, v), u, v, heads=5, side="rows")


@pytest.mark.parametrize(
    ("rule", "kind", "text", "k"),
    [(16, "fixed", "16", 16), ("16", "fixed", "16", 16), ("0.1", "fraction", "0.1", 9), (0.25, "fraction", "0.25", 24),
     ("1.0", "fraction", "1.0", 97), ("0.001", "fraction", "0.001", 1), ("1", "fixed", "1", 1)],
)  # fmt: skip
def test_rank_rules(rule, kind, text, k):
    parsed = RankRule.parse(rule)
    assert (parsed.kind, str(parsed), parsed.needs_spectrum) == (kind, text, False)
    assert parsed.resolve(150, 97) == k
    assert RankRule.parse(str(parsed)) == parsed
    assert RankRule.parse(parsed) is parsed


def test_the_energy_threshold_is_the_smallest_rank_that_reaches_it():
    s = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0])  # squares 9, 4, 1, 1, 1 of 16
    for rule, k in (("50%", 1), ("56.25%", 1), ("56.3%", 2), ("81.25%", 2), ("90%", 4), ("100%", 5)):
        parsed = RankRule.parse(rule)
        assert parsed.needs_spectrum
        assert parsed.resolve(5, 7, s) == k
        assert str(parsed) == rule
    assert RankRule.parse("100%").resolve(5, 5, torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])) == 2
    with pytest.raises(MastlensError, match="zero matrix"):
        RankRule.parse("90%").resolve(3, 3, torch.zeros(3))
    with pytest.raises(ValueError, match="all singular values"):
        RankRule.parse("90%").resolve(3, 3)


@pytest.mark.parametrize("bad", ["0", "-3", "1.5", "0.0", "120%", "0%", "many", "", "nan", "inf", "nan%", True, 16.0])
def test_what_is_no_rank_is_named(bad):
    with pytest.raises(MastlensError, match="is not a rank"):
        RankRule.parse(bad)


def test_a_rank_beyond_the_smaller_dimension_is_refused():
    assert RankRule.parse(97).resolve(150, 97) == 97
    with pytest.raises(MastlensError, match="Rank 98 does not fit a matrix of 150 x 97: from 1 to 97"):
        RankRule.parse(98).resolve(150, 97)


def test_an_increment_may_be_filled_while_it_is_read():
    rng = np.random.default_rng(12)
    d = torch.tensor(rng.standard_normal((300, 20)), dtype=torch.float32)
    u, v = bases(rng.standard_normal((300, 20)), 3)
    filled, seen = torch.full_like(d, math.nan), []

    def fill(rows):
        seen.append(rows)
        filled[rows] = d[rows]

    found, plain = principal_products(filled, u, v, fill=fill), principal_products(d, u, v)
    assert torch.equal(filled, d)
    assert [row for rows in seen for row in range(rows.start, rows.stop)] == list(range(300)) and len(seen) > 1
    for name in ("left", "right", "row_energy", "core"):
        assert torch.equal(getattr(found, name), getattr(plain, name))


def test_the_right_reading_in_single_precision():
    rng = np.random.default_rng(13)
    d, (_, v) = rng.standard_normal((60, 40)), bases(rng.standard_normal((60, 40)), 5)
    true = 1 - np.sum((d @ v.numpy()) ** 2) / np.sum(d**2)
    assert right_reading(torch.tensor(d), v, float(np.linalg.norm(d))) == pytest.approx(true, abs=1e-6)
    assert right_reading(torch.zeros(60, 40), v, 0.0) == 0.0
