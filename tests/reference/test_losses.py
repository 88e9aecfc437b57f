"""Losses on logits and activations against values worked out by hand, and the traps that other code fell into."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mastlens.models.divergence import forward_kl
from mastlens.models.likelihood import TokenLogprobs
from mastlens.unlearning.control import control_vector, unit_direction
from mastlens.unlearning.losses import (
    after_first,
    anchor,
    ce_u,
    dpo,
    entropy,
    listed_probability,
    satimp,
    sequence_mean,
    steer,
    undial,
    weighted_sums,
    wga,
)
from mastlens.unlearning.scorer import Scorer
from mastlens.unlearning.token_weights import TokenWeights

from .plain import sigmoid

FLOATS = st.floats(-6, 6, allow_nan=False, width=32)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_by_hand():
    # log-ratios: refusal -1 - (-2) = 1, solution -6 - (-4) = -2; margin 3; beta 0.5: log sigma(1.5) = -0.2014133
    loss = dpo(vector(-1), vector(-2), vector(-6), vector(-4), beta=0.5)
    assert float(loss) == pytest.approx(2 / 0.5 * 0.2014133, abs=1e-6)
    # the same two the wrong way round: log sigma(-1.5)
    assert float(dpo(vector(-6), vector(-4), vector(-1), vector(-2), beta=0.5)) == pytest.approx(4 * 1.7014133)


def test_dpo_gradient_raises_the_refusal_and_lowers_the_solution():
    refusal, solution = vector(-3).requires_grad_(), vector(-3).requires_grad_()
    dpo(refusal, vector(-3), solution, vector(-3), beta=0.1).backward()
    assert refusal.grad.item() == pytest.approx(-2 * sigmoid(0))
    assert solution.grad.item() == pytest.approx(2 * sigmoid(0))


def test_wga_weight_is_a_constant_to_the_gradient():
    values = vector(-0.5, -2).requires_grad_()
    loss = wga(values, beta=2.0)
    weights = [math.exp(-1), math.exp(-4)]
    assert float(loss.detach()) == pytest.approx((weights[0] * -0.5 + weights[1] * -2) / 2)
    loss.backward()
    # with a gradient through p^beta it would be p^beta (1 + beta log p): 0 at log p = -1/2
    assert values.grad.tolist() == pytest.approx([w / 2 for w in weights])


def test_wga_with_token_weights_has_them_in_the_exponent_too():
    values, weights = vector(-0.5, -2), vector(0.5, 0.0)
    # 0.5 * p^(beta * 0.5) * log p = 0.5 * exp(-0.5) * -0.5; a token of weight 0 adds nothing
    assert float(wga(values, beta=2.0, weights=weights)) == pytest.approx(0.5 * math.exp(-0.5) * -0.5 / 2)


def test_satimp_by_hand_and_at_the_ends():
    p = 0.25
    assert float(satimp(vector(math.log(p)), beta1=2.0, beta2=1.0)) == pytest.approx(p**2 * (1 - p) * math.log(p))
    certain = vector(0.0).requires_grad_()
    satimp(certain, beta1=5.0, beta2=0.5).backward()
    assert certain.grad.item() == 0.0  # not NaN


def test_undial_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float64).requires_grad_()
    reference = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
    loss = undial(logits, reference, torch.tensor([0]), beta=2.0)
    assert float(loss.detach()) == pytest.approx(math.log(3))  # the teacher is uniform then, and so is the student
    loss.sum().backward()
    assert logits.grad.abs().max().item() == pytest.approx(0, abs=1e-12)
    lowered = undial(logits, reference, torch.tensor([0]), beta=10.0)
    lowered.sum().backward()
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]  # descending takes the memorised logit down, the others up


def test_ce_u_by_hand_and_its_teacher_is_a_constant():
    logits = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).requires_grad_()
    loss = ce_u(logits, torch.tensor([0]))
    assert float(loss.detach()) == pytest.approx(math.log(2 + math.e))  # teacher half and half on the two zeros
    loss.sum().backward()
    student = logits.detach().softmax(dim=1)[0]
    assert logits.grad[0].tolist() == pytest.approx([float(student[0]), *(float(s) - 0.5 for s in student[1:])])


def test_after_first():
    rows = torch.tensor([0, 0, 0, 2, 2, 3])
    assert after_first(rows).tolist() == [False, True, True, False, True, False]


@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS), min_size=1, max_size=4))
def test_forward_kl_is_torchs_and_never_negative(rows):
    reference = torch.tensor(rows, dtype=torch.float64)
    logits = reference.flip(1) + 0.3
    found = forward_kl(logits, reference)
    expected = torch.nn.functional.kl_div(
        logits.log_softmax(1), reference.log_softmax(1), log_target=True, reduction="none"
    ).sum(1)
    assert torch.allclose(found, expected, atol=1e-12)
    assert float(found.min()) >= -1e-12
    assert float(forward_kl(reference + 5, reference).abs().max()) <= 1e-12  # a shift of all logits is no change


def test_forward_kl_of_a_forbidden_token_is_finite():
    reference = torch.tensor([[0.0, 0.0, -math.inf]])
    assert float(forward_kl(torch.zeros(1, 3), reference)) == pytest.approx(math.log(3 / 2))


def test_steer_and_anchor_are_means_over_dimensions_tokens_and_texts():
    states, control = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, 0.0])
    alone, apart = torch.tensor([0, 0]), torch.tensor([0, 1])
    assert float(steer(states, control, alone, 1)) == pytest.approx((0 + 4 + 4 + 16) / 4)
    assert float(steer(states, control, apart, 2)) == pytest.approx((0 + 4 + 4 + 16) / 4)
    assert float(steer(states, control, apart, 2, shares=torch.tensor([0.25, 0.75]))) == pytest.approx(0.5 + 7.5)
    assert float(anchor(states, states + 2, alone, 1)) == pytest.approx(4.0)


def test_a_text_counts_once_however_long_it_is():
    """Sums 10 and 4 over 5 tokens and 1: 3, and not 4.2, which a missing axis gives, nor 14 / 6 over all tokens."""
    values, rows = torch.tensor([2.0] * 5 + [4.0]), torch.tensor([0] * 5 + [1])
    sums, counts = torch.tensor([10.0, 4.0]), torch.tensor([[5.0], [1.0]])
    assert float((sums / counts).mean()) == pytest.approx(4.2)
    assert float(sequence_mean(values, rows, 2)) == pytest.approx(3.0)
    even = torch.full((6,), 0.3)
    assert float(sequence_mean(values, rows, 2, weights=even)) == pytest.approx(3.0)
    uneven = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.5])
    assert float(sequence_mean(torch.arange(6.0), rows, 2, weights=uneven)) == pytest.approx((2.0 + 5.0) / 2)


def test_the_probability_of_listed_tokens_by_hand():
    logits = torch.tensor([[0.0, math.log(2.0), math.log(5.0)], [0.0, 0.0, 0.0]])
    assert listed_probability(logits, torch.tensor([0, 2])).tolist() == pytest.approx([6 / 16, 1 / 3])


def test_the_control_vector_is_of_the_seed_and_the_median_norm():
    u = unit_direction(64, 3)
    assert float(u.norm()) == pytest.approx(1)
    assert bool((u >= 0).all())
    assert torch.equal(u, unit_direction(64, 3))
    assert not torch.equal(u, unit_direction(64, 4))
    states = torch.zeros(3, 64)
    states[:, 0] = torch.tensor([1.0, 10.0, 100.0])
    assert float(control_vector(states, 2.0, 3).norm()) == pytest.approx(20.0)
    assert float(control_vector(states, 2.0, 3, norm=6.5).norm()) == pytest.approx(6.5)


def test_weighted_sums_by_hand():
    logprobs = TokenLogprobs(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0, 0, 1]), 2)
    weights = torch.tensor([0.5, 1.0, 0.25])
    assert weighted_sums(logprobs, None, rescaled=True).tolist() == [-3.0, -4.0]
    assert weighted_sums(logprobs, weights, rescaled=False).tolist() == [-2.5, -1.0]
    assert weighted_sums(logprobs, weights, rescaled=True).tolist() == pytest.approx([-2.5 * 2 / 1.5, -1.0 / 0.25])


def test_entropy_and_regulariser_by_hand():
    assert entropy(torch.tensor([0.5, 0.0, 1.0])).tolist() == pytest.approx([math.log(2), 0, 0], abs=2e-5)
    settings = TokenWeights(budget=0.2, budget_weight=15.0, entropy_weight=2.0, decay=0.5)
    value = settings.regulariser(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 2.0]))
    assert float(value) == pytest.approx(2 * math.log(2) + 15 * 0.09 + 0.5 * 5)


def test_the_scorer_starts_at_a_half_and_learns_which_tokens_matter():
    """Tokens 0 and 1 differ in their states; forgetting pays at 0 alone, and the budget asks for a half."""
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    values = torch.tensor([-1.0, -0.01])
    scorer = Scorer(2, TokenWeights(budget=0.5, lr=0.1, decay=0.01), torch.device("cpu"))
    assert scorer.weights(hidden).tolist() == [0.5, 0.5]
    for _ in range(60):
        scorer.learn(hidden, lambda weights: wga(values, beta=0.5, weights=weights))
    first, second = scorer.weights(hidden).tolist()
    assert first > 0.7 > 0.3 > second
    assert not scorer.weights(hidden).requires_grad
