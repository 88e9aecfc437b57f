"""Update masks, principal and low-magnitude masks and their overlaps against numpy and scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mastlens.analysis.increments.masks import (
    STRATA,
    changed_fraction,
    count,
    largest_entries,
    mask_overlap,
    principal_mask,
    rounding_strata,
    smallest_entries,
    stratified_counts,
    update_mask,
)
from mastlens.analysis.increments.placement import Rounding, placed_null
from mastlens.errors import MastlensError

seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=25, deadline=None)


def random_matrix(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def oracle_mask(a, b, tolerance=1e-3):
    """The definition of arXiv:2511.08567, entry by entry in float64."""
    a, b = (x.bfloat16().double().numpy() for x in (a, b))
    return ~(np.abs(a - b) <= tolerance * np.maximum(np.abs(a), np.abs(b)))


@pytest.mark.parametrize(
    "dtypes",
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float16", "float64")],
)
@pytest.mark.parametrize("step", [0.0, 1e-5, 3e-3, 0.5])
def test_the_bf16_view_is_its_definition(dtypes, step):
    before = random_matrix(0, 60, 40) * 0.02
    after = before * (1 + step * random_matrix(1, 60, 40))
    before[0, 0] = after[0, 0] = 0.0
    a, b = (torch.tensor(x).to(getattr(torch, d)) for x, d in zip((before, after), dtypes, strict=True))
    mask = update_mask(a, b)
    assert np.array_equal(mask.numpy(), oracle_mask(a, b))
    assert changed_fraction(mask) == oracle_mask(a, b).mean()
    wide = update_mask(a, b, tolerance=0.05)
    assert np.array_equal(wide.numpy(), oracle_mask(a, b, 0.05))
    assert not (wide & ~mask).any()


def test_zeros_of_both_signs_and_steps_of_one_unit():
    a = torch.tensor([[0.0, -0.0, 0.0, 1.0, 1.0, 1024.001, 1e-6, -2.0, 1.0, 2.0]])
    b = torch.tensor([[-0.0, 0.0, 1e-30, -1.0, 1.0, 1024.002, 2e-6, -2.0, 1 + 2**-7, 2 - 2**-7]])
    expected = [[False, False, True, True, False, False, True, False, True, True]]
    assert update_mask(a, b).tolist() == expected
    assert update_mask(b, a).tolist() == expected
    assert update_mask(a.bfloat16(), b.bfloat16()).tolist() == expected
    assert update_mask(a.bfloat16(), b.bfloat16(), view="native").tolist() == expected
    expected[0][5] = True  # stored in float32 they do differ
    assert update_mask(a, b, view="native").tolist() == expected


def test_every_pair_of_neighbouring_bf16_values_differs_and_no_other_tolerance_is_hidden():
    bits = torch.arange(1, 0x7F80, dtype=torch.int16)  # every positive finite value, subnormal ones too
    values = bits.view(torch.bfloat16).float().reshape(1, -1)
    assert bool(update_mask(values[:, :-1], values[:, 1:]).all())
    assert not bool(update_mask(values, values.clone()).any())
    assert np.array_equal(
        update_mask(values[:, :-1], values[:, 1:]).numpy(), oracle_mask(values[:, :-1], values[:, 1:])
    )


def test_two_stored_dtypes_are_compared_in_the_wider_one():
    exact = torch.tensor([[0.5, 0.25, 1.0]])
    assert not update_mask(exact.bfloat16(), exact, view="native").any()
    assert update_mask(exact.bfloat16(), exact + 1e-6, view="native").all()
    assert not update_mask(exact.bfloat16(), exact + 1e-6).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_damaged_matrices_are_named(bad, dtype):
    good = torch.ones(4, 5, dtype=dtype)
    damaged = good.clone()
    damaged[1, 2] = bad
    for call in (
        lambda: update_mask(damaged, good),
        lambda: update_mask(good, damaged, view="native"),
        lambda: smallest_entries(damaged),
        lambda: largest_entries(damaged, 0.5),
    ):
        with pytest.raises(MastlensError, match="1 NaN or infinite entries of 20"):
            call()


def test_infinities_of_both_signs_do_not_hide_in_a_sum_and_large_numbers_are_no_damage():
    with pytest.raises(MastlensError, match="2 NaN or infinite"):
        smallest_entries(torch.tensor([[float("inf"), -float("inf"), 1.0]]))
    assert count(largest_entries(torch.full((3, 4), 60000.0, dtype=torch.float16), 0.5)) == 6


def test_wrong_settings_are_named():
    one = torch.ones(2, 2)
    with pytest.raises(MastlensError, match="native"):
        update_mask(one, one, view="nativ")
    with pytest.raises(MastlensError, match="relative"):
        update_mask(one, one, tolerance=2.0)
    with pytest.raises(MastlensError, match="alpha"):
        smallest_entries(one, 1.5)


@few
@given(seeds, st.floats(0, 1), st.booleans())
def test_ranked_masks_hold_exactly_their_share_with_ties_in_row_order(seed, alpha, coarse):
    values = random_matrix(seed, 13, 17)
    if coarse:
        values = np.round(values)  # many ties, zeros of both signs
    w = torch.tensor(values).float()
    wanted = round(alpha * w.numel())
    order = np.argsort(-np.abs(w.numpy().ravel()), kind="stable")
    expected = np.zeros(w.numel(), dtype=bool)
    expected[order[:wanted]] = True
    assert np.array_equal(largest_entries(w, alpha).numpy().ravel(), expected)
    order = np.argsort(np.abs(w.numpy().ravel()), kind="stable")
    expected[:] = False
    expected[order[:wanted]] = True
    low = smallest_entries(w, alpha)
    assert np.array_equal(low.numpy().ravel(), expected)
    assert torch.equal(smallest_entries(-w, alpha), low)
    assert torch.equal(smallest_entries(w * 4, alpha), low)


def test_ranked_masks_are_the_same_on_every_dtype_that_holds_the_values():
    w = torch.tensor(random_matrix(3, 40, 30)).bfloat16()
    low = smallest_entries(w, 0.3)
    assert torch.equal(low, smallest_entries(w.float(), 0.3))
    assert torch.equal(low, smallest_entries(w.double(), 0.3))


def test_the_principal_mask_ranks_the_truncated_reconstruction():
    w = random_matrix(4, 50, 30)
    u, s, vt = np.linalg.svd(w)
    k = 5
    reconstruction = np.abs(u[:, :k] @ np.diag(s[:k]) @ vt[:k])
    wanted = round(0.3 * w.size)
    expected = reconstruction >= np.sort(reconstruction.ravel())[-wanted]
    mask = principal_mask(torch.tensor(u[:, :k]), torch.tensor(s), torch.tensor(vt[:k].T), alpha=0.3)
    assert np.array_equal(mask.numpy(), expected)
    assert count(mask) == wanted
    assert not np.array_equal(mask.numpy(), largest_entries(torch.tensor(w), 0.3).numpy())


def test_overlap_is_its_definition_with_the_hypergeometric_null():
    rng = np.random.default_rng(5)
    update, reference = rng.random((60, 50)) < 0.2, rng.random((60, 50)) < 0.4
    found = mask_overlap(torch.tensor(update), torch.tensor(reference))
    inside = np.sum(update & reference)
    assert math.isclose(found.overlap, inside / update.sum())
    assert math.isclose(found.density, reference.mean())
    assert math.isclose(found.lift, found.overlap / reference.mean())
    assert found.updated == update.sum()
    law = stats.hypergeom(update.size, reference.sum(), update.sum())
    assert math.isclose(found.null.mean, law.mean() / update.sum())
    assert math.isclose(found.null.sd, law.std() / update.sum())
    exact = min(1.0, 2 * min(law.cdf(inside), law.sf(inside - 1)))
    assert abs(found.null.p_value(found.overlap) - exact) < 0.02
    assert found.matched_null is None


def test_random_masks_give_their_null_and_planted_ones_do_not():
    rng = np.random.default_rng(6)
    reference = torch.tensor(rng.random((40, 40)) < 0.5)
    drawn = []
    for _ in range(400):
        update = np.zeros(1600, dtype=bool)
        update[rng.choice(1600, 300, replace=False)] = True
        drawn.append(mask_overlap(torch.tensor(update.reshape(40, 40)), reference))
    values = np.array([x.overlap for x in drawn])
    null = drawn[0].null
    assert abs(values.mean() - null.mean) < 4.5 * null.sd / 20
    assert values.std() == pytest.approx(null.sd, rel=0.15)
    inside = mask_overlap(reference, reference)
    outside = mask_overlap(~reference, reference)
    assert (inside.overlap, outside.overlap, outside.lift) == (1, 0, 0)
    assert inside.null.distinguishable(1.0)
    assert outside.null.distinguishable(0.0)
    nothing = mask_overlap(torch.zeros_like(reference), reference)
    assert math.isnan(nothing.overlap)
    assert math.isnan(nothing.lift)
    assert not nothing.null.distinguishable(nothing.overlap)


def test_strata_are_the_exponents_and_powers_of_two_stand_apart():
    values = torch.tensor([[0.0, -1.0, 1.5, 2.0, -0.03, 1e-20]])
    _, exponents = np.frexp(values.numpy()[0, 1:])
    edge = [1, 0, 1, 0, 0]
    assert rounding_strata(values)[0, 1:].tolist() == (2 * (exponents - 1 + 127) + edge).tolist()
    assert int(rounding_strata(values)[0, 0]) == 1
    assert torch.equal(rounding_strata(values.bfloat16().float()), rounding_strata(values.bfloat16()))


def test_what_only_the_least_of_a_binade_lets_through_is_not_an_overlap():
    """Weights on bfloat16's grid stored in float16, moved by 0.4 of a spacing: seen at powers of two alone."""
    generator = torch.Generator().manual_seed(0)
    w = (0.015625 + 0.015 * torch.rand(256, 256, generator=generator)).bfloat16().half()
    signs = torch.randint(0, 2, w.shape, generator=generator).mul_(2).sub_(1)
    moved = (w.float() + 0.4 * 2.0**-13 * signs).half()
    update, low = update_mask(w, moved), smallest_entries(w, 0.5)
    assert 0 < changed_fraction(update) < 0.01
    found = mask_overlap(update, low, rounding_strata(w))
    assert found.overlap == 1 and found.null.distinguishable(found.overlap)
    assert found.matched_null is not None and not found.matched_null.distinguishable(found.overlap)
    placed = placed_null(update, low, Rounding.of(w, torch.float16))
    assert not placed.distinguishable(found.overlap)


def test_counts_within_strata():
    rng = np.random.default_rng(7)
    a, b = rng.random((30, 20)) < 0.3, rng.random((30, 20)) < 0.6
    strata = rng.integers(0, STRATA, (30, 20)).astype(np.int16)
    first, second, both, sizes = stratified_counts(torch.tensor(a), torch.tensor(b), torch.tensor(strata))
    for s in range(STRATA):
        here = strata == s
        assert (first[s], second[s], both[s], sizes[s]) == (
            (a & here).sum(), (b & here).sum(), (a & b & here).sum(), here.sum(),
        )  # fmt: skip


def test_small_random_steps_overlap_with_small_entries_and_matching_the_magnitudes_takes_that_out():
    """Isotropic increments have no preference; rounding gives them one, and only the plain null falls for it."""
    rng = np.random.default_rng(8)
    w = torch.tensor(rng.standard_normal((400, 300)) * 0.02).bfloat16()
    moved = (w.float() + torch.tensor(rng.standard_normal((400, 300)) * 2e-5)).bfloat16()
    update = update_mask(w, moved)
    assert 0.02 < changed_fraction(update) < 0.6
    low = mask_overlap(update, smallest_entries(w, 0.5), rounding_strata(w))
    assert low.lift > 1.3
    assert low.null.distinguishable(low.overlap)
    assert low.matched_null is not None
    assert low.matched_null.mean > 0.95 * low.overlap
    anywhere = mask_overlap(update, torch.tensor(rng.random((400, 300)) < 0.5), rounding_strata(w))
    assert anywhere.matched_null is not None
    assert not anywhere.null.distinguishable(anywhere.overlap)
    assert not anywhere.matched_null.distinguishable(anywhere.overlap)
