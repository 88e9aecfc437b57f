"""Objectives against values worked out by hand, and against the traps that ports of them fell into."""

import math

import pytest
import torch

import mastlens as m
from mastlens.unlearning.losses import gradient_ascent, npo, retain_nll, simnpo
from mastlens.unlearning.objectives import (
    OBJECTIVES,
    PRESETS,
    make_objective,
)

from .plain import sigmoid


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_gradient_ascent_and_retain_by_hand():
    sums, counts = vector(-6, -1), vector(4, 1)
    # (-6 - 1) / (4 + 1); the mean of the two token means would be (-1.5 - 1) / 2 = -1.25
    assert float(gradient_ascent(sums, counts)) == pytest.approx(-1.4)
    assert float(retain_nll(sums, counts)) == pytest.approx(1.4)


def test_npo_by_hand():
    # log-ratios -2 and 0; -beta * ratio = 1 and 0; log sigma(1) = -0.3132617, log sigma(0) = -0.6931472;
    # mean = -0.5032044; times -2 / 0.5
    loss = npo(vector(-6, -3), vector(-4, -3), beta=0.5)
    assert float(loss) == pytest.approx(2.0128177, abs=1e-6)


def test_npo_sign_trap():
    """What became less likely lowers the loss; with the sign wrong, -6 against -4 would give 4.0128."""
    less, same, more = (float(npo(vector(s), vector(-4), beta=0.5)) for s in (-6, -4, -2))
    assert less < same < more
    assert same == pytest.approx(2 / 0.5 * math.log(2))
    assert float(npo(vector(-6, -3), vector(-4, -3), beta=0.5)) != pytest.approx(4.0128177, abs=1e-3)


def test_npo_is_summed_and_simnpo_is_per_token():
    """The same text twice as long: NPO sees the ratio double, SimNPO sees no difference."""
    short = npo(vector(-3), vector(-1), beta=0.1)
    long = npo(vector(-6), vector(-2), beta=0.1)
    assert float(short) == pytest.approx(20 * math.log1p(math.exp(-0.2)))
    assert float(long) == pytest.approx(20 * math.log1p(math.exp(-0.4)))
    one = simnpo(vector(-3), vector(2), beta=2.5)
    two = simnpo(vector(-6), vector(4), beta=2.5)
    assert float(one) == pytest.approx(float(two))


def test_npo_mean_is_over_sequences_not_over_one_scalar():
    """One batch-mean loss inside the sigmoid is another objective (3.1, trap 6)."""
    sums, reference = vector(-9, -1), vector(-1, -1)
    right = -2 / 0.5 * (math.log(sigmoid(4)) + math.log(sigmoid(0))) / 2
    wrong = -2 / 0.5 * math.log(sigmoid(2))
    assert float(npo(sums, reference, beta=0.5)) == pytest.approx(right)
    assert right != pytest.approx(wrong, rel=0.1)


def test_simnpo_by_hand():
    # NLL per token 1.5 and 1.0; times 2.5: 3.75 and 2.5; log sigma: -0.0232455 and -0.0788897;
    # mean -0.0510676, times -2 / 2.5 = 0.0408541
    loss = simnpo(vector(-6, -3), vector(4, 3), beta=2.5)
    assert float(loss) == pytest.approx(0.0408541, abs=1e-6)


def test_simnpo_margin_stands_inside_beta():
    """As in the code and not as in the paper: delta = gamma_paper / beta."""
    inside = simnpo(vector(-6), vector(4), beta=2.5, delta=1.0)
    # 2.5 * (1.5 - 1.0) = 1.25
    assert float(inside) == pytest.approx(2 / 2.5 * math.log1p(math.exp(-1.25)))
    outside = 2 / 2.5 * math.log1p(math.exp(-(2.5 * 1.5 - 1.0)))
    assert float(inside) != pytest.approx(outside, rel=0.1)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_npo_gradient_is_the_analytic_weight(beta):
    sums = vector(-12, -3, -0.5).requires_grad_()
    reference = vector(-4, -3, -2)
    npo(sums, reference, beta=beta).backward()
    # d/ds of (2/beta) softplus(beta (s - r)) / B = 2 sigma(beta (s - r)) / B
    expected = [2 * sigmoid(beta * (s - r)) / 3 for s, r in ((-12, -4), (-3, -3), (-0.5, -2))]
    assert sums.grad.tolist() == pytest.approx(expected)


def test_simnpo_gradient_is_the_analytic_weight():
    sums, counts = vector(-12, -3).requires_grad_(), vector(6, 2)
    simnpo(sums, counts, beta=2.5, delta=0.2).backward()
    expected = [2 / n * sigmoid(-2.5 * (-s / n - 0.2)) / 2 for s, n in ((-12, 6), (-3, 2))]
    assert sums.grad.tolist() == pytest.approx(expected)


def test_npo_without_temperature_is_gradient_ascent():
    """Zhang et al., proposition 1: as beta -> 0, loss - 2 log 2 / beta -> mean log-ratio, gradient weight 1."""
    sums, reference = vector(-7, -2).requires_grad_(), vector(-4, -3)
    loss = npo(sums, reference, beta=1e-6)
    assert float(loss.detach()) - 2 * math.log(2) / 1e-6 == pytest.approx(((-7 + 4) + (-2 + 3)) / 2, abs=1e-4)
    loss.backward()
    assert sums.grad.tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    far = vector(-7, -2).requires_grad_()
    npo(far, reference, beta=2.0).backward()
    assert far.grad.tolist() != pytest.approx([0.5, 0.5], abs=0.1)


def test_npo_saturates_without_overflow():
    """A hundred nats down at beta 0.1: weight e^-10, and far beyond it zero, never NaN."""
    sums = vector(-100, -1e5, 1e5).requires_grad_()
    loss = npo(sums, vector(0, 0, 0), beta=0.1)
    assert math.isfinite(float(loss.detach()))
    loss.backward()
    assert float(sums.grad[0]) == pytest.approx(2 * math.exp(-10) / 3, rel=1e-4)
    assert float(sums.grad[1]) == 0
    assert float(sums.grad[2]) == pytest.approx(2 / 3)


def test_the_table_of_objectives():
    assert set(OBJECTIVES) == {"ga", "graddiff", "npo", "simnpo"}
    assert set(PRESETS) == {"mast", "open-unlearning"}
    assert make_objective("npo").needs_reference
    assert not any(make_objective(name).needs_reference for name in ("ga", "graddiff", "simnpo"))
    assert make_objective("graddiff").needs_retain
    assert not make_objective("ga").needs_retain


@pytest.mark.parametrize(
    ("preset", "name", "beta", "delta", "gamma", "alpha"),
    [
        ("mast", "npo", 0.5, 0.0, 1.0, 1.0),
        ("mast", "simnpo", 2.5, 0.0, 1.0, 1.0),
        ("mast", "ga", None, None, 1.0, 1.0),
        ("open-unlearning", "graddiff", None, None, 1.0, 1.0),
        ("open-unlearning", "npo", 0.1, 0.0, 1.0, 1.0),
        ("open-unlearning", "simnpo", 4.5, 0.0, 0.125, 1.0),
    ],
)
def test_presets(preset, name, beta, delta, gamma, alpha):
    made = make_objective(name, preset=preset)
    assert (made.gamma, made.alpha) == (gamma, alpha)
    if beta is not None:
        assert (made.beta, made.delta) == (beta, delta)


def test_what_is_given_goes_before_the_preset():
    made = make_objective("simnpo", preset="open-unlearning", beta=3.0, delta=0.1, gamma=0.5, retain_weight=2.0)
    assert (made.beta, made.delta, made.gamma, made.alpha) == (3.0, 0.1, 0.5, 2.0)
    kept = make_objective("simnpo", preset="open-unlearning", retain_weight=2.0)
    assert (kept.beta, kept.gamma, kept.alpha) == (4.5, 0.125, 2.0)
    assert make_objective("simnpo", preset="open-unlearning").alpha == 1.0  # the preset itself is untouched


def test_forget_loss_is_the_pure_function():
    sums, counts, reference = vector(-6, -1), vector(4, 1), vector(-5, -2)
    for name, expected in {
        "ga": gradient_ascent(sums, counts),
        "graddiff": gradient_ascent(sums, counts),
        "npo": npo(sums, reference, beta=0.5),
        "simnpo": simnpo(sums, counts, beta=2.5, delta=0.0),
    }.items():
        made = make_objective(name, preset="mast", gamma=0.3)  # gamma weighs the term outside
        assert float(made.forget_loss(sums, counts, reference)) == pytest.approx(float(expected)), name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["beta", "delta", "gamma", "retain_weight"])
def test_coefficients_that_are_no_numbers(which, value):
    with pytest.raises(m.MastlensError) as error:
        make_objective("simnpo", **{which: value})
    assert which in str(error.value).replace("-", "_").replace(" ", "_")


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_beta_must_be_positive(beta):
    with pytest.raises(m.MastlensError, match="beta"):
        make_objective("npo", beta=beta)
    assert make_objective("npo", beta=0.1, retain_weight=0.0).alpha == 0.0  # zero is a weight like any other
