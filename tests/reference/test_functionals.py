"""Numbers that hang on many items: their influences against leaving items out, their intervals against simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from mastlens.errors import MastlensError, NotTogether
from mastlens.statistics import auc_functional, auc_interval, harmonic_mean, mean_functional, sign_flip_p

FEW = st.lists(st.integers(0, 6), min_size=3, max_size=8)


@given(FEW, FEW)
def test_an_area_is_the_share_of_pairs_in_order(low, high):
    found = auc_functional(low, high)
    pairs = [(b > a) + 0.5 * (b == a) for a in low for b in high]
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.value == pytest.approx(roc_auc_score([0] * len(low) + [1] * len(high), low + high))
    assert all(abs(one.sum()) < 1e-9 for one in found.influence.values())


def test_the_error_of_an_area_is_delongs():
    rng = np.random.default_rng(0)
    low, high = rng.normal(size=9), rng.normal(0.7, 1, size=7)
    above = (high[None] > low[:, None]).astype(float)
    expected = above.mean(1).var(ddof=1) / 9 + above.mean(0).var(ddof=1) / 7
    assert auc_functional(low, high).error == pytest.approx(expected**0.5)


def test_the_difference_of_two_areas_on_the_same_items_is_paired():
    rng = np.random.default_rng(1)
    low, high = rng.normal(size=40), rng.normal(1, 1, size=40)
    one = auc_functional(low, high)
    same = one.minus(one)
    assert (same.value, same.error) == (0, 0)
    near = auc_functional(low + 0.01 * rng.normal(size=40), high).minus(one)
    apart = auc_functional(rng.normal(size=40), rng.normal(1, 1, size=40))
    assert near.error < 0.2 * (one.error**2 + apart.error**2) ** 0.5
    with pytest.raises(NotTogether, match="40 and of 39"):
        one.minus(auc_functional(low[:-1], high))


def test_a_harmonic_mean_is_scipys_and_its_error_that_of_resampling():
    rng = np.random.default_rng(2)
    parts = [rng.beta(4, 2, size=200) for _ in range(3)]
    found = harmonic_mean([mean_functional(part, f"set {i}") for i, part in enumerate(parts)])
    assert found.value == pytest.approx(stats.hmean([part.mean() for part in parts]))
    drawn = [stats.hmean([rng.choice(part, 200).mean() for part in parts]) for _ in range(3000)]
    assert found.error == pytest.approx(np.std(drawn), rel=0.06)
    assert harmonic_mean([mean_functional([0.0, 0.0, 0.0]), mean_functional([1.0, 1.0, 1.0])]).value == 0
    assert np.isnan(harmonic_mean([mean_functional([np.nan])]).value)


def test_parts_of_one_set_of_items_move_together():
    rng = np.random.default_rng(3)
    part = rng.beta(4, 2, size=300)
    together = harmonic_mean([mean_functional(part, "one"), mean_functional(part, "one")])
    alone = mean_functional(part, "one")
    assert together.value == pytest.approx(alone.value)
    assert together.error == pytest.approx(alone.error)


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_interval_of_an_area_covers_it(shift):
    rng = np.random.default_rng(4)
    truth = stats.norm.cdf(shift / 2**0.5)
    inside = 0
    for _ in range(400):
        interval = auc_interval(auc_functional(rng.normal(size=25), rng.normal(shift, 1, size=25)))
        inside += interval.low <= truth <= interval.high
        assert 0 <= interval.low <= interval.high <= 1
    assert inside / 400 > 0.925


def clustered_scores(rng, prompts, each, shift, *, mixed):
    """Scores of responses to prompts, alike by prompt; of either class by prompt, or of both by response."""
    prompt = np.repeat(np.arange(prompts), each)
    high = rng.random(len(prompt)) < 0.5 if mixed else prompt % 2 == 1
    scores = rng.normal(size=prompts)[prompt] + 0.5 * rng.normal(size=len(prompt)) + shift * high
    return scores, high, prompt


def of_clusters(scores, high, prompt):
    return auc_functional(scores[~high], scores[high]).clustered({"low": prompt[~high], "high": prompt[high]})


def test_items_that_are_repeated_say_nothing_more():
    rng = np.random.default_rng(5)
    low, high = rng.normal(size=12), rng.normal(0.7, 1, size=9)
    once = auc_functional(low, high)
    alone = once.clustered({"low": range(12), "high": range(12, 21)})
    assert (alone.value, alone.freedom, alone.worth) == (once.value, 9, 9)
    assert alone.error == pytest.approx(once.error)
    thrice = auc_functional(np.repeat(low, 3), np.repeat(high, 3))
    kept = thrice.clustered({"low": np.repeat(np.arange(12), 3), "high": np.repeat(np.arange(12, 21), 3)})
    assert (kept.value, kept.error) == pytest.approx((once.value, once.error))
    assert [*vars(auc_interval(kept)).values()] == pytest.approx([*vars(auc_interval(once)).values()])
    assert thrice.error < 0.65 * once.error
    assert kept.scaled(2.0).error == pytest.approx(2 * once.error)
    with pytest.raises(NotTogether, match="12 items"):
        once.clustered({"low": range(11), "high": range(9)})
    with pytest.raises(NotTogether, match="other clusters"):
        kept.minus(thrice)


@pytest.mark.parametrize("mixed", [True, False])
def test_the_error_of_clusters_is_that_of_drawing_whole_clusters(mixed):
    rng = np.random.default_rng(6)
    one, high, prompt = clustered_scores(rng, 60, 4, 0.8, mixed=mixed)
    other = one + 0.4 * rng.normal(size=60)[prompt]
    area = of_clusters(one, high, prompt)
    change = of_clusters(other, high, prompt).minus(area)
    places = [np.flatnonzero(prompt == number) for number in range(60)]
    areas, changes = [], []
    for _ in range(600):
        drawn = np.concatenate([places[number] for number in rng.integers(0, 60, 60)])
        above = high[drawn]
        found = [(s[drawn][above][:, None] > s[drawn][~above]).mean() for s in (one, other)]
        areas.append(found[0])
        changes.append(found[1] - found[0])
    assert area.error == pytest.approx(np.std(areas), rel=0.12)
    assert change.error == pytest.approx(np.std(changes), rel=0.12)


@pytest.mark.parametrize("mixed", [True, False])
def test_the_interval_of_clusters_covers_and_that_of_their_items_does_not(mixed):
    rng = np.random.default_rng(7)
    truth = stats.norm.cdf(0.8 / (2 * (1 + 0.25)) ** 0.5)
    inside, naive, paired, draws = 0, 0, 0, 300
    for _ in range(draws):
        scores, high, prompt = clustered_scores(rng, 24, 6, 0.8, mixed=mixed)
        area = of_clusters(scores, high, prompt)
        ends = [auc_interval(one) for one in (area, auc_functional(scores[~high], scores[high]))]
        inside += ends[0].low <= truth <= ends[0].high
        naive += ends[1].low <= truth <= ends[1].high
        if not mixed:  # the same labels again
            other = clustered_scores(rng, 24, 6, 0.8, mixed=mixed)[0]
            change = of_clusters(other, high, prompt).minus(area).interval()
            paired += change.low <= 0 <= change.high
    assert inside / draws > 0.925
    if not mixed:  # prompts with responses of both kinds compare these with each other, whatever the prompt does
        assert naive / draws < 0.8
        assert paired / draws > 0.92


def test_an_area_of_pairs_that_are_all_in_order_has_an_interval():
    interval = auc_interval(auc_functional(range(8), range(10, 18)))
    assert interval.high == 1
    assert 0.5 < interval.low < 0.8
    assert np.isnan(auc_interval(auc_functional([1, 2], [3, 4])).low)


def test_an_area_needs_scores():
    with pytest.raises(MastlensError, match="at least one item on either side"):
        auc_functional([], [1])
    with pytest.raises(MastlensError, match="each with a score"):
        auc_functional([np.nan], [1])


def test_exchanging_labels_is_exact_for_few_items_and_drawn_for_many():
    changes = [3.0, 1.0, -0.5, 2.0, 0.0]
    signs = itertools.product([1, -1], repeat=4)
    moved = np.array([3.0, 1.0, -0.5, 2.0])
    expected = np.mean([abs(np.dot(sign, moved)) >= abs(moved.sum()) - 1e-9 for sign in signs])
    assert sign_flip_p(changes) == pytest.approx(expected)
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1
    assert np.isnan(sign_flip_p([np.nan]))
    rng = np.random.default_rng(5)
    many = rng.normal(0.25, 1, size=80)
    assert sign_flip_p(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.015)
    assert sign_flip_p(many) == sign_flip_p(many)
    assert sign_flip_p(np.r_[many, np.nan]) == sign_flip_p(many)
